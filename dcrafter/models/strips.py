"""Large images in strips of rows, so that what is between two layers is never whole in memory.

Exact up to rounding: strips overlap by the row that a 3×3 convolution sees beyond them, and norms take the statistics
of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WHOLE = 2**25  # values of an image that is in memory whole: strips take a quarter longer
STRIP = 2**23  # values of an image in a strip


def cuts(x: Tensor) -> list[tuple[int, int]]:
    """The first row of each strip of images (n, C, h, w), and the one behind its last. Training sees them whole."""
    height, values = x.shape[2], x.shape[1:].numel()
    whole = torch.is_grad_enabled() or values <= WHOLE
    rows = height if whole else max(1, height * STRIP // values)
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


def in_strips(compute: Callable[..., Tensor], *inputs: Tensor, scale: int = 1) -> Tensor:
    """What `compute` makes of images (n, C, h, w) of one size: `scale` rows of each row and those beside it."""
    strips = cuts(inputs[0])
    if len(strips) == 1:
        return compute(*inputs)
    height, out = inputs[0].shape[2], None
    for first, behind in strips:
        above, below = min(1, first), min(1, height - behind)  # rows that there are around
        part = compute(*(each[:, :, first - above : behind + below] for each in inputs))
        if out is None:
            ordered = part.is_contiguous(memory_format=torch.channels_last)
            form = torch.channels_last if ordered else torch.contiguous_format
            n, channels, _, width = part.shape
            out = torch.empty(
                n, channels, scale * height, width, dtype=part.dtype, device=part.device, memory_format=form
            )
        out[:, :, scale * first : scale * behind] = part[:, :, scale * above : part.shape[2] - scale * below]
    assert out is not None
    return out


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What takes x, or strips of it, through a group norm over x whole and SiLU."""
    strips = cuts(x)
    if len(strips) == 1:
        return lambda whole: F.silu(norm(whole), inplace=True)
    moments = [_moments(x[:, :, first:behind].float(), norm.num_groups) for first, behind in strips]
    means, variances = (torch.stack(each, dim=-1) for each in zip(*moments, strict=True))  # (n, groups, strips)
    shares = torch.tensor([(behind - first) / x.shape[2] for first, behind in strips], device=x.device)
    mean = (shares * means).sum(-1, keepdim=True)
    variance = (shares * (variances + (means - mean).square())).sum(-1)
    n, per_group = len(x), norm.num_channels // norm.num_groups
    mean, variance = (each.reshape(-1).repeat_interleave(per_group) for each in (mean, variance))  # (n·C,)
    weight, bias = norm.weight.float().repeat(n), norm.bias.float().repeat(n)

    def apply(strip: Tensor) -> Tensor:
        ordered = n == 1 and strip.is_contiguous(memory_format=torch.channels_last)
        channels = strip if ordered else strip.reshape(1, -1, *strip.shape[2:]).contiguous()  # of each image their own
        normed = F.batch_norm(channels, mean, variance, weight, bias, eps=norm.eps)
        return F.silu(normed, inplace=True).view_as(strip)

    return apply


def _moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of groups of channels (n, groups), in few passes whatever the layout."""
    means = x.mean((2, 3), keepdim=True)
    variances = (x - means).square_().mean((2, 3)).view(len(x), groups, -1)  # (n, groups, C / groups)
    means = means.view(len(x), groups, -1)
    mean = means.mean(-1)
    return mean, (variances + (means - mean[..., None]).square()).mean(-1)
