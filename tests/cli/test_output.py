from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcrafter.cli import output as output_module
from dcrafter.cli.options import Request
from dcrafter.cli.output import Output
from dcrafter.errors import OutputError, UsageError
from dcrafter.events import Video
from dcrafter.media import video as media
from dcrafter.settings import WriteOptions

VIDEO = Video(np.zeros((2, 32, 32, 3), np.uint8), 8.0, {"seed": 3}, torch.zeros(1))


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def output(results: int = 1, **options: Any) -> Output:
    writing = {name: options.pop(name) for name in ("format", "codec", "crf", "metadata") if name in options}
    return Output(Request(writing=WriteOptions(**writing), **options), results)


@pytest.mark.parametrize(
    ("options", "results", "names"),
    [
        ({}, 2, ["cat.mp4", "cat-2.mp4"]),
        ({"format": "gif"}, 1, ["cat.gif"]),
        ({"format": "frames"}, 1, ["cat.frames"]),
        ({"output": "a.webm"}, 1, ["a.webm"]),
        ({"output": "a.bin", "format": "gif"}, 1, ["a.bin"]),
        ({"output": "new/", "format": "webp"}, 1, ["new/cat.webp"]),
        ({"output": "old"}, 1, ["old/cat-2.mp4"]),
        ({"output": "old", "overwrite": True}, 2, ["old/cat.mp4", "old/cat-2.mp4"]),
        ({"output": "several"}, 2, ["several/cat.mp4", "several/cat-2.mp4"]),
        ({"output": "stills", "format": "frames"}, 1, ["stills"]),
        ({"output": "old", "format": "frames"}, 1, ["old/cat.frames"]),
        ({"output": "-"}, 1, ["-"]),
    ],
)
def test_names(options: dict[str, Any], results: int, names: list[str]) -> None:
    Path("old").mkdir()
    Path("old/cat.mp4").touch()
    planner = output(results, **options)
    assert [str(planner.plan("cat")) for _ in names] == names
    assert [path.name for path in Path().iterdir()] == ["old"]  # planning leaves nothing behind


@pytest.mark.parametrize(
    ("options", "results", "said"),
    [
        ({"output": "a.txt"}, 1, "has no known suffix"),
        ({"output": "a.gif", "format": "mp4"}, 1, "no name for mp4"),
        ({"output": "a.gif"}, 2, "names one file, but there will be 2"),
        ({"output": "-"}, 2, "stdout takes one result"),
        ({"output": "-", "json": True}, 1, "--json"),
        ({"output": "-", "format": "frames"}, 1, "folder of frames"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], results: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        output(results, **options)


def test_an_earlier_result_is_no_folder_for_others() -> None:
    Path("stills").mkdir()
    assert output(1, output="stills", format="frames").plan("cat") == Path("stills/cat.frames")
    Path("stills/0001.png").touch()
    with pytest.raises(OutputError, match="already exists"):
        output(1, output="stills", format="frames").plan("cat")
    assert output(1, output="stills", format="frames", overwrite=True).plan("cat") == Path("stills")


def test_no_result_takes_the_place_of_a_picture() -> None:
    Path("a").mkdir()
    Path("a/cat.gif").touch()
    Path("a/1.png").touch()
    pictures = [str(Path("a/cat.gif").absolute()), "a/1.png", "https://example.org/cat.gif"]

    def planned(**options: Any) -> Path:
        writing = WriteOptions(options.pop("format", None))
        return Output(Request(**options, writing=writing, overwrite=True), 1, pictures).plan("cat")

    assert planned(output="a", format="gif") == Path("a/cat-2.gif")
    for wrong in ({"output": "a/cat.gif"}, {"output": "a/1.png"}, {"output": "a/../a/cat.gif"}):
        with pytest.raises(OutputError, match="overwrite the input image"):
            planned(**wrong)
    Path("a/cat.gif").unlink()
    with pytest.raises(OutputError, match="overwrite the input image"):
        planned(output="a", format="frames")


def test_a_terminal_gets_no_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(UsageError, match="terminal"):
        output(output="-")


@pytest.mark.parametrize("place", ["file/x.mp4", "file/x/", "/dev/null/x.mp4", f"{'n' * 300}.mp4", "lost/", "circle/"])
def test_places_that_cannot_be_written_to(place: str) -> None:
    Path("file").touch()
    Path("lost").symlink_to("gone")
    Path("circle").symlink_to("circle")
    with pytest.raises(OutputError):
        output(output=place).plan("cat")


def test_only_its_like_is_overwritten() -> None:
    Path("a.frames").mkdir()
    Path("a.frames/photo.jpg").touch()
    with pytest.raises(OutputError, match="already exists"):
        output(output="a.frames").plan("cat")
    with pytest.raises(OutputError, match="more than numbered"):
        output(output="a.frames", overwrite=True).plan("cat")
    with pytest.raises(OutputError):
        output(output="/dev/null", format="mp4", overwrite=True).plan("cat")


def test_a_name_that_somebody_else_took_meanwhile_is_left_alone() -> None:
    planner = output()
    plan = planner.plan("cat")
    plan.write_text("theirs")
    assert planner.save(VIDEO, plan, "cat") == Path("cat-2.mp4")
    assert plan.read_text() == "theirs"
    assert media.read_settings("cat-2.mp4") == {"seed": 3}


def test_frames_are_claimed_as_a_folder() -> None:
    planner = output(format="frames", metadata=False)
    path = planner.save(VIDEO, planner.plan("cat"), "cat")
    assert sorted(file.name for file in path.iterdir()) == ["0001.png", "0002.png"]
    assert media.read_settings(path) is None


@pytest.mark.parametrize("format", ["mp4", "frames"])
def test_a_failure_gives_the_claimed_name_back(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Path:
        assert len(list(Path().iterdir())) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(output_module, "write_video", fail)
    planner = output(format=format)
    with pytest.raises(KeyboardInterrupt):
        planner.save(VIDEO, planner.plan("cat"), "cat")
    assert list(Path().iterdir()) == []
