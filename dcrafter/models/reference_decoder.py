"""A clip from coarse frames and the sharp images that it was made from.

The idea is that of ToonCrafter's dual-reference decoder (arXiv 2405.17933): what is drawn comes from the diffusion
model, detail comes from the given images, where the video still shows it. Here it is made for a small model, whose own
decoder can only blur: each reference is moved by the motion found between the coarse decoding of it and the coarse
frames, and laid over them where the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.models.registration import (
    Similarity,
    blur,
    inside,
    magnification,
    refine_flow,
    register_clip,
    resize_flow,
    shrink,
    warp,
)

FLOW_SIDE, FLOW_WINDOW, FLOW_STEPS = 32, 9, 4  # pixels of the shorter side, of the window; how often
BEND = 2.0  # how strongly bends over time are taken out of a motion
EXPLAINED = (0.1, 0.3)  # shares of what a similarity leaves over: a flow that explains less is noise, more is motion
DETAIL_WINDOW = 17  # coarse pixels over which details are compared
DETAIL = 0.005  # what details are told from noise by, in units of [0, 1]
TOLERANCE = 0.004, 9.0  # of a mean difference, in units of [0, 1], and in medians of its frame
UNLIKE = 0.3, 4.0  # what details may lack of a correlation of 1, and in medians of their frame
FADED = 0.3  # the least share of a reference's details that a frame which shows it may have kept


@dataclass(frozen=True, eq=False)
class Reference:
    """A sharp image, and the frame of the clip that shows it: T is the one after the last, None is none."""

    image: Tensor  # (1, 3, H, W) in [0, 1]
    coarse: Tensor  # (1, 3, h, w) in [0, 1], as the small model's decoder gives it
    frame: int | None
    closeup: Tensor | None = None  # (1, 3, 2H, 2W) in [0, 1], the image where it is zoomed in on


class Moved(NamedTuple):
    """A reference as each frame of a clip shows it."""

    sharp: Tensor  # (T, 3, H, W)
    coarse: Tensor  # (T, 3, h, w)
    detail: Tensor  # (T, 3, h, w), of the coarse one
    own: Tensor  # (T, 1, h, w), its product with itself
    both: Tensor  # (T, 1, h, w), and with that of the frames
    seen: Tensor  # (T, 1, h, w) in 0 … 1, where the reference shows what the frame does


def compose(frames: Tensor, references: Sequence[Reference]) -> Tensor:
    """Lay references over coarse frames, moved as the frames are.

    Args:
        frames: coarse, (T, 3, h, w) in [0, 1].
        references: one or two, each later one laid over the earlier; one that a later frame shows fades in until there.

    Returns:
        (T, 3, H, W) in [0, 1], of the size of the references' images.
    """
    height, width = references[0].image.shape[-2:]
    target = detail(frames)
    moved = [move(reference, frames, target) for reference in references]
    out = enlarge(frames, height, width)
    for each, share in zip(moved, mixture(moved), strict=True):
        out = out + enlarge(share, height, width) * (each.sharp - enlarge(each.coarse, height, width))
    theirs = product(target, target)
    for reference, each in zip(references, moved, strict=True):
        trust = blur(agreement(each, frames, theirs) * each.seen, 3)
        if reference.frame:
            trust = trust * (torch.arange(len(frames), device=frames.device)[:, None, None, None] / reference.frame)
        out = torch.lerp(out, each.sharp, enlarge(trust, height, width))
    return out.clamp(0, 1)


def enlarge(x: Tensor, height: int, width: int) -> Tensor:
    """(n, C, h, w) → (n, C, height, width): images bicubic, shares (C = 1) bilinear, so that they stay in 0 … 1."""
    return F.interpolate(x, (height, width), mode="bilinear" if x.shape[1] == 1 else "bicubic", align_corners=False)


def move(reference: Reference, frames: Tensor, target: Tensor) -> Moved:
    """A reference by the flow that is found from it to coarse frames, these and their details (T, 3, h, w)."""
    flow = find_flow(reference, frames)
    fine, coarse = (resize_flow(flow, *x.shape[-2:]) for x in (reference.image, frames))
    sharp = warp(reference.image, fine, mode="bicubic")
    if reference.closeup is not None:
        share = enlarge(magnification(flow).log2().clamp(0, 1), *fine.shape[-2:])  # trilinear filtering of two levels
        sharp = torch.lerp(sharp, warp(reference.closeup, fine, mode="bicubic"), share)
    seen_coarse = warp(reference.coarse, coarse)
    its = detail(seen_coarse)
    return Moved(sharp, seen_coarse, its, product(its, its), product(its, target), blur(inside(coarse), 3))


def mixture(moved: Sequence[Moved]) -> list[Tensor]:
    """How much of each of one or two references is in coarse frames: shares (T, 1, h, w) in 0 … 1.

    Windowed least squares of the frames' details by the references', so that a frame half faded from one image to
    another has half of both.
    """
    if len(moved) == 1:
        shares = [each.both / (each.own + DETAIL**2) for each in moved]
    else:
        a, b = moved
        aa, bb, ab = a.own + DETAIL**2, b.own + DETAIL**2, product(a.detail, b.detail)
        determinant = aa * bb - ab**2
        shares = [(bb * a.both - ab * b.both) / determinant, (aa * b.both - ab * a.both) / determinant]
    shares = [share.clamp(0, 1) * each.seen for share, each in zip(shares, moved, strict=True)]
    total = torch.stack(shares).sum(0).clamp_min(1)
    return [share / total for share in shares]


def detail(x: Tensor) -> Tensor:
    """What images (n, C, h, w) differ by from their surroundings: the same shape."""
    return x - blur(x, DETAIL_WINDOW)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Of details (n, C, h, w), summed over their surroundings: (n, 1, h, w)."""
    return blur((a * b).mean(1, keepdim=True), DETAIL_WINDOW)


def find_flow(reference: Reference, frames: Tensor) -> Tensor:
    """From a reference to coarse frames (T, 3, h, w) → flow (T, 2, 32, 32) or as the frames' shape has it."""
    p = smooth(register_clip(reference.coarse, frames, backwards=bool(reference.frame)))
    known = reference.frame is not None and reference.frame < len(frames)
    if known:
        p = p - p[reference.frame]  # a frame that shows the image itself has not moved
    small = shrink(frames, FLOW_SIDE)
    height, width = small.shape[-2:]
    rigid = Similarity(height, width, frames).flow(p)
    small_reference = shrink(reference.coarse, FLOW_SIDE)
    bent = smooth(refine_flow(small_reference, small, rigid, FLOW_WINDOW, FLOW_STEPS) - rigid)
    if known:
        bent = bent - bent[reference.frame]
    return rigid + bent * credibility(small_reference, small, rigid, rigid + bent)


def credibility(reference: Tensor, frames: Tensor, rigid: Tensor, flow: Tensor) -> Tensor:
    """Where a flow explains what a similarity's, `rigid`, cannot: (T, 1, h, w) in 0 … 1.

    Of a scene that moves as a whole, a flow follows nothing but the noise of coarse frames, and bends straight lines.
    Noise takes less away from the residual than motion does, and does so nowhere for long.
    """

    def residual(flow: Tensor) -> Tensor:
        energy = blur((warp(reference, flow) - frames).square().mean(1, keepdim=True), FLOW_WINDOW)
        over_time = F.avg_pool2d(energy.flatten(1)[None], (5, 1), 1, (2, 0), count_include_pad=False)
        return over_time.view_as(energy)

    none, all_ = EXPLAINED
    explained = 1 - (residual(flow) + 1e-8) / (residual(rigid) + 1e-8)
    share = ((explained - none) / (all_ - none)).clamp(0, 1)
    return blur(share.square() * (3 - 2 * share), 3)


def smooth(x: Tensor, strength: float = BEND) -> Tensor:
    """(T, …) over time with small bends taken out: the minimum of |s − x|² + strength·|s″|² (Whittaker)."""
    n = len(x)
    if n < 3:
        return x
    bend = torch.diff(torch.eye(n, dtype=x.dtype, device=x.device), n=2, dim=0)
    hat = torch.linalg.inv(torch.eye(n, dtype=x.dtype, device=x.device) + strength * bend.T @ bend)
    return (hat @ x.flatten(1)).view_as(x)


def agreement(moved: Moved, frames: Tensor, theirs: Tensor) -> Tensor:
    """How far a moved reference looks like coarse frames (T, 3, h, w): (T, 1, h, w) in 0 … 1.

    `theirs` is the product of the frames' details with themselves, (T, 1, h, w).

    More is tolerated in a frame that differs everywhere: there the denoiser is at its limit, and nothing new appeared.
    Nor did it where details have paled and nothing else has changed: that is how the denoiser loses hold of them. Where
    others have taken their place something did, however alike the colors are.
    """

    def difference(coarse: Tensor) -> Tensor:
        return blur((blur(coarse, 5) - blur(frames, 5)).abs().mean(1, keepdim=True), 5)

    both, own, theirs = (x + DETAIL**2 for x in (moved.both, moved.own, theirs))
    paled = moved.coarse - (1 - (both / own).clamp(FADED, 1)) * moved.detail
    unlike = (1 - both * (own * theirs).rsqrt()).clamp_min(0)
    colors = tolerated(difference(paled), difference(moved.coarse), TOLERANCE)
    return colors * tolerated(unlike, unlike, UNLIKE)


def tolerated(deviation: Tensor, usual: Tensor, tolerance: tuple[float, float]) -> Tensor:
    """1 where a deviation (T, 1, h, w) is none, 0 far beyond what is tolerated always and in medians of the usual."""
    always, as_usual = tolerance
    median = usual.flatten(1).median(dim=1).values[:, None, None, None]
    return torch.exp(-((deviation / (always + as_usual * median)) ** 2))
