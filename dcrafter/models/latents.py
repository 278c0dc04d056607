"""Latents to colours without a decoder: a linear map from each latent to the mean colour of its pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# By the number of latent channels. Each row is what a channel adds to red, green and blue, the row behind the last
# is the colour of no latent, all of them in [-1, 1].
_ROWS: dict[int, tuple[tuple[float, float, float], ...]] = {
    # Stable Diffusion's, as Keturn published it: "Decoding latents to RGB without upscaling", the forum of Hugging
    # Face, 2022 (discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204).
    4: (
        (0.298, 0.207, 0.208),
        (0.187, 0.286, 0.173),
        (-0.158, 0.189, 0.264),
        (-0.184, -0.271, -0.473),
        (0.0, 0.0, 0.0),
    ),
    # tiny's, by `fit_factors` on 384 stills of its training data; explains 98 % of the variance of others.
    32: (
        (-0.012, 0.026, -0.044),
        (0.031, -0.045, -0.013),
        (0.010, 0.022, -0.009),
        (-0.059, -0.003, 0.005),
        (0.072, 0.031, 0.034),
        (0.005, 0.006, 0.032),
        (-0.037, -0.068, -0.117),
        (0.035, 0.041, -0.054),
        (0.003, 0.005, 0.013),
        (0.011, 0.050, -0.106),
        (-0.050, 0.045, -0.002),
        (0.011, -0.010, 0.016),
        (0.023, 0.041, 0.065),
        (0.006, -0.029, -0.014),
        (0.046, 0.071, -0.009),
        (0.072, -0.033, -0.011),
        (0.001, -0.020, 0.026),
        (-0.009, -0.040, 0.028),
        (-0.021, -0.003, 0.003),
        (0.017, -0.003, -0.069),
        (0.035, -0.001, -0.032),
        (-0.124, -0.078, -0.043),
        (-0.069, 0.050, 0.050),
        (0.037, -0.041, -0.017),
        (0.016, 0.010, -0.037),
        (0.051, 0.055, 0.058),
        (0.019, -0.006, 0.005),
        (-0.030, -0.002, 0.017),
        (0.044, -0.042, 0.001),
        (-0.002, 0.013, 0.012),
        (-0.011, -0.016, -0.049),
        (0.002, 0.025, 0.045),
        (0.014, -0.030, -0.075),
    ),
}


class Colours(NamedTuple):
    """rgb = latent @ factors + bias, of scaled latents (C,) and rgb (3,) in [-1, 1]."""

    factors: Tensor  # (C, 3)
    bias: Tensor  # (3,)


def known_colours(latent_channels: int) -> Colours | None:
    """Those of the published models' autoencoder (4 channels) and of tiny's (32)."""
    if latent_channels not in _ROWS:
        return None
    rows = torch.tensor(_ROWS[latent_channels])
    return Colours(rows[:-1], rows[-1])


def fit_factors(latents: Tensor, pixels: Tensor) -> Colours:
    """The colours, by least squares, that go with scaled latents (n, C, h, w) of pixels (n, 3, H, W) in [-1, 1]."""
    height, width = latents.shape[-2:]
    means = F.adaptive_avg_pool2d(pixels.double(), (height, width))
    known = F.pad(latents.double().movedim(1, -1), (0, 1), value=1.0)  # the last column meets the bias
    rows = torch.linalg.lstsq(known.flatten(0, -2), means.movedim(1, -1).flatten(0, -2)).solution.float()
    return Colours(rows[:-1], rows[-1])


def to_rgb(latents: Tensor, colours: Colours) -> Tensor:
    """Scaled latents (n, C, h, w) → uint8 (n, h, w, 3)."""
    rgb = latents.float().cpu().movedim(1, -1) @ colours.factors + colours.bias
    return ((rgb + 1) * 127.5).round().clamp(0, 255).byte()
