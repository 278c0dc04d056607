"""DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): DDIM's steps, towards a better guess at the clean latents.

DDIM takes the prediction x₀ for constant through a step. This draws a line through the last two predictions, in
λ = log(√ᾱ / √(1 − ᾱ)), and steps with its value in the middle of the step: errors fall with the square of the number
of steps. Everything else is DDIM's, its eta too: eta 1 is the same paper's SDE-DPM-Solver++(2M).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from dcrafter.config import Prediction
from dcrafter.sampling.ddim import Denoiser, Sampled, sigma
from dcrafter.sampling.schedule import SamplingStep, to_eps_and_x0


def log_snr(alpha: float) -> float:
    """λ of ᾱ, half the logarithm of the signal-to-noise ratio; −∞ where there is no signal."""
    return 0.5 * math.log(alpha / (1 - alpha)) if alpha > 0 else -math.inf


def dpm(
    denoiser: Denoiser,
    x_T: Tensor,
    steps: Sequence[SamplingStep],
    noise: Callable[[], Tensor],
    *,
    prediction: Prediction,
    eta: float = 0.0,
) -> Iterator[Sampled]:
    """See `SamplerFunction`.

    The first step is DDIM's, and so is the last, whose long way in λ no line should be drawn over; with zero
    terminal SNR the second too: its predecessor came from λ = −∞.
    """
    x = x_T
    before: tuple[Tensor, float] | None = None  # the preceding step's x₀, and its way in λ
    for step in steps:
        _, x0 = to_eps_and_x0(prediction, denoiser(x, step.t), x, step.alpha)
        # The dynamic rescale belongs to the signal, √ᾱ·s_t. What the preceding step rescaled is in this one's s_t.
        way = log_snr(step.alpha_prev) - log_snr(step.alpha) + math.log(step.rescale)
        middle = x0
        if before is not None and step is not steps[-1]:
            middle = x0 + (x0 - before[0]) * (way / (2 * before[1]))
        eps = (x - step.alpha**0.5 * middle) / (1 - step.alpha) ** 0.5
        s = sigma(step, eta)
        x = step.alpha_prev**0.5 * step.rescale * middle
        x = x + max(0.0, 1 - step.alpha_prev - s**2) ** 0.5 * eps + s * noise()
        before = x0 * step.rescale, way
        yield Sampled(before[0], x)
