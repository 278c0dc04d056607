from __future__ import annotations

import pytest
import torch

from dcrafter.config import AutoencoderConfig
from dcrafter.models import fast, strips
from dcrafter.models.autoencoder import AutoencoderKL

SMALL = AutoencoderConfig(channels=16, channel_mult=(1, 2), num_res_blocks=1, decoder_channels=16, norm_groups=4)


def force_strips(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "WHOLE", 0)
    monkeypatch.setattr(strips, "STRIP", values)


@pytest.fixture
def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(SMALL).eval().requires_grad_(False)


@pytest.mark.parametrize("values", [1, 700, 3000])
@pytest.mark.parametrize("packed", [False, True])
@torch.inference_mode()
def test_strips_have_no_seams(
    values: int, packed: bool, autoencoder: AutoencoderKL, monkeypatch: pytest.MonkeyPatch
) -> None:
    if packed:
        if not fast.supported(torch.device("cpu"), torch.float32):
            pytest.skip("no packed layers on this machine")
        monkeypatch.setattr(fast, "WIDE", 1)
    latents, pixels = torch.randn(2, 4, 7, 6), torch.randn(1, 3, 22, 12)
    whole = autoencoder.decode(latents), autoencoder.moments(pixels)
    if packed:
        fast.pack(autoencoder)
    force_strips(values, monkeypatch)
    for ours, expected in zip((autoencoder.decode(latents), autoencoder.moments(pixels)), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_norms_take_the_statistics_of_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = torch.nn.GroupNorm(2, 4)
    x = 5 + torch.linspace(0, 1, 7)[:, None] * torch.randn(1, 4, 7, 5)  # each strip's own are others
    expected = torch.nn.functional.silu(norm(x))
    force_strips(40, monkeypatch)
    with torch.inference_mode():
        normed = strips.norm_silu(norm, x)
        torch.testing.assert_close(
            torch.cat([normed(part) for part in x.split(3, dim=2)], dim=2), expected, atol=1e-5, rtol=1e-5
        )


def test_training_sees_images_whole(autoencoder: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    force_strips(1, monkeypatch)
    x = torch.randn(1, 4, 4, 4)
    assert strips.cuts(x) == [(0, 4)]
    with torch.no_grad():
        assert strips.cuts(x) == [(0, 1), (1, 2), (2, 3), (3, 4)]
