"""--preview and --save-preview: the video as it forms, from latents by a linear map, without the decoder."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from dcrafter.cli.console import can_redraw
from dcrafter.errors import OutputError, UsageError, WriteError
from dcrafter.media.video import check_folder

if TYPE_CHECKING:
    from torch import Tensor

INTERVAL = 0.5  # seconds between two images on the terminal, at least
FRAME_WIDTH = 512  # pixels of each frame in a file
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
OTHER_LINES = 8  # of the terminal's height, for bars and messages


class Preview:
    """Renderable of one or two frames of a video as they form, as large as the terminal allows.

    Drawn by `textual-image` where that is installed and the terminal knows graphics, else in half blocks. Empty until
    the first `update`.
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
        """Check what can be checked before the work.

        Args:
            latent_channels: of the model's autoencoder.
            show: draw on stderr, if it is a terminal that can be drawn on.
            path: PNG or JPEG file to write at each step.
            overwrite: replace that file if it exists.
            clock: seconds, for tests.

        Raises:
            UsageError: the colors of such latents are unknown, or `path` is neither PNG nor JPEG.
            OutputError: the file exists or cannot be written.
        """
        from dcrafter.models.latents import known_colours

        colors = known_colours(latent_channels)
        if colors is None:
            raise UsageError(
                f"there is no preview of latents with {latent_channels} channels",
                "Leave out --preview and --save-preview",
            )
        self.colors = colors
        self.path = path
        if path is not None:
            _check(path, overwrite)
        self.show = show and can_redraw()
        self.clock = clock
        self._graphics = _graphics() if self.show else None
        self._due = -float("inf")
        self._strips: list[Image.Image] = []  # one frame alone, and two beside each other
        self._drawn: tuple[Image.Image, tuple[int, int], Any] | None = None  # a strip, in so many cells

    def update(self, x0: Tensor) -> None:
        """Show the first of the predicted clean latents (B, C, T, h, w).

        The file is written each time, the terminal drawn twice a second at most.

        Raises:
            OutputError: the file cannot be written.
        """
        now = self.clock()
        due = self.show and now >= self._due
        if not due and self.path is None:
            return
        counts = (1, 2) if x0.shape[2] > 1 else (1,)
        strips = [self._strip(x0[0], count) for count in counts]
        if self.path is not None:
            save(strips[-1], self.path, counts[-1] * FRAME_WIDTH)
        if due:
            self._strips, self._due = strips, now + INTERVAL

    def _strip(self, latents: Tensor, count: int) -> Image.Image:
        """So many frames evenly taken from (C, T, h, w), beside each other, one pixel per latent."""
        from dcrafter.models.latents import to_rgb

        total = latents.shape[1]
        shown = [(2 * i + 1) * total // (2 * count) for i in range(count)]
        frames = to_rgb(latents[:, shown].movedim(1, 0), self.colors)
        return Image.fromarray(np.concatenate([*frames.numpy()], axis=1))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._strips:
            return
        lines = max(options.size.height - OTHER_LINES, 1)
        fitted = [(_cells(strip, options.max_width, lines), strip) for strip in self._strips]
        cells, strip = max(fitted, key=lambda each: each[0][0] * each[0][1])  # the larger one
        if self._graphics is None:
            yield from half_blocks(strip.resize((cells[0], 2 * cells[1]), Image.Resampling.BICUBIC))
            return
        if self._drawn is None or self._drawn[0] is not strip or self._drawn[1] != cells:
            if self._drawn is not None:
                self._drawn[2].cleanup()
            self._drawn = strip, cells, self._graphics(_enlarged(strip, FRAME_WIDTH), *cells)
        yield self._drawn[2]


def half_blocks(strip: Image.Image) -> Iterable[Segment]:
    """Draw two pixels per character: ▀ in the color of the upper one on the color of the lower."""
    rows = np.asarray(strip)
    for upper, lower in zip(rows[::2].tolist(), rows[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            yield Segment("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        yield Segment.line()


def save(strip: Image.Image, path: Path, width: int) -> None:
    """Write a strip as PNG or JPEG of a width in pixels, by renaming: readers of `path` always see a whole image.

    Raises:
        WriteError: the file cannot be written.
    """
    temporary = path.with_name(f".dcrafter-{secrets.token_hex(8)}.tmp")
    try:
        _enlarged(strip, width).save(temporary, SUFFIXES[path.suffix.lower()])
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(
            f"cannot write {path} ({error.strerror})", "Choose another place with --save-preview"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _enlarged(strip: Image.Image, width: int) -> Image.Image:
    size = width, max(1, round(strip.height * width / strip.width))
    return strip.resize(size, Image.Resampling.BICUBIC)


def _check(path: Path, overwrite: bool) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"the preview {path} is neither PNG nor JPEG", f"Give it a suffix of {', '.join(SUFFIXES)}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(f"{path} already exists", "Choose another name with --save-preview, or pass --overwrite")
    check_folder(path.absolute().parent, "--save-preview")


def _cells(strip: Image.Image, columns: int, lines: int) -> tuple[int, int]:
    """The largest size in characters, which are twice as high as wide, that fits."""
    scale = min(columns / strip.width, 2 * lines / strip.height)
    return min(columns, max(1, round(strip.width * scale))), min(lines, max(1, round(strip.height * scale / 2)))


def _graphics() -> Callable[..., Any] | None:
    """textual-image's way to draw on this terminal, if it is better than half blocks."""
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
