"""Held-out clips while a denoiser trains: sampled, measured, and shown beside the true ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dcrafter.config import Prediction
from dcrafter.metrics.pixels import as_input, frame_difference, psnr
from dcrafter.sampling.ddim import Denoiser, ddim
from dcrafter.sampling.schedule import SamplingStep

SEEN = 8  # frames of a clip in the image


def sample(
    denoiser: Denoiser,
    like: Tensor,
    steps: Sequence[SamplingStep],
    generator: torch.Generator,
    *,
    prediction: Prediction,
    eta: float,
) -> Tensor:
    """Latents of the shape, type and device of `like`, by DDIM; the generator of its noise is on the CPU."""

    def noise() -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    for sampled in ddim(denoiser, noise(), steps, noise, prediction=prediction, eta=eta):
        latents = sampled.x
    return latents


def figures(true: Tensor, generated: Tensor, *, both_ends: bool) -> dict[str, float]:
    """Metrics of clips (n, T, H, W, 3) uint8; with `both_ends` the last frame was given too."""
    found = {"psnr_first_frame": psnr(as_input(generated[:, 0]), as_input(true[:, 0]))}
    if both_ends:
        found["psnr_last_frame"] = psnr(as_input(generated[:, -1]), as_input(true[:, -1]))
    if generated.shape[1] > 1:
        found["frame_difference"] = float(frame_difference(generated).mean())
        found["frame_difference_of_data"] = float(frame_difference(true).mean())
    return found


def sheet(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """An image (H, W, 3) of true and generated clips (T, h, w, 3), each generated one below the true one."""
    rows = []
    for clips in pairs:
        for frames in clips:
            chosen = torch.linspace(0, len(frames) - 1, min(SEEN, len(frames))).round().long()
            rows.append(torch.cat([*frames[chosen]], dim=1))
    return torch.cat(rows, dim=0)
