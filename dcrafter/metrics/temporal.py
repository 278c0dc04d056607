"""How frames follow one another: flicker, and how much moves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.metrics.pixels import loop_gap

CELLS = 8  # a side, in which brightness is averaged
LEVELS = (12, 24, 48, 96)  # pixels a side at which flow is estimated, coarse to fine
ITERATIONS = 4  # at each level
WINDOW = 7  # pixels a side, over which flow is taken to be one


def flicker(frames: Tensor) -> float:
    """How unsteady brightness is: (T, H, W, 3) uint8, T ≥ 3 → mean absolute second difference in time, 0 to 510.

    Of gray values averaged over 8×8 cells of the frame, in which steady motion changes little from step to step.
    """
    cells = F.adaptive_avg_pool2d(_gray(frames), CELLS)
    return float(cells.double().diff(n=2, dim=0).abs().mean())


def loop_closure(frames: Tensor) -> float:
    """`loop_gap` of one video (T, H, W, 3)."""
    return float(loop_gap(frames[None]))


def motion_magnitude(frames: Tensor) -> float:
    """Mean length of optical flow from frame to frame, in percent of the frame's side: (T, H, W, 3) uint8, T ≥ 2."""
    return float(100 * optical_flow(frames).double().norm(dim=1).mean())


def optical_flow(frames: Tensor) -> Tensor:
    """Where the content of each frame goes in the next: (T, H, W, 3) → (T-1, 2, 96, 96), x and y, in sides of a frame.

    Iterated Lucas–Kanade in a pyramid (Bouguet, "Pyramidal Implementation of the Lucas Kanade Feature Tracker", 2001),
    dense, all pairs at once. It is damped where there is no texture.
    """
    gray = _gray(frames) / 255
    flow = gray.new_zeros(len(gray) - 1, 2, LEVELS[0], LEVELS[0])
    for size in LEVELS:
        level = F.interpolate(gray, (size, size), mode="bilinear", antialias=True, align_corners=False)
        flow = F.interpolate(flow, (size, size), mode="bilinear", align_corners=False)
        for _ in range(ITERATIONS):
            flow = flow + _step(level[:-1], level[1:], flow)
    return flow


def _step(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """One Gauss–Newton step for images (n, 1, S, S) and flow (n, 2, S, S) in sides; at most a pixel each way."""
    size = first.shape[-1]
    line = (torch.arange(size, dtype=first.dtype) + 0.5) * 2 / size - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1) + 2 * flow.permute(0, 2, 3, 1)
    seen = F.grid_sample(second, grid, padding_mode="border", align_corners=False)
    down, right = torch.gradient((first + seen)[:, 0] / 2, dim=(1, 2))
    change = (first - seen)[:, 0]
    inside = (grid.abs().amax(dim=-1) < 1).to(first.dtype)
    sums = torch.stack([right * right, right * down, down * down, right * change, down * change], dim=1)
    xx, xy, yy, xt, yt = F.avg_pool2d(sums * inside[:, None], WINDOW, stride=1, padding=WINDOW // 2).unbind(dim=1)
    xx, yy = xx + 1e-5, yy + 1e-5  # gray values a pixel, squared: below it there is no texture
    step = torch.stack([yy * xt - xy * yt, xx * yt - xy * xt], dim=1) / (xx * yy - xy**2)[:, None]
    return step.clamp(-1, 1) / size


def _gray(frames: Tensor) -> Tensor:
    """(T, H, W, 3) → (T, 1, H, W), in the frames' range."""
    return frames.float().mean(dim=-1)[:, None]
