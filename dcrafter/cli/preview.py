"""--preview and --save-preview: the video as it forms, from latents by a linear map, without the decoder."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from dcrafter.errors import OutputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

INTERVAL = 0.5  # seconds between two pictures on the terminal, at least
WIDTH = 80  # latents: as many frames beside each other as fit, but one in any case
ENLARGED = 8  # times, in a file: about the size of a published model's video
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
OTHER_LINES = 8  # of the terminal's height, for bars and what was said before


class Preview:
    """What a video looks like so far. Give it to rich to have it drawn; nothing is drawn before the first `update`.

    Drawn by `textual-image`, where that is installed and the terminal knows graphics, else in half blocks.
    """

    def __init__(
        self,
        latent_channels: int,
        *,
        show: bool = False,
        path: Path | None = None,
        overwrite: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`show` it on the terminal that stderr is, if it is one; write it to `path`.

        Raises UsageError for latents whose colours are unknown or a name that is no picture's, OutputError where the
        file exists or cannot be written.
        """
        from dcrafter.models.latents import known_colours

        colours = known_colours(latent_channels)
        if colours is None:
            raise UsageError(
                f"there is no preview of latents with {latent_channels} channels",
                "Leave out --preview and --save-preview",
            )
        self.colours = colours
        self.path = path
        if path is not None:
            _check(path, overwrite)
        self.show = show and sys.stderr.isatty()
        self.clock = clock
        self._graphics = _graphics() if self.show else None
        self._due = -float("inf")
        self._picture: Image.Image | None = None
        self._drawn: tuple[Image.Image, tuple[int, int], Any] | None = None  # a picture, in so many cells

    def update(self, x0: Tensor) -> None:
        """Predicted clean latents (B, C, T, h, w), of which the first video is seen: to the file each time, to the
        terminal twice a second at most. Raises OutputError."""
        now = self.clock()
        due = self.show and now >= self._due
        if not due and self.path is None:
            return
        picture = self._strip(x0[0])
        if self.path is not None:
            save(picture, self.path)
        if due:
            self._picture, self._due = picture, now + INTERVAL

    def _strip(self, latents: Tensor) -> Image.Image:
        """Frames evenly taken from (C, T, h, w), beside each other, a pixel a latent; one alone is the middle one."""
        from dcrafter.models.latents import to_rgb

        total, width = latents.shape[1], latents.shape[3]
        count = min(max(WIDTH // width, 1), total)
        shown = [(2 * i + 1) * total // (2 * count) for i in range(count)]
        frames = to_rgb(latents[:, shown].movedim(1, 0), self.colours)
        return Image.fromarray(np.concatenate([*frames.numpy()], axis=1))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        picture = self._picture
        if picture is None:
            return
        cells = _cells(picture, options.max_width, max(options.size.height - OTHER_LINES, 1))
        if self._graphics is None:
            yield from half_blocks(picture.resize((cells[0], 2 * cells[1]), Image.Resampling.BILINEAR))
            return
        if self._drawn is None or self._drawn[0] is not picture or self._drawn[1] != cells:
            if self._drawn is not None:
                self._drawn[2].cleanup()
            self._drawn = picture, cells, self._graphics(picture, *cells)
        yield self._drawn[2]


def half_blocks(picture: Image.Image) -> Iterable[Segment]:
    """Two pixels a character, one above the other: lines of ▀ whose colour is the upper and background the lower."""
    rows = np.asarray(picture)
    for upper, lower in zip(rows[::2].tolist(), rows[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            yield Segment("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        yield Segment.line()


def save(picture: Image.Image, path: Path) -> None:
    """Write a strip as PNG or JPEG, enlarged. Who reads `path` meanwhile sees a whole picture. Raises OutputError."""
    temporary = path.with_name(f".dcrafter-{secrets.token_hex(8)}.tmp")
    size = picture.width * ENLARGED, picture.height * ENLARGED
    try:
        picture.resize(size, Image.Resampling.BICUBIC).save(temporary, SUFFIXES[path.suffix.lower()])
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path} ({error.strerror})", "Choose another place with --save-preview"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _check(path: Path, overwrite: bool) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"the preview {path} is neither PNG nor JPEG", f"Give it a suffix of {', '.join(SUFFIXES)}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(f"{path} already exists", "Choose another name with --save-preview, or pass --overwrite")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path.absolute().parent} is not a folder that can be written to", "Choose another")


def _cells(picture: Image.Image, columns: int, lines: int) -> tuple[int, int]:
    """A picture's size in characters, which are twice as high as wide: a pixel a column if there are so many."""
    scale = min(1.0, columns / picture.width, 2 * lines / picture.height)
    return max(1, int(picture.width * scale)), max(1, ceil(picture.height * scale / 2))


def _graphics() -> Callable[..., Any] | None:
    """textual-image's way to draw on this terminal, if that is a better one than half blocks."""
    # Its import asks the terminal on stdout what it can, and reads the answer from stdin.
    for stream in (sys.__stdin__, sys.__stdout__):
        if stream is None or not stream.isatty():
            return None
    try:
        from textual_image.renderable import Image as Best
        from textual_image.renderable import SixelImage, TGPImage
    except ImportError:
        return None
    return Best if Best in (SixelImage, TGPImage) else None
