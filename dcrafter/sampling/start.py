"""Starting later than at pure noise, against conditional image leakage (arXiv 2406.15735, section 4.1).

At large t a model copies its image, since that tells more of the video than the noise does, and then little moves.
Sampling that starts at M < T leaves those steps out. It starts from the normal distribution that is nearest to q(x_M)
in the Kullback-Leibler divergence (Analytic-Init, proposition 1): that of its mean and its mean variance, both known
in closed form from those of the data's latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.sampling.schedule import SamplingStep


@dataclass(frozen=True, eq=False)
class LatentStatistics:
    """Of a data set's scaled latents x₀."""

    mean: Tensor  # E[x₀], (1, C, T, h, w) of any T, h and w
    variance: float  # tr Cov[x₀] / d, of a value around its mean

    def initial_latents(self, noise: Tensor, step: SamplingStep) -> Tensor:
        """Standard normal noise (B, C, T, h, w) → x_M, M being the first step's timestep.

        The signal is √ᾱ·s_t with the dynamic rescale, as in training; the authors' code leaves s_t out.
        """
        signal = step.alpha**0.5 * step.scale
        mean = F.interpolate(self.mean.to(noise), noise.shape[2:], mode="trilinear", align_corners=False)
        return signal * mean + (1 - step.alpha + signal**2 * self.variance) ** 0.5 * noise


# By the number of latent channels: each channel's mean, and the variance.
_KNOWN = {
    # Stable Diffusion's on WebVid at 320×512: the authors' initial_noise_512, averaged over frames and positions.
    4: ((0.302, -0.325, 0.232, 0.133), 0.808),
    # tiny's, on 1024 frames of 256 clips of its training data.
    32: (
        (
            0.01, -0.05, 0.02, -0.12, 0.01, 0.02, -0.08, 0.14, -0.02, 0.0, 0.0, -0.02, 0.12, 0.0, 0.13, 0.07,
            -0.03, -0.05, 0.07, -0.01, -0.07, -0.21, -0.08, 0.06, 0.06, 0.09, -0.01, -0.14, -0.02, 0.09, 0.11, -0.02,
        ),
        0.96,
    ),
}  # fmt: skip


def known_statistics(latent_channels: int) -> LatentStatistics:
    """Those of the published models' latents (4 channels) and of tiny's (32); of others mean 0 and variance 1."""
    mean, variance = _KNOWN.get(latent_channels, ((0.0,) * latent_channels, 1.0))
    return LatentStatistics(torch.tensor(mean).view(1, -1, 1, 1, 1), variance)
