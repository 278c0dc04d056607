from __future__ import annotations

import torch

from dcrafter.config import MODELS
from dcrafter.models.latents import Colours, fit_factors, known_colours, to_rgb


def test_the_fit_finds_a_map_that_is_there() -> None:
    torch.manual_seed(0)
    true = Colours(torch.randn(5, 3), torch.tensor([0.1, 0.2, -0.3]))
    latents = torch.randn(4, 5, 6, 8)
    means = (latents.movedim(1, -1) @ true.factors + true.bias).movedim(-1, 1)
    texture = torch.randn(1, 1, 2, 2).repeat(4, 3, 6, 8)  # twice as fine as the latents
    pixels = means.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) + texture - texture.mean()
    factors, bias = fit_factors(latents, pixels)
    torch.testing.assert_close(factors, true.factors)
    torch.testing.assert_close(bias, true.bias)


def test_every_model_has_its_colours() -> None:
    for model in MODELS.values():
        channels = model.autoencoder.latent_channels
        colours = known_colours(channels)
        assert colours is not None
        assert (colours.factors.shape, colours.bias.shape) == ((channels, 3), (3,))
    assert known_colours(7) is None


def test_colours_are_bytes_and_cut_off() -> None:
    colours = Colours(torch.eye(4)[:, :3], torch.zeros(3))
    latents = torch.zeros(2, 4, 1, 3)
    latents[1, :3, 0, 1] = torch.tensor([-1.0, 1.0, 5.0])
    rgb = to_rgb(latents, colours)
    assert (rgb.shape, rgb.dtype) == ((2, 1, 3, 3), torch.uint8)
    assert rgb[0, 0, 0].tolist() == [128, 128, 128]
    assert rgb[1, 0, 1].tolist() == [0, 255, 255]
