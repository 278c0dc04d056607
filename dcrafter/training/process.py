"""The forward diffusion process and the denoiser's target."""

from __future__ import annotations

import torch
from torch import Tensor

from dcrafter.config import ScheduleConfig
from dcrafter.sampling.schedule import alphas_cumprod, rescale_factors

TIME_NOISE_EXPONENT = 5


class Process:
    """The forward diffusion process and its target (arXiv 2006.11239, equation 4; 2202.00512).

    With zero terminal SNR (2305.08891) x_t is all noise at the last timestep. The dynamic rescale multiplies x₀ by
    s_t, as the sampler expects.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        alphas = torch.from_numpy(alphas_cumprod(config))
        self.root, self.noise = alphas.sqrt(), (1 - alphas).sqrt()
        self.rescale = torch.from_numpy(rescale_factors(config))

    def noised(self, x0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents (B, C, T, h, w), timesteps (B,) and noise → x_t and the target, eps or v."""
        root, noise, rescale = (
            table[t.cpu()].to(x0)[:, None, None, None, None] for table in (self.root, self.noise, self.rescale)
        )
        x0 = rescale * x0
        x_t = root * x0 + noise * eps
        return x_t, eps if self.config.prediction == "eps" else root * eps - noise * x0

    def time_noise(self, concat_latents: Tensor, t: Tensor, most: float, generator: torch.Generator) -> Tensor:
        """The image latent with noise that grows with t, so that motion is not copied from it (arXiv 2406.15735, 4.2).

        Its level is β_m · sigmoid(N(2(t/T)^a − 1, 1)), with β_m = `most` and the a of 5 that the authors use.
        """
        middle = 2 * (t / self.config.num_timesteps) ** TIME_NOISE_EXPONENT - 1
        level = most * (middle + torch.randn(len(t), generator=generator)).sigmoid()
        noise = torch.randn(concat_latents.shape, generator=generator).to(concat_latents)
        return concat_latents + level.reshape(-1, 1, 1, 1, 1).to(concat_latents) * noise
