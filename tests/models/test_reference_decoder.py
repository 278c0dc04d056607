import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.models.reference_decoder import Reference, compose, find_flow
from dcrafter.models.registration import Similarity, base_flow, blur, register_clip, resize_flow, warp


def picture(size: int = 256) -> Tensor:
    """Smooth random colours with fine detail on them, (1, 3, size, size) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, size, size, generator=generator)
    coarse = F.interpolate(torch.rand(1, 3, 12, 12, generator=generator), size, mode="bicubic").clamp(0, 1)
    return 0.8 * coarse + 0.2 * blur(x, 3)


def moving(image: Tensor, last: tuple[float, float, float, float], frames: int = 16) -> tuple[Tensor, Tensor]:
    """A clip (T, 3, H, W) under a similarity that grows to `last`, and the similarities (T, 4)."""
    p = torch.tensor(last) * torch.linspace(0, 1, frames)[:, None]
    return warp(image, Similarity(*image.shape[-2:], image).flow(p), mode="bicubic").clamp(0, 1), p


def coarse_of(image: Tensor) -> Tensor:
    """As a decoder that blurs shows it, at half the size."""
    return blur(F.avg_pool2d(image, 2), 5)


MOTIONS = {
    "zoom": (-0.15, 0.0, 0.0, 0.0),
    "turn": (0.0, math.radians(11), 0.0, 0.0),
    "pan": (0.0, 0.0, 0.28, 0.0),
    "all": (0.08, -0.1, 0.1, -0.12),
}


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_a_similarity_is_found_within_half_a_pixel_of_256(motion: tuple[float, float, float, float]) -> None:
    clip, p = moving(picture(), motion)
    found = register_clip(coarse_of(picture()), coarse_of(clip))
    assert (found - p).abs().max() < 0.5 / 128


@pytest.mark.parametrize(
    "motion", ["zoom", "all", *(pytest.param(name, marks=pytest.mark.slow) for name in ("turn", "pan"))]
)
def test_detail_follows_the_motion(motion: str) -> None:
    clip, p = moving(picture(), MOTIONS[motion])
    coarse = coarse_of(clip)
    made = compose(coarse, [Reference(picture(), coarse[:1], 0)])
    seen = (Similarity(256, 256, clip).flow(p).abs().amax(1, keepdim=True) < 0.9).float()

    def error(x: Tensor) -> float:
        return float(((x - clip) ** 2 * seen).sum() / seen.sum())

    enlarged = F.interpolate(coarse, (256, 256), mode="bicubic")
    assert error(made) < error(enlarged) / 4


def test_a_frame_that_shows_the_image_is_the_image() -> None:
    clip, _ = moving(picture(), MOTIONS["all"])
    coarse = coarse_of(clip)
    made = compose(coarse, [Reference(picture(), coarse[:1], 0), Reference(clip[-1:], coarse[-1:], 15)])
    torch.testing.assert_close(made[0], picture()[0], atol=2 / 255, rtol=0)
    torch.testing.assert_close(made[-1], clip[-1], atol=2 / 255, rtol=0)


def test_what_the_image_does_not_show_stays_coarse() -> None:
    coarse = coarse_of(picture()).expand(16, -1, -1, -1).clone()
    coarse[8:, :, 32:96, 32:96] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]  # something new
    made = compose(coarse, [Reference(picture(), coarse[:1], 0)])
    torch.testing.assert_close(
        made[-1, :, 96:160, 96:160].mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), atol=0.05, rtol=0
    )


def test_other_details_of_the_same_colors_stay_as_they_are_drawn() -> None:
    generator = torch.Generator().manual_seed(2)
    one, other = (0.5 + 0.3 * blur(torch.randn(1, 3, 256, 256, generator=generator), 9) for _ in range(2))
    clip = one.expand(16, -1, -1, -1).clone()
    clip[8:, :, 64:192, 64:192] = other[..., 64:192, 64:192]  # what was there has turned, or left
    coarse = coarse_of(clip)
    coarse[1:] += 0.04 * blur(torch.randn(15, 3, 128, 128, generator=generator), 5)  # much is tolerated then
    made = compose(coarse, [Reference(one, coarse[:1], 0)])[-1:]
    to_drawn, to_image = ((made - x).abs() for x in (F.interpolate(coarse[-1:], 256, mode="bicubic"), one))
    assert to_drawn[..., 80:176, 80:176].mean() < to_image[..., 80:176, 80:176].mean()
    assert to_image[..., :48, :].mean() < to_drawn[..., :48, :].mean() / 4


def test_details_that_paled_are_the_image_s() -> None:
    clip, _ = moving(picture(), MOTIONS["pan"])
    coarse = coarse_of(clip)
    surroundings = F.interpolate(F.avg_pool2d(coarse, 16), scale_factor=16, mode="bicubic")
    shares = torch.ones(16, 1, 128, 128)
    shares[8:, :, 32:96, 32:96] = 0.6
    made = compose(torch.lerp(surroundings, coarse, shares), [Reference(picture(), coarse[:1], 0)])
    error = (made[-1] - clip[-1])[:, 80:176, 80:176].abs().mean()
    assert error < 0.02


@pytest.mark.parametrize("kind", ["flat", "stripes", "black"])
def test_images_without_anything_to_hold_on_to_stay_finite(kind: str) -> None:
    image = torch.full((1, 3, 256, 256), 0.0 if kind == "black" else 0.7)
    if kind == "stripes":
        image[..., ::32] = 0.2
    coarse = coarse_of(image).expand(16, -1, -1, -1)
    made = compose(coarse, [Reference(image, coarse[:1], 0)])
    torch.testing.assert_close(made, image.expand(16, -1, -1, -1), atol=0.02, rtol=0)


def test_a_flow_at_another_size_is_the_same_flow() -> None:
    flow = base_flow(32, 32, torch.zeros(1)) * 0.8 + 0.1
    torch.testing.assert_close(
        resize_flow(flow, 256, 256)[..., 8:-8, 8:-8], (base_flow(256, 256, flow) * 0.8 + 0.1)[..., 8:-8, 8:-8]
    )


def test_frames_that_are_wider_than_high() -> None:
    image = picture()[..., :192, :]
    clip, _ = moving(image, MOTIONS["turn"], frames=4)
    made = compose(coarse_of(clip), [Reference(image, coarse_of(image), None)])
    assert made.shape == (4, 3, 192, 256)


def test_noise_of_the_coarse_frames_bends_nothing() -> None:
    clip, p = moving(picture(), MOTIONS["zoom"])
    generator = torch.Generator().manual_seed(1)
    noise = F.interpolate(torch.randn(len(clip), 3, 12, 12, generator=generator), 128, mode="bicubic")
    flow = find_flow(Reference(picture(), coarse_of(picture()), 0), coarse_of(clip) + 0.08 * noise)
    apart = (flow - Similarity(32, 32, clip).flow(p)).norm(dim=1) * 128  # pixels of 256
    assert apart.median() < 0.5
    assert apart.quantile(0.95) < 1


def test_a_part_that_moves_on_its_own_is_followed() -> None:
    """A half that goes up by ten pixels of 256 while the other rests."""
    shift = torch.linspace(0, 1, 16)[:, None, None, None] * torch.tensor([0.0, 10 / 128])[None, :, None, None]
    left = (torch.arange(256) < 128).float()
    clip = warp(picture(), base_flow(256, 256, picture()) + shift * blur(left.expand(1, 1, 256, 256), 31))
    flow = find_flow(Reference(picture(), coarse_of(picture()), 0), coarse_of(clip))
    found = (flow - base_flow(32, 32, flow))[-1, 1] * 128
    assert found[8:24, 3:11].median() > 7
    assert found[8:24, 21:29].abs().median() < 1


@pytest.mark.slow
def test_a_zoom_shows_what_a_larger_image_has() -> None:
    larger = (picture(512) + 0.2 * torch.rand(1, 1, 512, 512, generator=torch.Generator().manual_seed(2))) / 1.2
    image = F.interpolate(larger, 256, mode="bicubic", antialias=True).clamp(0, 1)
    p = torch.tensor([-0.4, 0.0, 0.0, 0.0]) * torch.linspace(0, 1, 16)[:, None]
    clip = warp(larger, Similarity(256, 256, larger).flow(p), mode="bicubic").clamp(0, 1)
    coarse = coarse_of(clip)
    without, with_ = (compose(coarse, [Reference(image, coarse[:1], 0, closeup)]) for closeup in (None, larger))

    def error(x: Tensor) -> float:
        return float((x[-1] - clip[-1]).square().mean())

    assert error(with_) < 0.7 * error(without)
    torch.testing.assert_close(with_[0], without[0])  # nothing is nearer yet
