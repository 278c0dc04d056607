from __future__ import annotations

import io
import json
import math
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dcrafter.config import MODELS
from dcrafter.errors import WeightsError
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint, save_checkpoint


def assert_same(opened: Checkpoint, reference: Checkpoint) -> None:
    assert opened.config == reference.config
    opened.check(DynamiCrafter.on_meta(opened.config))
    assert set(opened.tensors) == set(reference.tensors)
    assert all(torch.equal(opened.tensors[key], reference.tensors[key]) for key in reference.tensors)


@pytest.mark.parametrize("wrapping", ["lightning", "bare", "deepspeed"])
def test_pickled_checkpoints_however_they_are_wrapped(
    wrapping: str, tmp_path: Path, published: dict[str, torch.Tensor], tree: Path, reference: Checkpoint
) -> None:
    content: dict[str, Any] = {
        "lightning": {"state_dict": published, "epoch": 3, "callbacks": {"a": [1, 2.0, None]}},
        "bare": published,
        "deepspeed": {"module": {f"_forward_module.{key}": value for key, value in published.items()}},
    }[wrapping]
    torch.save(content, tmp_path / "model.ckpt")
    assert_same(open_checkpoint(tmp_path / "model.ckpt", model_config=tree), reference)


def test_old_pickles_without_a_zip_open_too(
    tmp_path: Path, published: dict[str, torch.Tensor], tree: Path, reference: Checkpoint
) -> None:
    torch.save(published, tmp_path / "model.ckpt", _use_new_zipfile_serialization=False)
    assert_same(open_checkpoint(tmp_path / "model.ckpt", model_config=tree), reference)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float8_e5m2], ids=str)
def test_any_float_type_is_read(
    dtype: torch.dtype, tmp_path: Path, published: dict[str, torch.Tensor], tree: Path
) -> None:
    save_file({key: value.to(dtype) for key, value in published.items()}, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path / "model.safetensors", model_config=tree)
    model = DynamiCrafter.on_meta(opened.config)
    *_, last = opened.load(model, "projector", device=torch.device("cpu"), dtype=torch.float32)
    assert last == (sum(p.numel() for p in model.projector.parameters()),) * 2
    expected = published["image_proj_model.proj_in.bias"].to(dtype).float()
    torch.testing.assert_close(model.projector.proj_in.bias, torch.nn.Parameter(expected, requires_grad=False))


def test_settings_objects_in_a_pickle_are_inert(
    tmp_path: Path, published: dict[str, torch.Tensor], tree: Path, reference: Checkpoint, monkeypatch: Any
) -> None:
    """A Lightning file with what Lightning and omegaconf pickle opens without them, and without running their code."""

    class DictConfig:
        def __init__(self) -> None:
            self._metadata = {"ref_type": dict, "element_type": list}
            self._content = defaultdict(list, lr=[1e-5])

        def __setstate__(self, state: object) -> None:
            raise AssertionError("this must not run")

    class AttributeDict(dict[str, Any]):
        pass

    for kind, name in ((DictConfig, "omegaconf.dictconfig"), (AttributeDict, "pytorch_lightning.utilities.parsing")):
        kind.__module__, kind.__qualname__ = name, kind.__name__
        module = types.ModuleType(name)
        setattr(module, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, name.split(".")[0], types.ModuleType(name.split(".")[0]))
    monkeypatch.setitem(sys.modules, "pytorch_lightning.utilities", types.ModuleType("pytorch_lightning.utilities"))
    settings = AttributeDict(config=DictConfig(), path=PurePosixPath("a/b"), rate=np.float64(0.1))
    torch.save({"state_dict": published, "hyper_parameters": settings}, tmp_path / "model.ckpt")
    monkeypatch.undo()
    assert_same(open_checkpoint(tmp_path / "model.ckpt", model_config=tree), reference)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_pickles_are_said_to_be_damaged_or_unsafe(tmp_path: Path, zipped: bool) -> None:
    """Whatever a decoder makes of wrong bytes, it ends in a WeightsError."""
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"x": torch.zeros(3)}}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    start = whole.index(b"state_dict") if zipped else 0
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[start + random.integers(150)] = random.integers(256)
        path.write_bytes(content)
        with pytest.raises(WeightsError):  # where the damage is harmless, "no DynamiCrafter model"
            open_checkpoint(path)


def test_two_tensors_for_one_are_refused(tmp_path: Path, published: dict[str, torch.Tensor], tree: Path) -> None:
    other = "model.diffusion_model.framestride_embed.0.bias"
    tensors = published | {other: torch.zeros(128)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="two tensors for one"):
        open_checkpoint(tmp_path / "model.safetensors", model_config=tree)


def test_what_training_leaves_in_a_file_is_passed_over(
    tmp_path: Path, published: dict[str, torch.Tensor], tree: Path, reference: Checkpoint
) -> None:
    more = {"model_ema.decay": torch.ones(()), "scale_factor": torch.ones(()), "logvar": torch.zeros(1000)}
    save_file(published | more, tmp_path / "model.safetensors")
    assert_same(open_checkpoint(tmp_path / "model.safetensors", model_config=tree), reference)


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "ran"
    content = {"state_dict": {"x": torch.zeros(1)}, "extra": Attack(marker)}
    torch.save(content, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="unsafe"):
        open_checkpoint(tmp_path / "model.ckpt")
    assert not marker.exists()


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "model.ckpt").write_bytes(pickle.dumps(Attack(marker)))
    with pytest.raises(WeightsError):
        open_checkpoint(tmp_path / "model.ckpt")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no checkpoint"),
        (b"hello, this is text", "no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04 not really a zip file", "damaged"),
        (b"\x80\x02 not really a pickle", "damaged"),
        ((10**15).to_bytes(8, "little") + b'{"x":', "damaged"),
        ((2).to_bytes(8, "little") + b"{]", "damaged"),
    ],
)
def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.ckpt").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        open_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.parametrize("name", ["dc256/model.ckpt", "dc512/model.safetensors"])
def test_truncated_files(golden: Path, tmp_path: Path, name: str) -> None:
    whole = (golden / name).read_bytes()
    for part in (0.01, 0.5, 0.999):
        (tmp_path / "model").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(WeightsError, match="damaged"):
            open_checkpoint(tmp_path / "model")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(WeightsError, match="cannot read"):
            open_checkpoint(path)


def test_a_zip_without_a_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as file:
        file.writestr("readme.txt", "nothing")
    with pytest.raises(WeightsError, match="damaged"):
        open_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", r"lacks model\.diffusion_model\.out\.2\.bias"),
        ("unexpected", r"has unexpected model\.diffusion_model\.something\.weight"),
        ("shape", r"image_proj_model\.proj_in\.bias is \(3,\), not \(32,\)"),
        ("no clip", "has no text_encoder and no image_encoder.*pruned"),
    ],
)
def test_keys_that_do_not_fit_are_named(
    change: str, said: str, tmp_path: Path, published: dict[str, torch.Tensor], tree: Path
) -> None:
    tensors = dict(published)
    if change == "missing":
        del tensors["model.diffusion_model.out.2.bias"]
    elif change == "unexpected":
        tensors["model.diffusion_model.something.weight"] = torch.zeros(1)
    elif change == "shape":
        tensors["image_proj_model.proj_in.bias"] = torch.zeros(3)
    else:
        tensors = {k: v for k, v in tensors.items() if not k.startswith(("cond_stage_model", "embedder"))}
    save_file(tensors, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path / "model.safetensors", model_config=tree)
    with pytest.raises(WeightsError, match=said):
        opened.check(DynamiCrafter.on_meta(opened.config))


def write_full_size(golden: Path, path: Path, manifest: str, base: float | None) -> None:
    """The published keys at full size and in half precision, in a file with a hole where the values would be."""
    shapes: dict[str, list[int]] = json.loads((golden / f"manifest_{manifest}.json").read_text())
    shapes.pop("scale_arr", None)
    header: dict[str, Any] = {}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    tail = b"" if base is None else torch.linspace(1, base, 1400).numpy().tobytes()
    if tail:
        header["scale_arr"] = {"dtype": "F32", "shape": [1400], "data_offsets": [end, end + len(tail)]}
    text = json.dumps(header).encode()
    text = text.ljust(len(text) + -len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        file.seek(0, os.SEEK_END)
        file.write(tail)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "manifest", "base", "model", "command", "taken"),
    [
        ("model.ckpt", "256", None, None, "animate", "256"),
        ("model.ckpt", "512", 0.3, None, "animate", "1024"),
        ("model.ckpt", "512", 0.7, None, "animate", "512"),
        ("model.ckpt", "512", 0.7, None, "loop", "512-interp"),
        ("model.ckpt", "512", 0.7, "512-interp", "animate", "512-interp"),
        ("dynamicrafter_512_interp_v1_bf16.ckpt", "512", None, None, "animate", "512-interp"),
        ("dynamicrafter_1024_v1_bf16.ckpt", "512", None, None, "animate", "1024"),
    ],
)
def test_published_files_tell_their_model(
    golden: Path,
    tmp_path: Path,
    file: str,
    manifest: str,
    base: float | None,
    model: str | None,
    command: Any,
    taken: str,
) -> None:
    write_full_size(golden, tmp_path / file, manifest, base)
    opened = open_checkpoint(tmp_path / file, model=model, command=command)
    assert opened.config == MODELS[taken]
    if taken in ("256", "512"):  # once for each list of keys
        opened.check(DynamiCrafter.on_meta(opened.config))
    keys_decide = manifest == "256" or base == 0.3 or model is not None
    assert bool(opened.assumption) != keys_decide


def test_another_model_than_the_one_asked_for_is_named(golden: Path, tmp_path: Path) -> None:
    write_full_size(golden, tmp_path / "model.ckpt", "512", 0.3)
    with pytest.raises(WeightsError, match="holds the 1024 model, not 256"):
        open_checkpoint(tmp_path / "model.ckpt", model="256")


def test_something_else_entirely(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="no DynamiCrafter model"):
        open_checkpoint(tmp_path / "model.safetensors")


def test_our_own_file_carries_its_configuration(tmp_path: Path, reference: Checkpoint) -> None:
    path = tmp_path / "mine.safetensors"
    save_checkpoint(reference.tensors, replace(reference.config, name="mine"), path)
    opened = open_checkpoint(path)
    assert_same(replace(opened, config=replace(opened.config, name="512")), reference)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.safetensors"]
    with pytest.raises(WeightsError, match="holds the mine model, not 256"):
        open_checkpoint(path, model="256")


def test_a_header_of_a_later_version_is_said_to_be_one(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "m.safetensors", metadata={"dcrafter": '{"name": "a", "new": 1}'})
    with pytest.raises(WeightsError, match="Update dcrafter"):
        open_checkpoint(tmp_path / "m.safetensors")


def test_a_component_loads_alone_in_the_type_asked_for(reference: Checkpoint) -> None:
    model = DynamiCrafter.on_meta(reference.config)
    for _ in reference.load(model, "autoencoder", device=torch.device("cpu"), dtype=torch.bfloat16):
        pass
    assert {p.dtype for p in model.autoencoder.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in model.autoencoder.parameters()} == {"cpu"}
    assert {p.device.type for p in model.unet.parameters()} == {"meta"}


def test_the_fingerprint_follows_the_content(tmp_path: Path, reference: Checkpoint) -> None:
    def fingerprint(content: bytes) -> str:
        (tmp_path / "file").write_bytes(content)
        return replace(reference, path=tmp_path / "file").fingerprint

    large = os.urandom(6_000_000)
    assert fingerprint(large) == fingerprint(large)
    assert fingerprint(large) != fingerprint(large + b"x")
    assert fingerprint(large) != fingerprint(large[:-1] + bytes([large[-1] ^ 1]))
    assert fingerprint(large) != fingerprint(bytes([large[0] ^ 1]) + large[1:])
    small = io.BytesIO(large[:100_000]).read()
    assert fingerprint(small) != fingerprint(small[:50_000] + bytes([small[50_000] ^ 1]) + small[50_001:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {}}, "not a DynamiCrafter one"),
        ("a text", "no YAML or JSON tree"),
        (("temporal_conv", False), "expected: temporal_conv"),
        (("temporal_selfatt_only", False), "expected: temporal_selfatt_only"),
        (("use_relative_position", True), "no use_relative_position"),
    ],
)
def test_configuration_trees_of_other_models_are_refused(
    golden: Path, tmp_path: Path, tree: Path, change: Any, said: str
) -> None:
    content = json.loads(tree.read_text())
    if isinstance(change, tuple):
        content["model"]["params"]["unet_config"]["params"][change[0]] = change[1]
    else:
        content = change
    (tmp_path / "config.yaml").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=said):
        open_checkpoint(golden / "dc512" / "model.safetensors", model_config=tmp_path / "config.yaml")


def changed_tree(tree: Path, folder: Path, **params: Any) -> Path:
    content = json.loads(tree.read_text())
    content["model"]["params"] |= params
    (folder / "config.json").write_text("\t" + json.dumps(content, indent="\t"))  # tabs: JSON that is no YAML
    return folder / "config.json"


def test_a_tree_follows_the_command_and_the_model_asked_for(golden: Path, tmp_path: Path, tree: Path) -> None:
    path = golden / "dc512" / "model.safetensors"
    assert open_checkpoint(path, model_config=tree, command="loop").config.commands == ("interpolate", "loop")
    interp = open_checkpoint(path, model="512-interp", model_config=tree).config
    assert (interp.name, interp.motion) == ("512-interp", MODELS["512-interp"].motion)
    square = open_checkpoint(path, model_config=changed_tree(tree, tmp_path, image_size=16)).config
    assert (square.height, square.width) == (128, 128)
    with pytest.raises(WeightsError, match="predicts v, and the 256 model does not"):
        open_checkpoint(path, model="256", model_config=tree)
    with pytest.raises(WeightsError, match=r"base_scale of 0\.7, not 0\.3"):
        open_checkpoint(path, model_config=changed_tree(tree, tmp_path, base_scale=0.3))
    with pytest.raises(WeightsError, match="beta_schedule linear"):
        open_checkpoint(path, model_config=changed_tree(tree, tmp_path, beta_schedule="cosine"))
    unet = json.loads(tree.read_text())["model"]["params"]["unet_config"]
    unet["params"]["context_dim"] = 48
    with pytest.raises(WeightsError, match="32 are given where 48 are taken"):
        open_checkpoint(path, model_config=changed_tree(tree, tmp_path, unet_config=unet))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("clip.text.layers", 100, r"text_encoder\.transformer\.resblocks is 3 layers, not 100"),
        ("clip.vision.layers", 100, r"image_encoder\.transformer\.resblocks is 2 layers, not 100"),
        ("projector.depth", 100, r"projector\.layers is 2 layers, not 100"),
        ("unet.num_res_blocks", 3, r"unet\.encoder is 5 layers, not 11"),
        ("unet.transformer_depth", 4, r"unet\.middle\.stage\.spatial\.blocks is 1 layers, not 4"),
        ("autoencoder.decoder_res_blocks", 9, r"autoencoder\.decoder\.levels\.0\.blocks is 2 layers, not 9"),
        ("projector.frames", 200, r"projector\.queries is \(1, 256, 32\), not \(1, 3200, 32\)"),
        ("unet.init_attn_heads", 256, r"unet\.init_attn\.proj_in\.weight is \(128, 32\), not \(4096, 32\)"),
        ("clip.text.layers", 10**8, "TextConfig.layers must be 2 to 128"),
        ("frames", 10**9, "ModelConfig.frames must be 2 to 256"),
        ("clip.text", [], "header"),
        ("name", 3, "header"),
        ("commands", ["animate", "launch"], "commands"),
    ],
)
def test_a_header_that_asks_for_another_model_than_the_file_holds(
    tmp_path: Path, reference: Checkpoint, path: str, value: Any, said: str
) -> None:
    """It is refused when the file is opened, before any module is built."""
    values = json.loads(json.dumps(reference.config.to_dict()))
    *outer, last = path.split(".")
    table = values
    for name in outer:
        table = table[name]
    table[last] = value
    save_file(dict(reference.tensors), tmp_path / "m.safetensors", metadata={"dcrafter": json.dumps(values)})
    with pytest.raises(WeightsError, match=said):
        open_checkpoint(tmp_path / "m.safetensors")


def test_a_header_nested_without_end(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "m.safetensors", metadata={"dcrafter": "[" * 200_000})
    with pytest.raises(WeightsError, match="header"):
        open_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("unet_config.transformer_depth", 10**6),
        ("unet_config.num_res_blocks", 10**9),
        ("unet_config.attention_resolutions", "abc"),
        ("unet_config.model_channels", "32"),
        ("unet_config.model_channels", 32.5),
        ("unet_config.channel_mult", None),
        ("image_proj_stage_config.depth", 10**9),
        ("image_proj_stage_config.video_length", 10**12),
        ("image_size", "ab"),
        ("image_size", [8]),
        ("timesteps", 10**9),
        ("base_scale", "nan"),
        ("cond_stage_config", None),
        ("unet_config", []),
    ],
)
def test_a_tree_of_absurd_values(golden: Path, tmp_path: Path, tree: Path, where: str, value: Any) -> None:
    content = json.loads(tree.read_text())
    table = content["model"]["params"]
    *outer, last = where.split(".")
    if outer:
        table = table[outer[0]]["params"]
    table[last] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError):
        open_checkpoint(golden / "dc512" / "model.safetensors", model_config=tmp_path / "config.json")


def test_a_key_is_shown_in_short_and_without_what_a_terminal_acts_on(
    tmp_path: Path, published: dict[str, torch.Tensor], tree: Path
) -> None:
    keys = ("model.diffusion_model.\x1b[2J\n", "model.diffusion_model." + "x" * 100_000)
    save_file(published | {key: torch.zeros(1) for key in keys}, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path / "model.safetensors", model_config=tree)
    with pytest.raises(WeightsError) as caught:
        opened.check(DynamiCrafter.on_meta(opened.config))
    assert caught.value.message.isprintable()
    assert r"\x1b[2J" in caught.value.message
    assert len(caught.value.message) < 1000


CUT_WHILE_IN_USE = """
import os, sys
from pathlib import Path
import torch
from dcrafter.errors import WeightsError
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.weights.checkpoint import open_checkpoint
from dcrafter.weights.convert import convert

path = Path(sys.argv[1])
opened = open_checkpoint(path)
model = DynamiCrafter.on_meta(opened.config)
stored = opened.tensors["projector.proj_in.weight"].dtype  # nothing has to be converted
list(opened.load(model, "projector", device=torch.device("cpu"), dtype=stored))
os.truncate(path, 4096)
assert all(value.isfinite().all() for value in model.projector.parameters())
for steps in (
    opened.load(model, "unet", device=torch.device("cpu"), dtype=torch.float32),
    convert(opened, path.with_name("copy.safetensors")),
):
    try:
        list(steps)
    except WeightsError as error:
        print(error.message)
"""


@pytest.mark.slow
def test_a_file_that_is_cut_while_in_use_does_not_end_the_process(tmp_path: Path, reference: Checkpoint) -> None:
    save_checkpoint(reference.tensors, reference.config, tmp_path / "mine.safetensors")
    command = [sys.executable, "-c", CUT_WHILE_IN_USE, str(tmp_path / "mine.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("was cut to 4096 bytes while it was in use") == 2
