"""Starting later than at pure noise: x_M as it is in training."""

from __future__ import annotations

import pytest
import torch

from dcrafter.config import MODELS
from dcrafter.sampling.schedule import SamplingStep, sampling_steps
from dcrafter.sampling.start import LatentStatistics, known_statistics

SCHEDULE = MODELS["512"].schedule


def test_the_first_step_is_at_the_start() -> None:
    for steps in (50, 15):
        table = sampling_steps(SCHEDULE, "uniform_trailing", steps, start=0.94)
        assert (table[0].t, len(table), len({step.t for step in table})) == (939, steps, steps)
    assert sampling_steps(SCHEDULE, "uniform_trailing", 50, start=1.0)[0].t == 999


def test_initial_latents_are_distributed_as_noised_data() -> None:
    """Mean and variance of x_M = √ᾱ·s·x₀ + √(1 − ᾱ)·ε, of data of which no value depends on another."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([0.5, -2.0]).view(1, 2, 1, 1, 1)
    step = SamplingStep(700, alpha=0.3, alpha_prev=0.4, rescale=1.0, scale=0.7)

    def draw() -> torch.Tensor:
        return torch.randn(1, 2, 16, 50, 50, generator=generator)

    data = mean + 1.5 * draw()
    noised = step.alpha**0.5 * step.scale * data + (1 - step.alpha) ** 0.5 * draw()
    initial = LatentStatistics(mean, variance=1.5**2).initial_latents(draw(), step)
    axes = (0, 2, 3, 4)
    torch.testing.assert_close(initial.mean(axes), noised.mean(axes), atol=0.03, rtol=0)
    torch.testing.assert_close(initial.var(axes), noised.var(axes), atol=0.05, rtol=0)


def test_the_mean_takes_the_size_of_the_latents() -> None:
    step = SamplingStep(900, alpha=0.25, alpha_prev=0.3, rescale=1.0)
    same = torch.randn(1, 4, 2, 5, 8)
    noise = torch.zeros(1, 4, 2, 5, 8)
    assert LatentStatistics(same, 1.0).initial_latents(noise, step).equal(0.5 * same)
    assert known_statistics(4).initial_latents(noise, step).std(dim=(2, 3, 4)).max() < 1e-6


@pytest.mark.parametrize("channels", [4, 32, 7])
def test_without_signal_nothing_is_changed(channels: int) -> None:
    """Zero terminal SNR: x_T is the noise itself, whatever is known of the data."""
    noise = torch.randn(2, channels, 3, 4, 4)
    first = sampling_steps(SCHEDULE, "uniform_trailing", 10)[0]
    assert known_statistics(channels).initial_latents(noise, first).equal(noise)
