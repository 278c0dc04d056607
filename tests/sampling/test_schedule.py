from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dcrafter.config import MODELS, Spacing
from dcrafter.sampling.ddim import sigma
from dcrafter.sampling.schedule import (
    alphas_cumprod,
    betas,
    rescale_factors,
    sampling_steps,
    timesteps,
    to_eps_and_x0,
)

FAMILIES = {"eps": MODELS["256"].schedule, "v": MODELS["512"].schedule}


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, np.ndarray]:
    tensors = load_file(golden / "schedules.safetensors")
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_are_the_published_ones(recorded: dict[str, np.ndarray], family: str) -> None:
    config = FAMILIES[family]
    np.testing.assert_allclose(betas(config), recorded[f"{family}.betas"], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(alphas_cumprod(config), recorded[f"{family}.alphas_cumprod"], rtol=1e-6, atol=1e-12)
    for spacing in get_args(Spacing):
        for steps in (1, 5, 10, 20, 25, 50):
            table = sampling_steps(config, spacing, steps)[::-1]
            prefix = f"{family}.{spacing}.{steps}"
            assert [step.t for step in table] == recorded[f"timesteps.{spacing}.{steps}"].tolist()
            for name, computed in (
                ("alphas", [step.alpha for step in table]),
                ("alphas_prev", [step.alpha_prev for step in table]),
                ("eta0.sigmas", [sigma(step, 0.0) for step in table]),
                ("eta1.sigmas", [sigma(step, 1.0) for step in table]),
            ):
                np.testing.assert_allclose(computed, recorded[f"{prefix}.{name}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["512", "1024"])
def test_dynamic_rescale_is_the_published_one(recorded: dict[str, np.ndarray], name: str) -> None:
    np.testing.assert_allclose(rescale_factors(MODELS[name].schedule), recorded[f"scale_arr.{name}"], rtol=1e-6)


def test_no_dynamic_rescale_is_a_factor_of_one() -> None:
    assert set(rescale_factors(MODELS["256"].schedule)) == {1.0}
    assert {step.rescale for step in sampling_steps(MODELS["256"].schedule, "uniform", 50)} == {1.0}


def test_the_first_rescale_step_of_sampling_order_is_relative_to_the_next_timestep() -> None:
    factors = rescale_factors(MODELS["512"].schedule)
    table = sampling_steps(MODELS["512"].schedule, "uniform_trailing", 5)  # 999, 799, 599, 399, 199
    assert [step.rescale for step in table][:3] == [1.0, 1.0, 1.0]
    assert table[3].rescale == factors[199] / factors[399]
    assert table[4].rescale == 1.0  # the first entry is its own predecessor


@pytest.mark.parametrize("spacing", get_args(Spacing))
def test_every_number_of_steps_means_what_it_says(spacing: Spacing) -> None:
    for steps in range(1, 1001):
        ts = timesteps(spacing, steps)
        assert len(ts) == len(set(ts)) == steps
        assert ts == sorted(ts)
        assert ts[0] >= 0
        assert ts[-1] <= 999


def test_timesteps_are_the_published_ones_wherever_those_are_sound() -> None:
    for steps in range(1, 1001):
        uniform = [t + 1 for t in range(0, 1000, 1000 // steps)]
        if len(uniform) == steps and uniform[-1] <= 999:
            assert timesteps("uniform", steps) == uniform
        trailing = np.flip(np.round(np.arange(1000, 0, -1000 / steps))).astype(int) - 1
        if len(trailing) == steps and trailing[0] >= 0:
            assert timesteps("uniform_trailing", steps) == trailing.tolist()


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 1000"):
        timesteps("uniform", steps)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9991])
def test_v_gives_back_the_noise_and_the_picture(alpha: float) -> None:
    x0, eps = torch.randn(2, 50, dtype=torch.float64)
    x_t = alpha**0.5 * x0 + (1 - alpha) ** 0.5 * eps
    v = alpha**0.5 * eps - (1 - alpha) ** 0.5 * x0
    for computed, true in zip(to_eps_and_x0("v", v, x_t, alpha), (eps, x0), strict=True):
        torch.testing.assert_close(computed, true)


def test_eps_gives_back_the_picture() -> None:
    x0, eps = torch.randn(2, 50, dtype=torch.float64)
    x_t = 0.3**0.5 * x0 + 0.7**0.5 * eps
    torch.testing.assert_close(to_eps_and_x0("eps", eps, x_t, 0.3)[1], x0)


@pytest.mark.parametrize("steps", [1, 2, 15, 50])
def test_a_final_rescale_ends_at_the_signal_itself(steps: int) -> None:
    """s of the highest timestep times all factors is s_0, which is 1; without it s of the lowest timestep."""
    config = MODELS["1024"].schedule
    factors = rescale_factors(config)
    ends = []
    for final in (True, False):
        table = sampling_steps(config, "uniform_trailing", steps, final)
        ends.append(factors[table[0].t] * np.prod([step.rescale for step in table]))
    assert ends == pytest.approx([1, factors[table[-1].t]])
    assert ends[1] < 1
