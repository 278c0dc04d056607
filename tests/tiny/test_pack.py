from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from dcrafter.errors import InputError
from dcrafter.media.video import encode_video
from dcrafter.settings import WriteOptions
from dcrafter.tiny.clips import ClipSampler
from dcrafter.tiny.pack import pack, unpack
from dcrafter.tiny.prepared import PreparedData


def test_a_packed_data_set_comes_back_about_as_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcrafter.tiny.pack.PICTURE_SIDE", 100)
    pack(data, tmp_path / "packed.zip")
    unpack(tmp_path / "packed.zip", tmp_path / "data")
    before, after = PreparedData(data), PreparedData(tmp_path / "data")
    assert (tmp_path / "packed.zip").stat().st_size < 0.2 * sum(path.stat().st_size for path in data.glob("*.u8"))
    assert [row["label"] for row in after.about["emoji"]] == [row["label"] for row in before.about["emoji"]]
    for was, now in ((before.stills, after.stills), (before.animations, after.animations)):
        assert was.shape == now.shape
        assert np.abs(was.astype(int) - now).mean() < 6
        assert (now[..., :3] <= now[..., 3:]).all()
    for row in after.about["pictures"]:
        assert min(row["height"], row["width"]) == 100
    blocks = after.about["cutouts"]
    assert np.abs(after.cutout(blocks[1]).astype(int) - [0, 0, 255, 255]).max() < 6
    clip = ClipSampler(tmp_path / "data", size=32, frames=4).clip(0, 0)
    assert clip["caption"] == ClipSampler(data, size=32, frames=4).clip(0, 0)["caption"]


def test_what_is_no_packed_data_set_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no archive")
    with pytest.raises(InputError, match="no packed data set"):
        unpack(tmp_path / "file", tmp_path / "out")


def test_a_film_in_another_container_is_not_opened(data: Path, tmp_path: Path) -> None:
    """A container such as a playlist may name other files."""
    pack(data, tmp_path / "packed.zip")
    film = encode_video(np.zeros((2, 64, 128, 3), np.uint8), WriteOptions(format="mp4"), fps=24)
    with zipfile.ZipFile(tmp_path / "packed.zip") as good, zipfile.ZipFile(tmp_path / "odd.zip", "w") as odd:
        for name in good.namelist():
            odd.writestr(name, film if name == "animations.mkv" else good.read(name))
    with pytest.raises(InputError, match=r"odd\.zip is no packed data set"):
        unpack(tmp_path / "odd.zip", tmp_path / "data")
