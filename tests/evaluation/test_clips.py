"""Which clips are found, and which of their frames are read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcrafter.batch.journal import Record
from dcrafter.errors import InputError
from dcrafter.evaluation.clips import ClipFile, list_clips
from dcrafter.media.video import write_video
from dcrafter.settings import WriteOptions

FRAMES = np.stack([np.full((24, 32, 3), 6 * t, np.uint8) for t in range(40)])


def grays(clip: ClipFile) -> list[int]:
    return [round(frame.float().mean().item() / 6) for frame in clip.load()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_video(FRAMES, tmp_path / "sea.mp4")
    return tmp_path


def test_a_folder_has_videos_animations_and_frames(folder: Path) -> None:
    settings = {"prompt": "a cat", "images": ["cat.png"]}
    write_video(FRAMES[:4], folder / "deep" / "cat 3.webp", settings=settings)
    write_video(FRAMES[:4], folder / "steps", WriteOptions(format="frames"), settings=settings | {"images": []})
    (folder / "sea.txt").write_text("waves\nroll")
    (folder / "note.md").write_text("no video")
    found = {clip.name: clip for clip in list_clips(folder)}
    assert {name: clip.caption for name, clip in found.items()} == {
        "cat": "a cat",
        "sea": "waves roll",
        "steps": "a cat",
    }
    assert grays(found["sea"]) == [*range(16)]
    assert grays(found["cat"]) == grays(found["steps"]) == [0, 1, 2, 3]


def test_a_journal_lists_what_is_done(folder: Path) -> None:
    image = folder / "in" / "beach.png"
    image.parent.mkdir()
    Image.new("RGB", (8, 8)).save(image)
    done = Record("1", 0, "done", "sea.mp4", str(image), settings={"prompt": "tide"})
    failed = Record("2", 0, "failed", "land.mp4", str(image))
    write_video(FRAMES[:3], folder / "stray.mp4")
    (folder / "batch.jsonl").write_text("".join(json.dumps(asdict(record)) + "\n" for record in (done, failed)))
    (clip,) = list_clips(folder)
    assert (clip.name, clip.caption, clip.image) == ("beach", "tide", image)
    again = Record("1", 1, "done", "stray.mp4", str(image))
    with (folder / "batch.jsonl").open("a") as file:
        file.write(json.dumps(asdict(again)) + "\n")
    assert [clip.name for clip in list_clips(folder)] == ["sea", "stray"]  # of one image


def test_a_manifest_says_which_frames(folder: Path) -> None:
    manifest = folder / "clips.jsonl"
    row = {"path": "sea.mp4", "caption": "waves", "first": 4, "stride": 3, "frames": 8, "width": 16, "height": 16}
    manifest.write_text(json.dumps(row))
    (clip,) = list_clips(manifest)
    assert clip.load().shape == (8, 16, 16, 3)
    assert grays(clip) == [*range(4, 28, 3)]
    assert clip.load((8, 4)).shape == (8, 4, 8, 3)


def test_a_protocols_clip_is_whole_or_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match="too few"):
        ClipFile("sea", folder / "sea.mp4", stride=3).load()  # needs 46 of 40
    assert len(ClipFile("sea", folder / "sea.mp4", frames=99).load()) == 40


@pytest.mark.parametrize(
    ("line", "problem"),
    [("{}", "lacks a path"), ('{"path": "sea.mp4", "stride": "x"}', "else than a number"),
     ('{"path": "sea.mp4", "frames": -1}', "out of range")],
)  # fmt: skip
def test_rows_that_make_no_sense_are_named(line: str, problem: str, folder: Path) -> None:
    manifest = folder / "clips.jsonl"
    manifest.write_text(line)
    with pytest.raises(InputError, match=problem):
        list_clips(manifest)


def test_there_must_be_videos(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "missing.csv"):
        with pytest.raises(InputError):
            list_clips(source)
