from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dcrafter.config import MODELS
from dcrafter.errors import WeightsError
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.weights import cache
from dcrafter.weights import convert as convert_module
from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint
from dcrafter.weights.convert import check_whole, convert
from dcrafter.weights.families import FAMILIES

CONFIG = MODELS["256"]
COMPONENTS = FAMILIES["256"].components


def written(tensors: Mapping[str, torch.Tensor], folder: Path, width: str | None = None) -> dict[str, torch.Tensor]:
    """What a file of these tensors has, read by safetensors' own code."""
    path = folder / "x.safetensors"
    for _ in convert(Checkpoint(Path("original"), CONFIG, tensors), path, width=width):
        pass
    assert [file.name for file in folder.iterdir()] == ["x.safetensors"]
    return load_file(path)


def is_intact(path: Path) -> bool:
    steps = cache.is_intact(path)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return bool(done.value)


normal = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 0.02


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (normal, torch.float16),
        (torch.zeros(1000), torch.float16),
        (normal.double(), torch.float16),
        (torch.tensor([65504.0, -65504.0]), torch.float16),
        (torch.tensor([1.0, 65505.0]), torch.float32),
        (torch.tensor([1.0, -1e9]), torch.float32),
        (normal * 1e-5, torch.float32),
        (normal * 1e-30, torch.float32),
        (torch.where(torch.arange(1000) < 5, 1e-9, normal), torch.float16),  # 0.5 % of it
        (torch.where(torch.arange(1000) < 15, 1e-9, normal), torch.float32),  # 1.5 % of it
        (torch.where(torch.arange(1000) < 15, 0.0, normal), torch.float16),
        (torch.where(torch.arange(1000) < 990, 0.0, 1e-9), torch.float32),  # all that is not zero
        (normal.bfloat16(), torch.bfloat16),
        (normal.half(), torch.float16),
        (normal.to(torch.float8_e4m3fn), torch.float8_e4m3fn),
        (torch.arange(5), torch.int64),
    ],
)
def test_each_tensor_keeps_what_float16_cannot_hold(values: torch.Tensor, dtype: torch.dtype, tmp_path: Path) -> None:
    found = written({"x": values}, tmp_path)["x"]
    assert found.dtype == dtype
    torch.testing.assert_close(found, values.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_the_limit_of_small_values_is_where_they_lose_a_sixteenth() -> None:
    least = 2.0**-21
    for value, lost in ((least * 0.93, True), (least, False)):
        around = torch.linspace(value, value * 1.05, 200)
        error = ((around.half().float() - around).abs() / around).max()
        assert (error > convert_module.LOST) == lost
        assert convert_module._survives(torch.full((10,), value), torch.float16) != lost


@pytest.mark.parametrize("width", ["float32", "float16", "bfloat16"])
def test_a_width_that_is_asked_for(width: str, tmp_path: Path) -> None:
    tensors = {"a": normal, "b": normal.bfloat16(), "c": torch.tensor([1e9]), "d": torch.arange(3)}
    found = written(tensors, tmp_path, width)
    wanted = getattr(torch, width)
    assert [found[key].dtype for key in "abd"] == [wanted, wanted, torch.int64]
    assert found["c"].dtype == (torch.float32 if width == "float16" else wanted)


def test_mixed_types_odd_lengths_and_every_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "CHUNK", 7)
    tensors = {
        "odd": torch.ones(3),
        "wide": torch.full((4, 3), 1e9),
        "scalar": torch.tensor(0.5),
        "wide odd": torch.full((5,), 1e9),
        "empty": torch.zeros(0, 4),
        "strided": normal[:100].reshape(10, 10).T,
        "expanded": torch.ones(()).expand(3, 4),
        "../../etc/passwd": torch.ones(2),  # a key is never a path
    }
    found = written(tensors, tmp_path)
    assert set(found) == set(tensors)
    for key, value in tensors.items():
        assert found[key].shape == value.shape
        assert torch.equal(found[key], value.to(found[key].dtype))
    assert is_intact(tmp_path / "x.safetensors")
    header, start = cache.read_header(tmp_path / "x.safetensors")
    assert start % convert_module.ALIGNMENT == 0
    places = {key: each["data_offsets"][0] for key, each in header.items() if key != "__metadata__"}
    assert places["wide"] % 4 == places["strided"] % 2 == 0


def test_the_header_says_what_it_is_and_was(tmp_path: Path) -> None:
    written({"a": normal, "b": normal.bfloat16()}, tmp_path)
    path = tmp_path / "x.safetensors"
    assert cache.source_of(path) == {"types": ["bfloat16", "float32"], "store": None}
    assert open_checkpoint(path).config == CONFIG
    with safe_open(path, "pt") as file:
        digest = file.metadata()["sha256"]
    header, start = cache.read_header(path)
    assert cache.seal(header, hashlib.sha256(path.read_bytes()[start:])) == digest
    path.write_bytes(path.read_bytes().replace(b'"height": 256', b'"height": 257'))
    path.write_bytes(path.read_bytes().replace(b'\\"height\\": 256', b'\\"height\\": 257'))
    assert not is_intact(path)


def test_progress_is_of_bytes_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "CHUNK", 400)
    steps = list(convert(Checkpoint(Path("x"), CONFIG, {"a": normal}), tmp_path / "x.safetensors"))
    assert [(step.done, step.total) for step in steps] == [(1600, 4000), (3200, 4000), (4000, 4000)]


def test_an_interrupted_conversion_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("before")
    steps = convert(Checkpoint(Path("x"), CONFIG, {"a": normal}), path)
    next(steps)
    steps.close()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.safetensors", "before")]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "open_own", lambda *_: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(WeightsError, match=r"No space left on device.*GB are free"):
        list(convert(Checkpoint(Path("x"), CONFIG, {"a": normal}), tmp_path / "x.safetensors"))
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "cache" / "x.safetensors.part").symlink_to(tmp_path / "letter")
    written({"a": normal}, tmp_path / "cache")
    assert (tmp_path / "letter").read_text() == "dear"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    bad = torch.ones(100)
    bad[57] = value
    with pytest.raises(WeightsError, match="NaN or infinite values, in b"):
        written({"a": normal, "b": bad.to(dtype)}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pruned_file_and_types_for_something_else(tmp_path: Path) -> None:
    whole = {f"{name}.x": normal for name in COMPONENTS}
    check_whole(Checkpoint(Path("x"), CONFIG, whole))
    del whole["text_encoder.x"]
    with pytest.raises(WeightsError, match=r"no text_encoder.*pruned"):
        check_whole(Checkpoint(Path("x"), CONFIG, whole))
    with pytest.raises(WeightsError, match="complex64"):
        check_whole(Checkpoint(Path("x"), CONFIG, whole | {"text_encoder.x": normal.to(torch.complex64)}))


@pytest.mark.parametrize("no_mmap", ["", "1"])
def test_a_converted_model_loads_like_the_original(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_mmap: str
) -> None:
    monkeypatch.setenv("DCRAFTER_NO_MMAP", no_mmap)
    original = open_checkpoint(golden / "dc256" / "model.ckpt", model_config=golden / "dc256" / "config.json")
    wide = {**original.tensors, "unet.conv_out.bias": original.tensors["unet.conv_out.bias"].float() * 0 + 1e6}
    path = tmp_path / "x.safetensors"
    for _ in convert(replace(original, tensors=wide), path):
        pass
    opened = open_checkpoint(path)
    assert opened.config == original.config
    assert opened.tensors["unet.conv_out.bias"].dtype == torch.float32
    model = DynamiCrafter.on_meta(opened.config)
    opened.check(model)
    for _ in opened.load(model, "projector", device=torch.device("cpu"), dtype=torch.float16):
        pass
    # Copied: a file that is cut short while its model is in use must not take the process down.
    assert opened.tensors["projector.queries"].data_ptr() != model.projector.queries.data_ptr()
    for component in COMPONENTS:
        for _ in opened.load(model, component, device=torch.device("cpu"), dtype=torch.float32):
            pass
    state = model.state_dict()
    assert all(torch.equal(state[key], wide[key].float()) for key in state)


def test_the_source_is_only_read(golden: Path, tmp_path: Path) -> None:
    source = golden / "dc512" / "model.safetensors"
    before = (source.stat().st_mtime_ns, hashlib.sha256(source.read_bytes()).hexdigest())
    opened = open_checkpoint(source, model_config=source.with_name("config.json"))
    list(convert(opened, tmp_path / "x.safetensors"))
    assert before == (source.stat().st_mtime_ns, hashlib.sha256(source.read_bytes()).hexdigest())


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(start: int, end: int, shape: list[int]) -> dict[str, object]:
    return {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors({"a": entry(0, 4, [2]), "b": entry(2, 6, [2])}, bytes(6)),  # overlapping
        safetensors({"a": entry(0, 4, [2]), "b": entry(0, 4, [2])}, bytes(4)),
        safetensors({"a": entry(0, 2, [1]), "b": entry(4, 6, [1])}, bytes(6)),  # a hole
        safetensors({"a": entry(4, 0, [2])}, bytes(4)),
        safetensors({"a": entry(0, 4, [3])}, bytes(4)),
        safetensors({"a": entry(0, 4, [2**62, 8])}, bytes(4)),
        safetensors({"a": entry(0, 2**40, [2**39])}, bytes(4)),
        safetensors({"a": entry(0, 4, [-2])}, bytes(4)),
        safetensors({"a": {**entry(0, 4, [2]), "dtype": "PICKLE"}}, bytes(4)),
        safetensors(["a"], bytes(4)),
        (2**31).to_bytes(8, "little") + b"{",
    ],
)
def test_malicious_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        open_checkpoint(path)
    assert not is_intact(path)


def test_a_header_of_two_gigabytes_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:  # sparse
        file.write((2**31).to_bytes(8, "little") + b"{")
        file.truncate(2**31 + 100)
    with pytest.raises(WeightsError, match="damaged"):
        open_checkpoint(path)
    with pytest.raises(WeightsError, match="too large"):
        cache.read_header(path)
