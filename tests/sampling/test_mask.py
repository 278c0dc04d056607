"""Where a mask is black the latents given come out, whatever the denoiser says."""

from __future__ import annotations

import pytest
import torch

from dcrafter.config import MODELS
from dcrafter.sampling import SAMPLERS, load_sampler
from dcrafter.sampling.mask import hold
from dcrafter.sampling.schedule import from_x0, sampling_steps, to_eps_and_x0

SHAPE = (1, 2, 3, 4, 4)


@pytest.mark.parametrize("model", ["256", "1024"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_held_comes_out_and_the_rest_is_the_denoisers(model: str, sampler: str) -> None:
    config = MODELS[model].schedule
    steps = sampling_steps(config, config.spacing, 20, final_rescale=True)
    at = {step.t: step for step in steps}
    generator = torch.Generator().manual_seed(0)
    still, moving = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
    mask = torch.tensor([1.0, 0.0, 0.0, 0.5]).expand(1, 1, 1, 4, 4)

    def knows_what_moves(x: torch.Tensor, t: int) -> torch.Tensor:
        return from_x0(config.prediction, at[t].scale * moving, x, at[t].alpha)

    held = hold(knows_what_moves, still, mask, steps, config.prediction)
    noise = lambda: torch.randn(SHAPE, generator=generator)  # noqa: E731
    *_, last = load_sampler(sampler)(held, noise(), steps, noise, prediction=config.prediction, eta=0.5)
    torch.testing.assert_close(last.x0, torch.lerp(still, moving, mask), atol=2e-3, rtol=0)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_an_output_and_its_x0_are_told_from_each_other(prediction: str) -> None:
    out, x_t = torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)
    _, x0 = to_eps_and_x0(prediction, out, x_t, 0.3)  # type: ignore[arg-type]
    torch.testing.assert_close(from_x0(prediction, x0, x_t, 0.3), out)  # type: ignore[arg-type]
