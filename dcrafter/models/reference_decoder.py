"""A clip from coarse frames and the sharp images that it was made from.

The idea is that of ToonCrafter's dual-reference decoder (arXiv 2405.17933): what is drawn comes from the diffusion
model, detail comes from the given images, where the video still shows it. Here it is made for a small model, whose own
decoder can only blur: each reference is moved by the motion found between the coarse decoding of it and the coarse
frames, and laid over them where the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.models.registration import (
    Similarity,
    blur,
    inside,
    refine_flow,
    register_clip,
    resize_flow,
    shrink,
    warp,
)

FLOW_SIDE, FLOW_WINDOW, FLOW_STEPS = 32, 9, 4  # pixels of the shorter side, of the window; how often
DETAIL = 0.02  # what the details of coarse images are told from noise by, in units of [0, 1]
BEND = 2.0  # how strongly bends over time are taken out of a flow
TOLERANCE = 0.18  # of a mean difference, in units of [0, 1], at which a reference counts for a third


@dataclass(frozen=True)
class Reference:
    """A sharp image, and the frame of the clip that shows it: T is the one after the last, None is none."""

    image: Tensor  # (1, 3, H, W) in [0, 1]
    coarse: Tensor  # (1, 3, h, w) in [0, 1], as the small model's decoder gives it
    frame: int | None


def compose(frames: Tensor, references: Sequence[Reference]) -> Tensor:
    """Coarse frames (T, 3, h, w) in [0, 1] and references → (T, 3, H, W), each later one laid over the earlier.

    One that a later frame shows fades in until there.
    """
    height, width = references[0].image.shape[-2:]
    flows = [find_flow(reference, frames) for reference in references]
    sharp = [
        warp(r.image, resize_flow(f, height, width), mode="bicubic") for r, f in zip(references, flows, strict=True)
    ]
    coarse = [warp(r.coarse, resize_flow(f, *frames.shape[-2:])) for r, f in zip(references, flows, strict=True)]
    shown = [blur(inside(resize_flow(f, *frames.shape[-2:])), 3) for f in flows]
    shares = mixture(frames, coarse, shown)
    out = enlarge(frames, height, width)
    for each, moved, share in zip(sharp, coarse, shares, strict=True):
        out = out + enlarge(share, height, width) * (each - enlarge(moved, height, width))
    for reference, each, moved, seen in zip(references, sharp, coarse, shown, strict=True):
        trust = blur(agreement(moved, frames) * seen, 3)
        if reference.frame:
            trust = trust * (torch.arange(len(frames), device=frames.device)[:, None, None, None] / reference.frame)
        out = torch.lerp(out, each, enlarge(trust, height, width))
    return out.clamp(0, 1)


def enlarge(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode="bilinear" if x.shape[1] == 1 else "bicubic", align_corners=False)


def mixture(frames: Tensor, coarse: Sequence[Tensor], shown: Sequence[Tensor], window: int = 9) -> list[Tensor]:
    """How much of each moved coarse reference is in coarse frames (T, 3, h, w): shares (T, 1, h, w) in 0 … 1.

    Windowed least squares of their details, so that a frame half faded from one image to another has half of both.
    """
    details = [c - blur(c, window) for c in coarse]
    target = frames - blur(frames, window)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return blur((a * b).mean(1, keepdim=True), window)

    floor = DETAIL**2
    if len(details) == 1:
        (a,) = details
        shares = [product(a, target) / (product(a, a) + floor)]
    else:
        a, b = details
        aa, bb, ab = product(a, a) + floor, product(b, b) + floor, product(a, b)
        at, bt = product(a, target), product(b, target)
        scale = aa * bb - ab**2
        shares = [(bb * at - ab * bt) / scale, (aa * bt - ab * at) / scale]
    shares = [share.clamp(0, 1) * seen for share, seen in zip(shares, shown, strict=True)]
    total = torch.stack(shares).sum(0).clamp_min(1)
    return [share / total for share in shares]


def find_flow(reference: Reference, frames: Tensor) -> Tensor:
    """From a reference to coarse frames (T, 3, h, w) → flow (T, 2, 32, 32) or as the frames' shape has it."""
    p = smooth(register_clip(reference.coarse, frames, backwards=bool(reference.frame)))
    known = reference.frame is not None and reference.frame < len(frames)
    if known:
        p = p - p[reference.frame]  # a frame that shows the image itself has not moved
    small = shrink(frames, FLOW_SIDE)
    height, width = small.shape[-2:]
    rigid = Similarity(height, width, frames).flow(p)
    flow = refine_flow(shrink(reference.coarse, FLOW_SIDE), small, rigid, FLOW_WINDOW, FLOW_STEPS)
    bent = smooth(flow - rigid, BEND)
    return rigid + bent - (bent[reference.frame] if known else 0)


def smooth(x: Tensor, strength: float = 2.0) -> Tensor:
    """(T, …) over time with small bends taken out: the minimum of |s − x|² + strength·|s″|² (Whittaker)."""
    n = len(x)
    if n < 3:
        return x
    bend = torch.diff(torch.eye(n, dtype=x.dtype, device=x.device), n=2, dim=0)
    hat = torch.linalg.inv(torch.eye(n, dtype=x.dtype, device=x.device) + strength * bend.T @ bend)
    return (hat @ x.flatten(1)).view_as(x)


def agreement(moved: Tensor, frames: Tensor) -> Tensor:
    """How far a moved coarse reference looks like coarse frames, both (T, 3, h, w): (T, 1, h, w) in 0 … 1."""
    apart = (blur(moved, 5) - blur(frames, 5)).abs().mean(1, keepdim=True)
    return torch.exp(-((blur(apart, 5) / TOLERANCE) ** 2))
