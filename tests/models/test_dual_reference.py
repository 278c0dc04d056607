from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from dcrafter.config import AutoencoderConfig, ReferenceConfig
from dcrafter.generators import drain
from dcrafter.models import dual_reference
from dcrafter.models.dual_reference import DualReferenceAutoencoder, ReferenceAttention, TimeConv, TimeNorm

MICRO = AutoencoderConfig(
    latent_channels=3,
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    decoder_channels=8,
    decoder_res_blocks=2,
    norm_groups=4,
    references=ReferenceConfig(attention_levels=(1,), heads=2, head_channels=4),
)


@pytest.fixture(scope="module")
def autoencoder() -> DualReferenceAutoencoder:
    torch.manual_seed(0)
    made = DualReferenceAutoencoder(MICRO).requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))  # biases and mixing factors too
    return made


def decode(autoencoder: DualReferenceAutoencoder, latents: Tensor, images: Tensor | None, kept: list[int]) -> Tensor:
    *_, last = autoencoder.decode_clips(latents, kept, images)
    return last.output


def a_case(frames: int, videos: int = 1) -> tuple[Tensor, Tensor]:
    """Latents and references."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(videos, 2, 3, 8, 12, generator=generator) * 2 - 1
    return torch.randn(videos, 3, frames, 4, 6, generator=generator), images


def over_clip(function: Callable[[Tensor], Tensor], frames: list[Tensor]) -> Tensor:
    """Apply a function of (1, C, T, h, w) → (T, C, h, w)."""
    return function(torch.stack([frame[0] for frame in frames], dim=1)[None])[0].transpose(0, 1)


def test_frames_one_by_one_are_normalized_and_convolved_as_a_clip() -> None:
    frames = [torch.randn(1, 8, 3, 5) * 3 + t for t in range(4)]
    norm, usual = TimeNorm(4, 8), nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    usual.load_state_dict(norm.state_dict())
    torch.testing.assert_close(torch.cat([*norm(frames)]), over_clip(usual, frames))
    conv = TimeConv(8)
    expected = over_clip(lambda x: F.conv3d(x, conv.weight[..., None, None], conv.bias, padding=(1, 0, 0)), frames)
    torch.testing.assert_close(torch.cat([*conv(frames)]), expected)


def test_queries_in_slices_attend_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = ReferenceAttention(8, 8, MICRO)
    prepared = layer.prepare(torch.randn(2, 8, 3, 5))
    whole = [torch.randn(1, 8, 3, 5) for _ in range(2)]
    sliced = [*whole]
    layer(whole, prepared)
    monkeypatch.setattr(dual_reference, "QUERIES", 4)
    layer(sliced, prepared)
    torch.testing.assert_close(torch.cat(whole), torch.cat(sliced))


class Largest(TorchDispatchMode):
    """The most elements of a tensor that an operation gives."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        outputs = [x for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, Tensor)]
        self.elements = max([self.elements, *(x.numel() for x in outputs)])
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernels", [[SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], [SDPBackend.MATH]])
@torch.no_grad()
def test_the_scores_of_one_slice_of_queries_are_in_memory(
    monkeypatch: pytest.MonkeyPatch, kernels: list[SDPBackend], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(dual_reference, "QUERIES", 4)
    layer = ReferenceAttention(8, 8, MICRO).to(dtype)
    prepared = layer.prepare(torch.randn(2, 8, 6, 10, dtype=dtype))
    frames = [torch.randn(1, 8, 6, 10, dtype=dtype) for _ in range(2)]
    with sdpa_kernel(kernels), Largest() as largest:
        layer(frames, prepared)
    queries, keys, heads = 4, 2 * 60, 2
    assert 0 < largest.elements <= queries * keys * heads < 60 * keys * heads


def test_the_middle_frames_are_those_of_a_shorter_clip(autoencoder: DualReferenceAutoencoder) -> None:
    latents, images = a_case(8)
    made = decode(autoencoder, latents, images, [*range(8)])
    z = autoencoder.unscaled(latents)[0].transpose(0, 1)
    prepared = autoencoder.decoder.prepare(autoencoder.reference_features(images[0]))
    once, again = (drain(autoencoder.decoder.decode(clip, prepared)) for clip in (z, z[[0, 2, 3, 4, 5, 7]]))
    expected = torch.cat([once[:3], again[2:4], once[5:]]).transpose(0, 1)[None]
    assert made.equal(expected)
    assert not torch.allclose(once[3:5], again[2:4], atol=1e-3)


@pytest.mark.parametrize(("frames", "steps"), [(1, 6), (5, 6), (6, 11), (7, 11)])
def test_short_clips_are_decoded_once(autoencoder: DualReferenceAutoencoder, frames: int, steps: int) -> None:
    latents, images = a_case(frames)
    taken = [*autoencoder.decode_clips(latents, [0, frames - 1], images)]
    assert [(step.done, step.total) for step in taken] == [(i, steps) for i in range(1, steps + 1)]
    assert taken[-1].output.shape == (1, 3, 2, 8, 12)


def test_what_is_kept_of_which_video_changes_nothing(autoencoder: DualReferenceAutoencoder) -> None:
    latents, images = a_case(7, videos=2)
    both = decode(autoencoder, latents, images, [*range(7)])
    second = decode(autoencoder, latents[1:], images[1:], [6, 0, 3])
    torch.testing.assert_close(both[1:, :, [6, 0, 3]], second)


def test_references_reach_every_frame_by_attention(autoencoder: DualReferenceAutoencoder) -> None:
    latents, images = a_case(7)
    made = decode(autoencoder, latents, images, [*range(7)])
    other_last = torch.stack([images[:, 0], -images[:, 1]], dim=1)
    assert ((made - decode(autoencoder, latents, other_last, [*range(7)])).abs().amax((0, 1, 3, 4)) > 1e-4).all()
    without = decode(autoencoder, latents[:, :, :1], None, [0])
    torch.testing.assert_close(without[:, :, 0], autoencoder.decode(latents[:, :, 0]))
