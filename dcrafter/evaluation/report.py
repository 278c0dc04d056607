"""What an evaluation says: rows of figures, a Markdown table of them, and a sheet of videos to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

SHEET_FRAMES = 8  # of each video
LINE = 14  # pixels high, of text


@dataclass(frozen=True)
class Row:
    """One figure: decibels, a share of 1 ("%") or a plain number; `count` says of how many videos or pictures."""

    what: str
    asked: str
    value: float
    unit: Literal["dB", "%", ""]
    count: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def figure(self) -> str:
        return f"{100 * self.value:.0f} %" if self.unit == "%" else f"{self.value:.2f} {self.unit}".rstrip()


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = ["| | asked | measured | of |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.asked} | {row.figure} | {row.count} |" for row in rows]
    return "\n".join(lines)


def sheet(videos: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Titles and videos (T, S, S, 3) uint8, a row each: its title over some of its frames."""
    size = videos[0][1].shape[1]
    canvas = Image.new("RGB", (SHEET_FRAMES * size, len(videos) * (size + LINE)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (title, video) in enumerate(videos):
        top = i * (size + LINE)
        draw.text((2, top + 1), title, fill="black")
        chosen = np.linspace(0, len(video) - 1, SHEET_FRAMES).round().astype(int)
        strip = np.concatenate([*video.numpy()[chosen]], axis=1)
        canvas.paste(Image.fromarray(strip), (0, top + LINE))
    return canvas
