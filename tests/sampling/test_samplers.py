"""What is promised of every sampler in the table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from dcrafter.config import MODELS
from dcrafter.errors import UsageError
from dcrafter.sampling import SAMPLERS, Sampler, load_sampler
from dcrafter.sampling.ddim import Sampled
from dcrafter.sampling.schedule import sampling_steps
from dcrafter.settings import resolve

SCHEDULE = MODELS["256"].schedule  # predicts eps
STEPS = sampling_steps(SCHEDULE, "uniform", 8)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_finds_what_a_perfect_denoiser_knows(name: str, eta: float) -> None:
    alphas = {step.t: step.alpha for step in STEPS}
    clean = torch.linspace(-1, 1, 6)
    draws = []

    def denoise(x: Tensor, t: int) -> Tensor:
        return (x - alphas[t] ** 0.5 * clean) / (1 - alphas[t]) ** 0.5

    def noise() -> Tensor:
        draws.append(torch.randn(6, generator=torch.Generator().manual_seed(len(draws))))
        return draws[-1]

    walk = [*load_sampler(name)(denoise, torch.ones(6), STEPS, noise, prediction="eps", eta=eta)]
    assert len(walk) == len(draws) == len(STEPS)
    assert all(torch.allclose(sampled.x0, clean, atol=1e-3) for sampled in walk)
    torch.testing.assert_close(walk[-1].x, clean, atol=0.1, rtol=0)  # beside the noise of ᾱ_0


def test_an_unknown_sampler_is_an_error() -> None:
    with pytest.raises(UsageError, match="no sampler euler"):
        load_sampler("euler")
    with pytest.raises(UsageError, match="--sampler must be ddim or dpm"):
        resolve(MODELS["tiny"], "animate", "", 0, {"sampler": "euler"})


def test_a_module_and_a_line_make_a_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    def still(denoiser: Any, x_T: Tensor, steps: Any, noise: Any, *, prediction: Any, eta: float) -> Iterator[Sampled]:
        yield Sampled(x_T, x_T * eta)

    module = ModuleType("dcrafter.sampling.still")
    module.still = still  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dcrafter.sampling.still", module)
    monkeypatch.setitem(SAMPLERS, "still", Sampler("still", eta=0.5, help="stays"))
    settings = resolve(MODELS["tiny"], "animate", "", 0, {"sampler": "still"})
    assert settings.eta == 0.5
    (sampled,) = load_sampler(settings.sampler)(
        lambda x, t: x, torch.ones(2), STEPS, lambda: torch.ones(2), prediction="eps", eta=settings.eta
    )
    assert sampled.x.tolist() == [0.5, 0.5]


def test_the_table_is_read_without_torch() -> None:
    program = "import sys, dcrafter.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
