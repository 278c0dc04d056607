"""How the content of a clip moves as a whole: a similarity (shift, zoom, turn) from its first frame to its last.

A similarity is one complex number times a point plus another: p → a·p + b, with a = exp(zoom + i·turn) and b = x + i·y.
In image coordinates, y down, multiplying by i turns clockwise as seen. Each frame is registered to the next by
least squares on grey values (Gauss–Newton, coarse to fine, robust; Baker & Matthews, "Lucas–Kanade 20 Years On",
2004), all pairs at once, and the steps are composed. So no step is large, and content that comes in on the way counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = (16, 32, 64)  # pixels a side at which frames are compared
ITERATIONS = 8  # at each level
DIRECTIONS = (
    "pan left", "pan right", "pan up", "pan down", "zoom in", "zoom out", "rotate clockwise", "rotate counterclockwise",
)  # fmt: skip


@dataclass(frozen=True)
class Similarity:
    """Content at p = (px, py) comes to exp(zoom)·R(turn)·p + (x, y). A view spans [-1, 1] both ways, y down."""

    x: float  # half views
    y: float
    zoom: float  # log of scale: above 0 the content grows
    turn: float  # radians, clockwise as seen


def similarity(frames: Tensor) -> Similarity:
    """The motion from the first to the last of square frames (T, S, S, 3), uint8 or 0…255, with T ≥ 2."""
    grey = frames.float().mean(dim=-1)[:, None] / 255
    pairs = len(grey) - 1
    scale = torch.ones(pairs, dtype=torch.complex64)
    shift = torch.zeros(pairs, dtype=torch.complex64)
    for size in LEVELS:
        level = F.interpolate(grey, (size, size), mode="bilinear", antialias=True, align_corners=False)
        scale, shift = _register(level[:-1], level[1:], scale, shift)
    a, b = torch.ones((), dtype=torch.complex64), torch.zeros((), dtype=torch.complex64)
    turn = 0.0
    for step_a, step_b in zip(scale, shift, strict=True):
        a, b = step_a * a, step_a * b + step_b
        turn += float(step_a.angle())  # not of the product: it may go beyond half a turn
    return Similarity(float(b.real), float(b.imag), float(a.abs().log()), turn)


def goes(direction: str, measured: Similarity) -> bool:
    """True if the measured motion has the sign that one of the eight directed motions asks for.

    A pan is the camera's: under "pan left" the content goes right.
    """
    match direction.split():
        case ["pan", to]:
            amount = {"left": measured.x, "right": -measured.x, "up": measured.y, "down": -measured.y}[to]
        case ["zoom", to]:
            amount = {"in": measured.zoom, "out": -measured.zoom}[to]
        case ["rotate", to]:
            amount = {"clockwise": measured.turn, "counterclockwise": -measured.turn}[to]
        case _:
            raise ValueError(f"{direction} has no direction")
    return amount > 0


DIRECTION = re.compile(
    r"\b(pan|zoom|rotat)\w*\s+(left|right|up|down|in|out|clockwise|counterclockwise)\b", re.IGNORECASE
)


def motion_as_prompted(frames: Tensor, caption: str) -> float | None:
    """1 if a video (T, H, W, 3) goes where its caption says, 0 if not, None if the caption names no direction.

    A caption names one as in "zoom in", "panning left" or "rotates clockwise".
    """
    found = DIRECTION.search(caption)
    if not found:
        return None
    way = {"rotat": "rotate"}.get(found[1].lower(), found[1].lower())
    direction = f"{way} {found[2].lower()}"
    return float(goes(direction, similarity(frames))) if direction in DIRECTIONS else None


def _gradients(frame: Tensor) -> Tensor:
    """(n, 1, S, S) → (n, 2, S, S), along x and y, a half view."""
    down, right = torch.gradient(frame[:, 0], spacing=2 / frame.shape[-1], dim=(1, 2))
    return torch.stack([right, down], dim=1)


def _register(first: Tensor, second: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Improve a, b (n,) so that second at a·p + b matches first at p. Frames (n, 1, S, S)."""
    n, _, size, _ = first.shape
    line = (torch.arange(size) + 0.5) * 2 / size - 1
    p = torch.complex(*torch.meshgrid(line, line, indexing="xy")).flatten()
    target = first.flatten(1)
    stacked = torch.cat([second, _gradients(second)], dim=1)
    own_slope = _gradients(first).flatten(2)
    for _ in range(ITERATIONS):
        seen_at = torch.view_as_real(a[:, None] * p + b[:, None])  # (n, S², 2)
        inside = (seen_at.abs().amax(dim=-1) < 1).float()
        grid = seen_at.view(n, size, size, 2)
        seen = F.grid_sample(stacked, grid, padding_mode="border", align_corners=False).flatten(2)
        right, down = ((seen[:, 1:] + own_slope) / 2).unbind(dim=1)  # of both: converges in fewer steps
        residual = seen[:, 0] - target
        columns = [
            right * p.real + down * p.imag,  # scale's real part
            down * p.real - right * p.imag,  # and its imaginary one
            right,
            down,
            torch.ones_like(right),  # brighter as a whole
        ]
        jacobian = torch.stack(columns, dim=-1)
        spread = residual.abs().median(dim=1, keepdim=True).values * 1.5 + 0.005
        weight = inside / (1 + (residual / spread) ** 2)
        weighted = (jacobian * weight[..., None]).transpose(1, 2)
        normal = weighted @ jacobian
        normal += torch.eye(5) * (1e-4 * normal.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] + 1e-6)
        step = torch.linalg.solve(normal, weighted @ residual[..., None])[..., 0]
        a = a - torch.complex(step[:, 0], step[:, 1])
        b = b - torch.complex(step[:, 2], step[:, 3])
    return a, b
