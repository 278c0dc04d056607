"""Videos longer than a model's clips: windows that overlap in time, their predictions averaged in every step.

This is MultiDiffusion (arXiv 2302.08113, equation 5) along the frames, with the weights of FreeNoise (arXiv 2310.15169,
section 3.3), which fall from the middle of a window to its ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dcrafter.sampling.ddim import Denoiser

WindowDenoiser = Callable[[Tensor, int, slice], Tensor]
"""(x_t of some frames, t, which frames these are) → the guided prediction for them."""


def windows(length: int, window: int, overlap: int) -> list[slice]:
    """Cover `length` frames with windows of `window` that share `overlap` with the next, the last perhaps more."""
    last = max(0, length - window)
    return [slice(start, start + min(window, length)) for start in [*range(0, last, window - overlap), last]]


def fuse(denoiser: WindowDenoiser, windows: Sequence[slice]) -> Denoiser:
    """A denoiser of all frames from one of windows."""

    def denoise(x: Tensor, t: int) -> Tensor:
        if len(windows) == 1:
            return denoiser(x, t, windows[0])
        total, weights = torch.zeros_like(x), x.new_zeros(x.shape[2], 1, 1)
        for frames in windows:
            weight = hat(frames.stop - frames.start, x.device)[:, None, None]
            total[:, :, frames] += weight * denoiser(x[:, :, frames], t, frames)
            weights[frames] += weight
        return total / weights

    return denoise


def hat(length: int, device: torch.device | None = None) -> Tensor:
    """1, 2, 3, … 3, 2, 1."""
    forward = torch.arange(1, length + 1, device=device)
    return torch.minimum(forward, forward.flip(0))
