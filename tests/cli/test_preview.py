from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from dcrafter.cli.preview import FRAME_WIDTH, INTERVAL, Preview, half_blocks
from dcrafter.errors import OutputError, UsageError


def latents(value: float, frames: int = 16, height: int = 4, width: int = 48) -> Tensor:
    """`value` in the first channel, nothing in the others."""
    x0 = torch.zeros(1, 4, frames, height, width)
    x0[0, 0] = value
    return x0


def terminal(height: int = 24, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=width, height=height)


def drawn(preview: Preview, console: Console | None = None) -> str:
    console = console or terminal()
    assert isinstance(console.file, io.StringIO)
    console.print(preview, end="")
    return console.file.getvalue()


@pytest.fixture
def _stderr_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.usefixtures("_stderr_is_a_terminal")
def test_twice_a_second_at_most() -> None:
    clock = Clock()
    preview = Preview(4, show=True, clock=clock)
    assert drawn(preview) == ""
    pictures = []
    for step in range(9):  # at 100, 100.2, …, 101.6
        preview.update(latents(step / 4))
        pictures.append(drawn(preview))
        clock.now += 0.2
    changes = [i for i in range(1, 9) if pictures[i] != pictures[i - 1]]
    assert INTERVAL == 0.5
    assert changes == [3, 6]
    assert pictures[0] != ""


def test_nothing_where_stderr_is_no_terminal() -> None:
    preview = Preview(4, show=True)
    preview.update(latents(1.0))
    assert drawn(preview) == ""


@pytest.mark.usefixtures("_stderr_is_a_terminal")
def test_nothing_on_a_terminal_that_takes_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    preview = Preview(4, show=True)
    preview.update(latents(1.0))
    assert drawn(preview) == ""


def test_a_file_has_two_frames_evenly_taken(tmp_path: Path) -> None:
    def strip(frames: int, width: int) -> list[int]:
        """Which frames are seen, by their grays."""
        x0 = torch.linspace(-1, 1, frames)[:, None, None].expand(1, 4, frames, 2, width)
        path = tmp_path / f"{frames}-{width}.png"
        Preview(4, path=path).update(x0)
        with Image.open(path) as image:
            assert image.width == (FRAME_WIDTH if frames == 1 else 2 * FRAME_WIDTH)
            row = np.asarray(image)[0, FRAME_WIDTH // 2 :: FRAME_WIDTH]
        reds = [round(float(127.5 * (1 + 0.143 * v))) for v in torch.linspace(-1, 1, frames)]
        return [int(np.abs(np.array(reds) - red).argmin()) for red in row[:, 0].astype(int)]

    assert strip(16, 128) == [4, 12]
    assert strip(16, 8) == [4, 12]
    assert strip(3, 8) == [0, 2]
    assert strip(1, 8) == [0]


def test_half_blocks_are_two_pixels_high() -> None:
    pixels = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
    lines = "".join(
        f"{segment.text}{segment.style.color.triplet if segment.style and segment.style.color else ''}"
        f"{segment.style.bgcolor.triplet if segment.style and segment.style.bgcolor else ''}"
        for segment in half_blocks(Image.fromarray(pixels))
    ).splitlines()
    assert len(lines) == 2
    found = [[int(n) for n in re.findall(r"(?<==)\d+", line)] for line in lines]
    for y, numbers in enumerate(found):
        assert lines[y].count("▀") == 3
        assert numbers == np.concatenate([pixels[2 * y], pixels[2 * y + 1]], axis=1).reshape(-1).tolist()


@pytest.mark.usefixtures("_stderr_is_a_terminal")
@pytest.mark.parametrize(
    ("size", "screen", "cells"),
    [
        ((8, 8), (24, 80), (64, 16)),  # small frames are enlarged: two
        ((16, 16), (60, 80), (80, 40)),  # one where the terminal is high
        ((40, 64), (40, 100), (100, 31)),
        ((40, 64), (24, 200), (102, 16)),  # two, and lines are left for the bars
        ((64, 40), (6, 100), (2, 1)),
    ],
)
def test_it_fits_into_the_terminal(size: tuple[int, int], screen: tuple[int, int], cells: tuple[int, int]) -> None:
    preview = Preview(4, show=True)
    preview.update(latents(1.0, 16, *size))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", drawn(preview, terminal(*screen))).splitlines()
    assert (len(lines[0]), len(lines)) == cells


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_whole_picture_is_saved_at_every_step(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"now{suffix}"
    clock = Clock()
    preview = Preview(4, path=path, clock=clock)
    size = 2 * FRAME_WIDTH, FRAME_WIDTH // 16
    means = []
    for value in (0.0, 1.0, 2.0):
        preview.update(latents(value, width=64))
        with Image.open(path) as image:
            assert (image.format, image.size) == ("PNG" if suffix == ".png" else "JPEG", size)
            means.append(np.asarray(image).mean())
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert means == sorted(set(means))
    assert drawn(preview) == ""


def test_places_that_will_not_do_are_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"a cat")
    with pytest.raises(OutputError, match=r"cat\.png already exists"):
        Preview(4, path=tmp_path / "cat.png")
    with pytest.raises(OutputError, match="nowhere is not a writable folder"):
        Preview(4, path=tmp_path / "nowhere" / "now.png")
    with pytest.raises(UsageError, match="neither PNG nor JPEG"):
        Preview(4, path=tmp_path / "now.gif")
    with pytest.raises(UsageError, match="no preview of latents with 7 channels"):
        Preview(7, show=True)
    assert (tmp_path / "cat.png").read_bytes() == b"a cat"
    Preview(4, path=tmp_path / "cat.png", overwrite=True).update(latents(1.0))
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_there_stays_if_saving_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "now.png"
    preview = Preview(4, path=path)
    preview.update(latents(0.0))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        preview.update(latents(1.0))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["now.png"]


ALONGSIDE_BARS = """
import sys, torch
from rich.console import Console
from rich.progress import Progress
from dcrafter.cli.preview import Preview

preview = Preview(4, show=True)

class Bars(Progress):
    def get_renderables(self):
        yield preview
        yield from super().get_renderables()

with Bars(console=Console(stderr=True), redirect_stdout=False) as bars:
    task = bars.add_task("sampling", total=2)
    preview.update(torch.ones(1, 4, 16, 8, 8))
    bars.update(task, advance=2)
print("result.mp4")
"""


def on_terminal(answer: bytes, **streams: int) -> bytes:
    """What a pseudo-terminal is sent that answers a question for its abilities."""
    terminal, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 1000, 800))
    os.write(terminal, answer)  # beforehand: nobody has to be quick
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    streams = {"stdin": slave, "stdout": slave, "stderr": slave} | streams
    process = subprocess.Popen([sys.executable, "-W", "error", "-c", ALONGSIDE_BARS], env=environment, **streams)  # type: ignore[call-overload]
    os.close(slave)
    screen = b""
    try:
        while chunk := os.read(terminal, 65536):
            screen += chunk
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    os.close(terminal)
    assert process.wait() == 0, screen.decode()
    return screen


@pytest.mark.slow
def test_graphics_where_the_terminal_has_them() -> None:
    screen = on_terminal(b"\x1b[?62;4c")
    assert b"\x1bP" in screen  # sixels begin
    assert "▀" not in screen.decode()
    assert "sampling" in screen.decode()
    assert b"result.mp4" in screen


@pytest.mark.slow
def test_half_blocks_where_it_has_none() -> None:
    screen = on_terminal(b"\x1b[?62c")
    assert b"\x1bP" not in screen
    assert "▀" in screen.decode()


@pytest.mark.slow
def test_no_question_unless_all_is_a_terminal() -> None:
    for stream in ("stdin", "stdout"):
        screen = on_terminal(b"", **{stream: subprocess.DEVNULL})
        assert b"\x1b[c" not in screen
        assert "▀" in screen.decode()
