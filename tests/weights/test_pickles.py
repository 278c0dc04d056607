"""Pickles that take memory, not only those that run code. None of these may reach torch's unpickler."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dcrafter.errors import WeightsError
from dcrafter.weights import pickles
from dcrafter.weights.checkpoint import open_checkpoint

HUGE = 2_000_000_000


def checkpoint(folder: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip as torch writes it, with this list of tensors."""
    torch.save({"x": torch.zeros(3)}, file := io.BytesIO())
    path = folder / "model.ckpt"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, pickled if record.filename.endswith("data.pkl") else old.read(record))
    return path


def call(name: str, *arguments: Any) -> bytes:
    """Protocol 2: name(*arguments)."""
    inner = pickle.dumps(arguments, 2)[2:-1]
    return b"\x80\x02c" + name.replace(".", "\n").encode() + b"\n" + inner + b"R."


@pytest.fixture(autouse=True)
def no_unpickling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", refuse)


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (call("builtins.bytearray", HUGE), "builtins.bytearray"),
        (call("__builtin__.bytearray", HUGE), "builtins.bytearray"),
        (call("torch.FloatStorage", HUGE), "torch.FloatStorage"),
        (call("torch.FloatTensor", HUGE), "torch.FloatTensor"),
        (call("posix.system", "true"), "posix.system"),
        (b"\x80\x02K\x01K\x02\x85R.", "no function"),
    ],
)
def test_calls_that_no_checkpoint_needs(tmp_path: Path, pickled: bytes, said: str) -> None:
    with pytest.raises(WeightsError, match=f"unsafe.*{said}"):
        open_checkpoint(checkpoint(tmp_path, pickled))


def test_one_text_copied_many_times(tmp_path: Path) -> None:
    """A megabyte of text, encoded again and again by a function that checkpoints do need."""
    text = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b"q\x01"
    encode = b"c_codecs\nencode\nq\x00" + text + b"X\x06\x00\x00\x00latin1q\x02\x86R"
    again = b"h\x00h\x01h\x02\x86R"
    with pytest.raises(WeightsError, match="far more memory"):
        open_checkpoint(checkpoint(tmp_path, b"\x80\x02](" + encode + again * 100 + b"e."))


def test_a_list_in_itself_is_no_endless_number(tmp_path: Path) -> None:
    doubling = b"\x80\x02]q\x00" + b"h\x00a" * 100_000
    called = b"ccollections\nOrderedDict\nh\x00\x85R."
    with pytest.raises(WeightsError, match="far more memory"):
        open_checkpoint(checkpoint(tmp_path, doubling + called))


def test_more_opcodes_than_any_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    with pytest.raises(WeightsError, match="larger than any model"):
        open_checkpoint(checkpoint(tmp_path, b"\x80\x02](" + b"N" * 1000 + b"e."))


def test_compressed_records(tmp_path: Path) -> None:
    pickled = pickle.dumps("a" * 3_000_000, 2)
    path = checkpoint(tmp_path, pickled, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match="records are compressed"):
        open_checkpoint(path)


def test_records_of_one_name(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, pickle.dumps({}, 2))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(file.namelist()[0], b"other")
    with pytest.raises(WeightsError, match="two records of one name"):
        open_checkpoint(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_storage_larger_than_the_file(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "model.ckpt"
    tensor = torch.zeros(1).expand(HUGE // 4)
    torch.save({"x": tensor}, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    assert whole.count(b"K\x01N") or whole.count(b"K\x01t")
    grown = whole.replace(b"K\x01Nt", b"J\xff\xff\xff\x7fNt").replace(b"K\x01t", b"J\xff\xff\xff\x7ft")
    if is_zip:
        with zipfile.ZipFile(path) as file:
            name = next(name for name in file.namelist() if name.endswith("data.pkl"))
            content = file.read(name)
        grown = content.replace(b"K\x01t", b"J\xff\xff\xff\x7ft", 1)
        path = checkpoint(tmp_path, grown)
    else:
        path.write_bytes(grown)
    with pytest.raises(WeightsError, match="more than the file holds"):
        open_checkpoint(path)


def test_few_values_repeated_by_a_stride(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # this one does get unpickled
    torch.save({"model.diffusion_model.x": torch.zeros(1).expand(HUGE)}, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match="far larger than the file"):
        open_checkpoint(tmp_path / "model.ckpt")
