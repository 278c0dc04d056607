from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import get_args

import pytest
import torch
from torch import Tensor

from dcrafter.config import MODELS, Prediction
from dcrafter.sampling.ddim import Denoiser, Sampled, ddim
from dcrafter.sampling.dpm import dpm
from dcrafter.sampling.schedule import SamplingStep, sampling_steps

Posterior = Callable[[Tensor, float, float], Tensor]
"""(x, signal, noise) → E[x₀ | x], where x = signal · x₀ + noise · ε."""

X_T = torch.linspace(-2, 2, 8, dtype=torch.float64)


def gaussian(deviation: float) -> Posterior:
    """x₀ ~ N(0, deviation²): the way to x₀ is known, see `exact`."""
    return lambda x, k, s: x * k * deviation**2 / (k**2 * deviation**2 + s**2)


def exact(x_T: Tensor, deviation: float, table: Sequence[SamplingStep]) -> Tensor:
    """Where the ODE leads: x keeps its place in the Gaussian that all x of a timestep are drawn from."""
    first, last = table[0], table[-1]
    scale = math.prod(step.rescale for step in table)
    start = first.alpha * deviation**2 + 1 - first.alpha
    end = last.alpha_prev * (scale * deviation) ** 2 + 1 - last.alpha_prev
    return x_T * (end / start) ** 0.5


def two_peaks(x: Tensor, k: float, s: float) -> Tensor:
    """x₀ ~ N(±1, 0.5²): not linear in x."""
    around = [peak + gaussian(0.5)(x - k * peak, k, s) for peak in (1, -1)]
    right = torch.sigmoid(2 * k * x / (k**2 * 0.25 + s**2))
    return right * around[0] + (1 - right) * around[1]


def denoiser(posterior: Posterior, table: Sequence[SamplingStep], prediction: Prediction) -> Denoiser:
    """The perfect one for data that the table's rescale multiplies, by 1 at its first step."""
    signals, scale = {}, 1.0
    for step in table:
        signals[step.t] = (step.alpha, scale)
        scale *= step.rescale

    def denoise(x: Tensor, t: int) -> Tensor:
        alpha, scale = signals[t]
        x0 = scale * posterior(x, alpha**0.5 * scale, (1 - alpha) ** 0.5)
        eps = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
        return eps if prediction == "eps" else alpha**0.5 * eps - (1 - alpha) ** 0.5 * x0

    return denoise


def table_of(roots: Tensor, scale: Callable[[float], float]) -> list[SamplingStep]:
    """Steps between these √ᾱ, with a signal that is multiplied by `scale` of them."""
    pairs = pairwise(roots.tolist())
    return [SamplingStep(i, a**2, b**2, scale(b) / scale(a)) for i, (a, b) in enumerate(pairs)]


def from_some_signal(steps: int, scale: Callable[[float], float] = lambda root: 1.0) -> list[SamplingStep]:
    """Even in λ, from −3 to 3."""
    return table_of(torch.linspace(-6, 6, steps + 1, dtype=torch.float64).sigmoid().sqrt(), scale)


def from_no_signal(steps: int, scale: Callable[[float], float] = lambda root: 1.0) -> list[SamplingStep]:
    """Even in the angle between noise and signal, from ᾱ = 0."""
    return table_of(torch.linspace(0, 1.4, steps + 1, dtype=torch.float64).sin(), scale)


def silence() -> Tensor:
    return torch.zeros(1, dtype=torch.float64)


def last(
    sampler: Callable[..., Iterator[Sampled]], posterior: Posterior, table: list[SamplingStep], prediction: Prediction
) -> Tensor:
    return list(sampler(denoiser(posterior, table, prediction), X_T, table, silence, prediction=prediction, eta=0))[
        -1
    ].x


@pytest.mark.parametrize("make_table", [from_some_signal, from_no_signal])
@pytest.mark.parametrize("scale", [lambda root: 1.0, lambda root: 0.3 + 0.7 * root], ids=["plain", "rescaled"])
def test_errors_fall_with_the_square_of_the_steps(
    make_table: Callable[..., list[SamplingStep]], scale: Callable[[float], float]
) -> None:
    def error(sampler: Callable[..., Iterator[Sampled]], steps: int) -> float:
        table = make_table(steps, scale)
        off = last(sampler, gaussian(0.5), table, "v") - exact(X_T, 0.5, table)
        return float(off.abs().max())

    first, second = ([error(sampler, steps) for steps in (40, 80, 160)] for sampler in (ddim, dpm))
    for coarse, fine in pairwise(first):
        assert coarse / fine == pytest.approx(2, rel=0.1)
    for coarse, fine in pairwise(second):
        assert 3.4 < coarse / fine < 4.6
    assert second[0] < first[0] / 8


@pytest.mark.parametrize("model", ["256", "512", "1024"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
def test_exact_where_the_prediction_is(model: str, steps: int) -> None:
    """What is always predicted the same needs no line; under the dynamic rescale, the same is not the same number."""
    config = MODELS[model].schedule
    table = sampling_steps(config, config.spacing, steps)
    x0, eps = torch.randn(2, 8, dtype=torch.float64)
    x_T = table[0].alpha ** 0.5 * x0 + (1 - table[0].alpha) ** 0.5 * eps
    denoise = denoiser(lambda x, k, s: x0, table, config.prediction)
    walk = dpm(denoise, x_T, table, silence, prediction=config.prediction)
    scale = 1.0
    for step, sampled in zip(table, walk, strict=True):
        scale *= step.rescale
        torch.testing.assert_close(sampled.x0, scale * x0)
        torch.testing.assert_close(sampled.x, step.alpha_prev**0.5 * scale * x0 + (1 - step.alpha_prev) ** 0.5 * eps)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_are_those_of_the_paper(eta: float) -> None:
    """Algorithm 2, and its counterpart for the SDE, as they are written: with λ, h, r and exponentials."""
    table = from_some_signal(6)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    x = x_T = torch.randn(8, generator=generator, dtype=torch.float64)
    denoise = denoiser(two_peaks, table, "v")
    drawn = iter(draws)
    walk = list(dpm(denoise, x_T, table, lambda: next(drawn), prediction="v", eta=eta))
    data: list[Tensor] = []
    for i, step in enumerate(table):
        a, s = step.alpha_prev**0.5, (1 - step.alpha_prev) ** 0.5
        h = 1.0  # the table's, and so r = 1
        data.append(step.alpha**0.5 * x - (1 - step.alpha) ** 0.5 * denoise(x, step.t))
        d = 1.5 * data[-1] - 0.5 * data[-2] if 0 < i < 5 else data[-1]
        if eta == 0:
            x = s / (1 - step.alpha) ** 0.5 * x - a * math.expm1(-h) * d
        else:
            x = s / (1 - step.alpha) ** 0.5 * math.exp(-h) * x - a * math.expm1(-2 * h) * d
            x = x + s * (-math.expm1(-2 * h)) ** 0.5 * draws[i]
        torch.testing.assert_close(walk[i].x0, data[-1])
        torch.testing.assert_close(walk[i].x, x)


def test_both_predictions_lead_to_the_same() -> None:
    table = from_some_signal(9, lambda root: 0.5 + 0.5 * root)
    torch.testing.assert_close(*(last(dpm, two_peaks, table, p) for p in get_args(Prediction)))


@pytest.mark.parametrize("model", ["256", "512", "1024", "tiny"])
def test_many_steps_lead_where_ddims_do(model: str) -> None:
    """And few steps nearer to it than DDIM's."""
    config = MODELS[model].schedule
    few, many = (sampling_steps(config, config.spacing, steps) for steps in (20, 1000))
    limit = last(ddim, two_peaks, many, config.prediction)
    torch.testing.assert_close(last(dpm, two_peaks, many, config.prediction), limit, rtol=0, atol=0.01)
    ours, theirs = (float((last(f, two_peaks, few, config.prediction) - limit).abs().max()) for f in (dpm, ddim))
    assert ours < theirs


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_noise_is_drawn_once_a_step(eta: float) -> None:
    draws = []

    def noise() -> Tensor:
        draws.append(1)
        return torch.zeros(1)

    table = sampling_steps(MODELS["512"].schedule, "uniform_trailing", 5)
    walk = list(dpm(lambda x, t: x, torch.ones(1), table, noise, prediction="v", eta=eta))
    assert all(sampled.x.isfinite() for sampled in walk)
    assert len(draws) == 5
