from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.metrics import METRICS
from dcrafter.metrics.clip_similarity import frame_similarity, text_similarity
from dcrafter.metrics.conformity import first_frame_conformity, perceptual_input_conformity
from dcrafter.metrics.similarity import motion_as_prompted
from dcrafter.metrics.temporal import flicker, loop_closure, motion_magnitude, optical_flow


def panned(step: float, frames: int = 6, size: int = 160) -> Tensor:
    """A texture whose content goes `step` pixels to the right and half as many down in each frame."""
    cells = torch.randn(1, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    texture = F.interpolate(cells, (2 * size, 2 * size), mode="bicubic")[0] * 40 + 128
    crops = []
    for t in range(frames):
        left, top = round(100 - step * t), round(80 - step * t / 2)
        crops.append(texture[:, top : top + size, left : left + size])
    return torch.stack(crops).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)


@pytest.mark.parametrize("step", [2, 8])
def test_flow_is_how_far_content_goes(step: int) -> None:
    flow = optical_flow(panned(step)).mean(dim=(0, 2, 3)) * 160
    assert flow.tolist() == pytest.approx([step, step / 2], rel=0.08)
    assert motion_magnitude(panned(step)) == pytest.approx(100 * step * 1.25**0.5 / 160, rel=0.1)


def test_what_is_still_does_not_move() -> None:
    still = panned(0)
    assert motion_magnitude(still) < 1e-3
    assert flicker(still) == 0


def test_flicker_is_of_brightness_and_not_of_motion() -> None:
    steady, moving = panned(0, frames=8), panned(3, frames=8)
    lamp = torch.tensor([0, 10] * 4, dtype=torch.uint8).view(-1, 1, 1, 1)
    flickering = (steady // 2 + lamp).to(torch.uint8)
    assert flicker(flickering) == pytest.approx(20, abs=0.5)  # up ten and down ten
    assert flicker(moving) < 2
    assert flicker(moving[torch.tensor([3, 0, 6, 1, 7, 4, 2, 5])]) > 5 * flicker(moving)


def test_a_loop_that_comes_back_closes() -> None:
    way = panned(3)
    assert loop_closure(torch.cat([way, way.flip(0)[1:-1]])) == pytest.approx(1, rel=0.2)
    assert loop_closure(way) > 2


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the camera pans left", 1),
        ("Panning right", 0),
        ("pan up", 1),
        ("pan down", 0),
        ("a cat", None),
        ("zoom left", None),
    ],
)
def test_direction_is_that_of_the_caption(caption: str, expected: float | None) -> None:
    assert motion_as_prompted(panned(4), caption) == expected  # content goes right and down: the camera, left and up


def test_clip_similarity_is_the_cosine() -> None:
    frames = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    assert text_similarity(frames, torch.tensor([5.0, 0.0])) == pytest.approx((1 + 0 + 0.5**0.5) / 3)
    assert frame_similarity(frames) == pytest.approx((0 + 0.5**0.5) / 2)


def test_conformity_is_that_to_the_image() -> None:
    assert perceptual_input_conformity(torch.tensor([0.1, 0.3])) == pytest.approx(0.8)
    frames = torch.full((3, 8, 8, 3), 100, dtype=torch.uint8)
    assert first_frame_conformity(frames, frames[0]) == 100
    assert first_frame_conformity(frames, frames[0] + 51) == pytest.approx(13.98, abs=0.01)


def test_every_metric_names_inputs_that_exist() -> None:
    known = {"frames", "image", "caption", "frame_embeddings", "text_embedding", "image_distances", "features",
             "reference_features"}  # fmt: skip
    for name, metric in METRICS.items():
        assert set(metric.inputs) <= known, name
        assert metric.inputs
