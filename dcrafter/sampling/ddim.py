"""DDIM (arXiv 2010.02502) over any denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from dcrafter.config import Prediction
from dcrafter.sampling.schedule import SamplingStep, to_eps_and_x0

Denoiser = Callable[[Tensor, int], Tensor]
"""(x_t, t) → the guided prediction, eps or v, in the shape of x_t."""


class Sampled(NamedTuple):
    """What a step gives: the predicted clean latents (after the dynamic rescale), and the next x."""

    x0: Tensor
    x: Tensor


class SamplerFunction(Protocol):
    """What a sampler is: it walks `steps` from pure noise `x_T` and yields after each.

    It calls `noise()` once a step, whatever eta is, in the last step too: the order of draws, and so what a seed
    means, is the same for every sampler and every eta.
    """

    def __call__(
        self,
        denoiser: Denoiser,
        x_T: Tensor,
        steps: Sequence[SamplingStep],
        noise: Callable[[], Tensor],
        *,
        prediction: Prediction,
        eta: float,
    ) -> Iterator[Sampled]: ...


def sigma(step: SamplingStep, eta: float) -> float:
    """Standard deviation of the noise that a step adds (equation 16)."""
    a, a_prev = step.alpha, step.alpha_prev
    return float(eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)) ** 0.5)


def ddim(
    denoiser: Denoiser,
    x_T: Tensor,
    steps: Sequence[SamplingStep],
    noise: Callable[[], Tensor],
    *,
    prediction: Prediction,
    eta: float = 1.0,
) -> Iterator[Sampled]:
    """See `SamplerFunction`."""
    x = x_T
    for step in steps:
        eps, x0 = to_eps_and_x0(prediction, denoiser(x, step.t), x, step.alpha)
        x0 = x0 * step.rescale
        s = sigma(step, eta)
        # Equation 12; at ᾱ = 0 rounding may take the difference below zero.
        towards_x = max(0.0, 1 - step.alpha_prev - s**2) ** 0.5 * eps
        x = step.alpha_prev**0.5 * x0 + towards_x + s * noise()
        yield Sampled(x0, x)
