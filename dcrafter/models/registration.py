"""Motion from one image to each frame of a clip, found without any learned weights.

A similarity (zoom, turn, shift) by robust Gauss–Newton from coarse to fine (Baker and Matthews, "Lucas-Kanade 20
years on", IJCV 2004), then what moves differently by windowed least squares (Lucas and Kanade, 1981). Everything is
differentiable and runs on any device.

A flow (n, 2, h, w) says where each pixel of a frame lies in the reference: x and y in the coordinates of
`grid_sample`, −1 … 1 from the reference's left to its right edge and from its top to its bottom edge.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = (16, 32, 64)  # pixels of the shorter side
MOMENTUM = 0.9  # of a frame's motion that the next is expected to go on with
DAMPING = 4.0  # of local motion, in NOISE a pixel: what is not clearly seen does not move
NOISE = 0.02  # what coarse frames differ by where nothing differs, in units of [0, 1]


def base_flow(height: int, width: int, like: Tensor) -> Tensor:
    """The flow of an image onto itself, (1, 2, h, w)."""
    y = (torch.arange(height, device=like.device) + 0.5) * 2 / height - 1
    x = (torch.arange(width, device=like.device) + 0.5) * 2 / width - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].to(like.dtype)


def warp(image: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """(n or 1, C, H, W) moved by a flow (n, 2, h, w) → (n, C, h, w). Outside, the border is continued."""
    image = image.expand(len(flow), -1, -1, -1)
    return F.grid_sample(image, flow.movedim(1, -1), mode=mode, padding_mode="border", align_corners=False)


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """A flow (n, 2, h, w) at another resolution: (n, 2, height, width)."""
    shift = flow - base_flow(flow.shape[-2], flow.shape[-1], flow)  # coordinates themselves would be bent at the edges
    shift = F.interpolate(shift, (height, width), mode="bilinear", align_corners=False)
    return shift + base_flow(height, width, flow)


def magnification(flow: Tensor) -> Tensor:
    """How much larger than in the reference a flow (n, 2, h, w) shows things, along a line: (n, 1, h, w)."""
    down, right = torch.gradient(flow, dim=(-2, -1))
    area = right[:, :1] * down[:, 1:] - right[:, 1:] * down[:, :1]  # of the reference that a pixel shows
    return (area * flow.shape[-2] * flow.shape[-1] / 4).clamp_min(1e-3).rsqrt()


def inside(flow: Tensor, margin: float = 0.0) -> Tensor:
    """1 where a flow (n, 2, h, w) lies in the reference, `margin` from its edge, else 0: (n, 1, h, w)."""
    return (flow.abs().amax(1, keepdim=True) < 1 - margin).to(flow.dtype)


def blur(x: Tensor, size: int) -> Tensor:
    """Two passes of a box of `size` (odd) pixels, which is nearly a Gaussian of variance (size² − 1) / 6."""
    for _ in range(2):
        x = F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False)
    return x


def shrink(x: Tensor, side: int) -> Tensor:
    """(n, C, H, W) → the same at `side` pixels of its shorter side, each the mean of what it covers."""
    height, width = x.shape[-2:]
    factor = side / min(height, width)
    return F.adaptive_avg_pool2d(x, (round(height * factor), round(width * factor)))


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """(n, C, h, w) → its slopes along x and y, a unit of flow (half the image) being the step."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (x.shape[-1] / 4)
    along_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (x.shape[-2] / 4)
    return along_x, along_y


class Similarity:
    """Similarities p (n, 4) = (zoom − 1, turn, shift x, shift y) of frames in the coordinates of a flow.

    The aspect ratio keeps turns turns: x is measured in half heights.
    """

    def __init__(self, height: int, width: int, like: Tensor) -> None:
        self.aspect = width / height
        self.base = base_flow(height, width, like)
        x, y = self.base[:, 0] * self.aspect, self.base[:, 1]
        one, zero = torch.ones_like(x), torch.zeros_like(x)
        along_x = torch.stack([x, -y, one, zero], 1) / self.aspect
        self.jacobian = torch.stack([along_x, torch.stack([y, x, zero, one], 1)], 2)  # (1, 4, 2, h, w)

    def flow(self, p: Tensor) -> Tensor:
        """(n, 4) → flow (n, 2, h, w)."""
        return self.base + (p[:, :, None, None, None] * self.jacobian).sum(1)


def robust_weights(residual: Tensor, where: Tensor, detail: Tensor) -> Tensor:
    """Geman–McClure weights of residuals (n, C, h, w), by their spread where there is `detail` (n, 1, h, w) to see.

    Were the spread that of all pixels, a small subject before a plain ground would be an outlier as a whole.
    """
    size, seen = residual.abs().mean(1, keepdim=True), where * detail
    spread = _total(size * seen) / _total(seen).clamp_min(1e-6)
    return where / (1 + (size / (2 * spread.clamp_min(NOISE))) ** 2) ** 2


def _total(x: Tensor) -> Tensor:
    return x.sum((1, 2, 3), keepdim=True)


def _steepness(along_x: Tensor, along_y: Tensor) -> Tensor:
    return (along_x**2 + along_y**2).mean(1, keepdim=True).sqrt()


def refine_similarity(reference: Tensor, frames: Tensor, p: Tensor, steps: int) -> Tensor:
    """Gauss–Newton steps of p (n, 4) from a reference (1, C, h, w) to frames (n, C, h, w) at one resolution."""
    height, width = frames.shape[-2:]
    model = Similarity(height, width, frames)
    stacked = torch.cat([reference, *gradients(reference)], 1)
    for _ in range(steps):
        flow = model.flow(p)
        seen, along_x, along_y = warp(stacked, flow).chunk(3, 1)
        where = inside(flow)
        residual = seen - frames
        weights = robust_weights(residual - _mean(residual, where), where, _steepness(along_x, along_y))
        residual = residual - _mean(residual, weights)  # brightness may drift
        slopes = torch.stack([along_x, along_y], 1)  # (n, 2, C, h, w)
        columns = torch.einsum("ndchw,bkdhw->nkchw", slopes, model.jacobian)
        columns = columns - _mean(columns, weights[:, None])
        weighted = columns * weights[:, None]
        normal = torch.einsum("nkchw,nlchw->nkl", weighted, columns)
        damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-3)
        normal = normal + damping[:, None, None] * torch.eye(4, device=p.device, dtype=p.dtype)
        p = p - torch.linalg.solve(normal, torch.einsum("nkchw,nchw->nk", weighted, residual))
    return p


def _mean(x: Tensor, weights: Tensor) -> Tensor:
    """Mean over the last two axes, weighted."""
    return (x * weights).sum((-2, -1), keepdim=True) / weights.sum((-2, -1), keepdim=True).clamp_min(1e-6)


def register_clip(reference: Tensor, frames: Tensor, backwards: bool = False) -> Tensor:
    """Similarities from a reference (1, 3, H, W) to the frames of a clip (T, 3, H, W) → (T, 4).

    Each frame starts from where the one before it went on to; `backwards` begins at the last.
    """
    order = range(len(frames) - 1, -1, -1) if backwards else range(len(frames))
    small_reference, small = shrink(reference, LEVELS[0]), shrink(frames, LEVELS[0])
    found: dict[int, Tensor] = {}
    here, step = frames.new_zeros(1, 4), frames.new_zeros(1, 4)
    for i in order:
        before, here = here, refine_similarity(small_reference, small[i : i + 1], here + MOMENTUM * step, steps=4)
        step = here - before if found else torch.zeros_like(here)
        found[i] = here
    p = torch.cat([found[i] for i in range(len(frames))])
    for side in LEVELS[1:]:
        p = refine_similarity(shrink(reference, side), shrink(frames, side), p, steps=4)
    return p


def refine_flow(reference: Tensor, frames: Tensor, flow: Tensor, window: int, steps: int) -> Tensor:
    """Windowed least-squares steps of a flow (n, 2, h, w) from a reference (1, C, h, w) to frames (n, C, h, w).

    Where neither shows anything to hold on to, the flow stays what it was.
    """
    stacked = torch.cat([reference, *gradients(reference)], 1)
    damping = frames.shape[1] * (DAMPING * NOISE * min(frames.shape[-2:]) / 2) ** 2
    for _ in range(steps):
        seen, along_x, along_y = warp(stacked, flow).chunk(3, 1)
        residual = seen - frames
        where = inside(flow)
        weights = robust_weights(residual, where, _steepness(along_x, along_y))

        def summed(x: Tensor, weights: Tensor = weights) -> Tensor:
            return blur((x * weights).sum(1, keepdim=True), window)

        xx, xy, yy = summed(along_x**2) + damping, summed(along_x * along_y), summed(along_y**2) + damping
        x, y = summed(along_x * residual), summed(along_y * residual)
        step = torch.cat([xy * y - yy * x, xy * x - xx * y], 1) / (xx * yy - xy**2)
        largest = 2 * 2 / min(frames.shape[-2:])  # two pixels at a time
        flow = flow + blur(step.clamp(-largest, largest), 3)
    return flow
