"""What may move: elsewhere the clean latents are given, in every step.

Blended diffusion (arXiv 2111.14818, 2206.02779), on the predicted x₀ in place of x_t: there is no noise to draw, and
samplers see nothing but another denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dcrafter.config import Prediction
from dcrafter.sampling.ddim import Denoiser
from dcrafter.sampling.schedule import SamplingStep, from_x0, to_eps_and_x0


def hold(
    denoiser: Denoiser, still: Tensor, mask: Tensor, steps: Sequence[SamplingStep], prediction: Prediction
) -> Denoiser:
    """A denoiser that predicts given latents outside a mask.

    Args:
        denoiser: what moves.
        still: scaled latents x₀, (B, C, T, h, w).
        mask: 1 where the denoiser is believed, 0 where `still` is, or between; (B, 1, 1, h, w).
        steps: those that will be walked.
        prediction: what the denoiser predicts.
    """
    by_timestep = {step.t: step for step in steps}

    def denoise(x: Tensor, t: int) -> Tensor:
        step = by_timestep[t]
        _, x0 = to_eps_and_x0(prediction, denoiser(x, t), x, step.alpha)
        return from_x0(prediction, torch.lerp(step.scale * still, x0, mask), x, step.alpha)

    return denoise
