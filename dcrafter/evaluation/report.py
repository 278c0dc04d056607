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

    metric: str
    value: float
    unit: Literal["dB", "%", ""]
    count: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def figure(self) -> str:
        return f"{100 * self.value:.0f} %" if self.unit == "%" else f"{self.value:.2f} {self.unit}".rstrip()


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = ["| metric | result | n |", "|---|---|---|"]
    lines += [f"| {row.metric} | {row.figure} | {row.count} |" for row in rows]
    return "\n".join(lines)


def sheet(videos: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Titles and videos (T, H, W, 3) uint8, a row each: its title over some of its frames."""
    height, width = videos[0][1].shape[1:3]
    canvas = Image.new("RGB", (SHEET_FRAMES * width, len(videos) * (height + LINE)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (title, video) in enumerate(videos):
        top = i * (height + LINE)
        draw.text((2, top + 1), title, fill="black")
        chosen = np.linspace(0, len(video) - 1, SHEET_FRAMES).round().astype(int)
        strip = np.concatenate([*video.numpy()[chosen]], axis=1)
        canvas.paste(Image.fromarray(strip), (0, top + LINE))
    return canvas


def lambda_figure(values: Sequence[float]) -> str:
    """λ of each layer as an SVG of bars about 1, layers numbered from 1 (like the paper's figure 2a)."""
    width, height, gap = 26, 120, 8
    reach = max(*(abs(value - 1) for value in values), 0.05)
    middle, scale = height / 2 + 16, height / 2 / reach
    total = len(values) * (width + gap) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height + 52}" font-family="sans-serif" '
        'font-size="11" text-anchor="middle">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<line x1="40" x2="{total - 8}" y1="{middle}" y2="{middle}" stroke="black"/>',
        f'<text x="18" y="{middle + 4}">λ = 1</text>',
    ]
    for i, value in enumerate(values):
        x, bar = 48 + i * (width + gap), abs(value - 1) * scale
        y = middle - bar if value > 1 else middle
        parts += [
            f'<rect x="{x}" y="{y:.1f}" width="{width}" height="{bar:.1f}" fill="#4a7fb5"/>',
            f'<text x="{x + width / 2}" y="{y - 4 if value > 1 else y + bar + 12:.1f}">{value:.2f}</text>',
            f'<text x="{x + width / 2}" y="{height + 46}">{i + 1}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
