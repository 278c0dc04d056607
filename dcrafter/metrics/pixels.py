"""Conversions of pixels, and metrics that compare them."""

from __future__ import annotations

import torch
from torch import Tensor


def as_input(pixels: Tensor) -> Tensor:
    """(n, H, W, 3) uint8 → (n, 3, H, W) in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def quantize_uint8(pixels: Tensor) -> Tensor:
    """[-1, 1], any shape → uint8: the reverse of `as_input`."""
    return ((pixels + 1) * 127.5).round().to(torch.uint8)


def psnr(images: Tensor, true: Tensor) -> float:
    """Mean over images (n, 3, H, W) in [-1, 1] of the peak signal-to-noise ratio, in dB."""
    squared = ((images.clamp(-1, 1) - true) ** 2).mean(dim=(1, 2, 3)) / 4
    return float((-10 * squared.clamp_min(1e-10).log10()).mean())


def frame_difference(frames: Tensor) -> Tensor:
    """Mean absolute difference of neighboring frames, for each clip: (n, T, H, W, 3) of any range → (n,)."""
    return frames.float().diff(dim=1).abs().mean(dim=(1, 2, 3, 4))


def loop_gap(frames: Tensor) -> Tensor:
    """How far the last frame is from the first, over the mean distance of neighbors: (n, T, H, W, 3) → (n,).

    At 1 a clip shown again and again has no visible join. A clip in which nothing moves has 0.
    """
    gap = (frames[:, -1].float() - frames[:, 0].float()).abs().mean(dim=(1, 2, 3))
    return gap / frame_difference(frames).clamp_min(1e-8)
