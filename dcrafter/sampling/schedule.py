"""The diffusion process in numbers: betas, timesteps and the tables a sampler walks.

All tables are NumPy's, in float64; samplers take plain numbers from them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dcrafter.config import Prediction, ScheduleConfig, Spacing

Table = NDArray[np.floating[Any]]


def betas(config: ScheduleConfig) -> Table:
    """β_t, (num_timesteps,): the squares of a linear ramp; with zero terminal SNR, what that makes of them."""
    if config.zero_terminal_snr:
        alphas_bar = alphas_cumprod(config)
        return 1 - alphas_bar / np.concatenate([[1.0], alphas_bar[:-1]])
    return np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_timesteps) ** 2


def alphas_cumprod(config: ScheduleConfig) -> Table:
    """ᾱ_t, (num_timesteps,). Zero terminal SNR shifts and scales √ᾱ so that the last is 0 and the first is kept
    (arXiv 2305.08891, algorithm 1)."""
    alphas_bar = np.cumprod(1 - betas(replace(config, zero_terminal_snr=False)))
    if not config.zero_terminal_snr:
        return alphas_bar
    root = np.sqrt(alphas_bar)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def rescale_factors(config: ScheduleConfig) -> Table:
    """s_t, (num_timesteps,): what training multiplied x₀ with (dynamic rescale)."""
    ramp = np.linspace(1.0, config.rescale_base, config.rescale_steps)
    return np.concatenate([ramp, np.full(config.num_timesteps, config.rescale_base)])[: config.num_timesteps]


def timesteps(spacing: Spacing, steps: int, num_timesteps: int = 1000) -> list[int]:
    """Exactly `steps` distinct timesteps in 0…num_timesteps−1, ascending; samplers walk them backwards.

    They are the published ones wherever the published code gives that many, all within the schedule.
    Raises ValueError for steps outside 1…num_timesteps.
    """
    if not 1 <= steps <= num_timesteps:
        raise ValueError(f"steps must be between 1 and {num_timesteps}, not {steps}")
    if spacing == "uniform":
        if steps == num_timesteps:
            return list(range(num_timesteps))
        return [1 + i * num_timesteps // steps for i in range(steps)]
    # arange, not i·stride: its rounding decides the published timesteps where a stride ends in .5.
    trailing = np.arange(num_timesteps, 0, -num_timesteps / steps)[:steps]
    return [int(t) - 1 for t in np.round(trailing)[::-1]]


@dataclass(frozen=True)
class SamplingStep:
    """One step of a sampler: from timestep `t` to the next lower one in the list, or to t = 0."""

    t: int
    alpha: float  # ᾱ_t
    alpha_prev: float  # ᾱ of the next lower timestep in the list; ᾱ_0 behind the last step
    rescale: float  # s_prev / s_t, applied to the predicted x₀
    scale: float = 1.0  # s_t: x_t = √ᾱ_t·s_t·x₀ + √(1 − ᾱ_t)·ε


def sampling_steps(
    config: ScheduleConfig, spacing: Spacing, steps: int, final_rescale: bool = False, start: float = 1.0
) -> list[SamplingStep]:
    """The table that a sampler walks, highest timestep first.

    Args:
        config: the schedule that the model was trained with.
        spacing: which timesteps.
        steps: how many, 1 to `start` of `num_timesteps`.
        final_rescale: the last step rescales x₀ to s_0 = 1. The published sampler leaves it multiplied by s of the
            lowest timestep, 0.95 (512) or 0.88 (1024) at 15 steps; ViewCrafter (arXiv 2409.02048) mends it.
        start: the share of the timesteps that is walked, M/T of arXiv 2406.15735; see `start.py`.
    """
    ts = timesteps(spacing, steps, round(start * config.num_timesteps))
    # The published sampler reads ᾱ in float32, whose last digits its tables keep.
    alphas = alphas_cumprod(config).astype(np.float32).tolist()
    factors = rescale_factors(config).tolist()
    previous = [ts[0], *ts[:-1]]
    table = [
        SamplingStep(
            t,
            alphas[t],
            alpha_prev=alphas[p] if i else alphas[0],
            rescale=(factors[p] if i or not final_rescale else factors[0]) / factors[t],
            scale=factors[t],
        )
        for i, (t, p) in enumerate(zip(ts, previous, strict=True))
    ]
    return table[::-1]


def to_eps_and_x0(prediction: Prediction, out: Tensor, x_t: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """A model's output at x_t, whichever it predicts → (eps, x₀). v is that of arXiv 2202.00512."""
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if prediction == "v":
        return signal * out + noise * x_t, signal * x_t - noise * out
    return out, (x_t - noise * out) / signal


def from_x0(prediction: Prediction, x0: Tensor, x_t: Tensor, alpha: float) -> Tensor:
    """The reverse of `to_eps_and_x0`: the output that means this x₀."""
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    return (signal * x_t - x0) / noise if prediction == "v" else (x_t - signal * x0) / noise
