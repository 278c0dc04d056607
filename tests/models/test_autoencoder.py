from __future__ import annotations

import pytest
import torch

from dcrafter.config import AutoencoderConfig
from dcrafter.models.autoencoder import AutoencoderKL, Downsample

MICRO = AutoencoderConfig(
    latent_channels=3, channels=8, channel_mult=(1, 2), num_res_blocks=1, decoder_channels=8, norm_groups=4
)
FOLDED = AutoencoderConfig(
    latent_channels=5,
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    decoder_channels=16,
    decoder_res_blocks=4,
    fold=4,
    norm_groups=4,
)


@pytest.mark.parametrize("config", [MICRO, FOLDED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_sizes_follow_the_configuration_in_every_type(config: AutoencoderConfig, dtype: torch.dtype) -> None:
    autoencoder = AutoencoderKL(config).to(dtype).requires_grad_(False)
    side = config.downsampling
    noise = torch.randn(2, config.latent_channels, 3, 2)
    latents = autoencoder.encode(torch.rand(2, 3, 3 * side, 2 * side) * 2 - 1, noise)
    assert latents.shape == noise.shape
    assert latents.dtype == torch.float32
    pixels = autoencoder.decode(latents)
    assert pixels.shape == (2, 3, 3 * side, 2 * side)
    assert pixels.dtype == dtype


@torch.no_grad()
def test_frames_decoded_together_are_those_decoded_singly() -> None:
    autoencoder, latents, kept = AutoencoderKL(MICRO), torch.randn(2, 3, 6, 4, 4), [0, 1, 3, 4, 5]
    *_, singly = autoencoder.decode_clips(latents, kept)
    autoencoder.frames_at_once = 2
    steps = [*autoencoder.decode_clips(latents, kept)]
    assert [step.done for step in steps] == [2, 4, 5]
    assert steps[-1].output.shape == (2, 3, 5, 8, 8)
    torch.testing.assert_close(steps[-1].output, singly.output)


def test_encoding_draws_from_the_posterior_and_scales() -> None:
    autoencoder = AutoencoderKL(MICRO).requires_grad_(False)
    x, noise = torch.rand(1, 3, 8, 8), torch.randn(1, 3, 4, 4)
    mean, logvar = autoencoder.posterior(x)
    torch.testing.assert_close(autoencoder.encode(x, torch.zeros_like(noise)), mean * MICRO.scale)
    drawn = autoencoder.encode(x, noise) / MICRO.scale - mean
    torch.testing.assert_close(drawn, noise * torch.exp(logvar / 2))


def test_log_variance_is_clamped() -> None:
    autoencoder = AutoencoderKL(MICRO).requires_grad_(False)
    autoencoder.quant_conv.bias[3:] = torch.tensor([-1e4, 1e4, 0.0])
    _, logvar = autoencoder.posterior(torch.rand(1, 3, 8, 8))
    assert logvar[:, 0].unique().item() == -30
    assert logvar[:, 1].unique().item() == 20


def test_downsampling_pads_right_and_bottom_only() -> None:
    down = Downsample(1).requires_grad_(False)
    down.conv.weight.copy_(torch.tensor([[[[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]]]))
    down.conv.bias.zero_()  # type: ignore[union-attr]
    x = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(down(x), x[:, :, ::2, ::2])
