from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from dcrafter.config import MODELS, ScheduleConfig, Spacing
from dcrafter.sampling.ddim import Denoiser, ddim, sigma
from dcrafter.sampling.guidance import guide, guide_multi, rescale_guidance
from dcrafter.sampling.schedule import alphas_cumprod, betas, sampling_steps

EPS, V = MODELS["256"].schedule, replace(MODELS["512"].schedule, rescale_base=1.0)


def oracle(config: ScheduleConfig, x0: Tensor) -> Denoiser:
    """The denoiser that knows the picture: its prediction is exact."""
    alphas = alphas_cumprod(config)

    def denoise(x: Tensor, t: int) -> Tensor:
        a = float(alphas[t])
        eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
        return eps if config.prediction == "eps" else a**0.5 * eps - (1 - a) ** 0.5 * x0

    return denoise


def sample(config: ScheduleConfig, spacing: Spacing, steps: int, eta: float, denoiser: Denoiser) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = lambda: torch.randn(1, 2, 3, 4, 4, generator=generator, dtype=torch.float64)  # noqa: E731
    table = sampling_steps(config, spacing, steps)
    walk = ddim(denoiser, noise(), table, noise, prediction=config.prediction, eta=eta)
    return [x for _, x in walk]


@pytest.mark.parametrize("config", [EPS, V], ids=["eps", "v"])
@pytest.mark.parametrize("spacing", get_args(Spacing))
def test_a_perfect_denoiser_goes_straight_to_the_image_at_eta_0(config: ScheduleConfig, spacing: Spacing) -> None:
    """At every step x is the image and the first noise, in the proportions of that step's ᾱ."""
    x0 = torch.randn(1, 2, 3, 4, 4, dtype=torch.float64)
    walk = sample(config, spacing, 7, 0.0, oracle(config, x0))
    x_T = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = sampling_steps(config, spacing, 7)
    eps = (x_T - table[0].alpha ** 0.5 * x0) / (1 - table[0].alpha) ** 0.5
    for x, step in zip(walk, table, strict=True):
        torch.testing.assert_close(x, step.alpha_prev**0.5 * x0 + (1 - step.alpha_prev) ** 0.5 * eps, atol=1e-4, rtol=0)


def test_sigma_at_eta_1_is_the_posteriors() -> None:
    """Between neighboring timesteps it is DDPM's β̃_t = (1 − ᾱ_{t−1}) / (1 − ᾱ_t) · β_t (arXiv 2006.11239)."""
    for step in sampling_steps(EPS, "uniform", 1000)[:-1]:
        posterior = (1 - step.alpha_prev) / (1 - step.alpha) * betas(EPS)[step.t]
        assert sigma(step, 1.0) ** 2 == pytest.approx(posterior, rel=1e-3)
        assert sigma(step, 0.5) == pytest.approx(sigma(step, 1.0) / 2)


def test_noise_is_drawn_once_a_step_whatever_eta() -> None:
    draws = {0.0: 0, 0.5: 0}
    for eta in draws:

        def noise(eta: float = eta) -> Tensor:
            draws[eta] += 1
            return torch.zeros(1)

        table = sampling_steps(EPS, "uniform", 5)
        list(ddim(lambda x, t: x, torch.ones(1), table, noise, prediction="eps", eta=eta))
    assert draws == {0.0: 5, 0.5: 5}


def test_dynamic_rescale_multiplies_the_predicted_picture() -> None:
    config = MODELS["1024"].schedule
    table = sampling_steps(config, "uniform_trailing", 5)
    walk = ddim(lambda x, t: x, torch.ones(1), table, lambda: torch.zeros(1), prediction="v", eta=0.0)
    plain = ddim(
        lambda x, t: x,
        torch.ones(1),
        [replace(step, rescale=1.0) for step in table],
        lambda: torch.zeros(1),
        prediction="v",
        eta=0.0,
    )
    ratios = [float(a.x0 / b.x0) for a, b in zip(walk, plain, strict=True)]
    assert ratios[:3] == [1.0, 1.0, 1.0]
    assert ratios[3] == pytest.approx(table[3].rescale)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance(scale: float) -> None:
    nothing, everything = torch.randn(2, 1, 3)
    torch.testing.assert_close(guide(nothing, everything, scale), (1 - scale) * nothing + scale * everything)


def test_multi_condition_guidance_with_both_scales_one_is_the_conditional_output() -> None:
    nothing, image, both = torch.randn(3, 1, 3)
    torch.testing.assert_close(guide_multi(nothing, image, both, 1.0, 1.0), both)
    torch.testing.assert_close(guide_multi(nothing, image, both, 1.0, 0.0), image)
    torch.testing.assert_close(guide_multi(nothing, image, both, 4.0, 4.0), guide(nothing, both, 4.0))


def test_guidance_rescale_brings_back_each_videos_deviation() -> None:
    conditional = torch.randn(2, 3, 4)
    guided = torch.stack([5 * conditional[0], 0.2 * conditional[1] + 3])
    assert rescale_guidance(guided, conditional, 0.0) is guided
    whole = rescale_guidance(guided, conditional, 1.0)
    torch.testing.assert_close(whole.std(dim=(1, 2)), conditional.std(dim=(1, 2)))
    torch.testing.assert_close(rescale_guidance(guided, conditional, 0.7), 0.7 * whole + 0.3 * guided)
