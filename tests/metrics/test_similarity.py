from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.metrics.similarity import Similarity, goes, similarity
from dcrafter.tiny.motions import DIRECTED, MOTIONS, Timing, Trajectory, sample, sampling_grid

SIZE, FRAMES = 128, 16
STILL = np.zeros(FRAMES)


def filmed(trajectory: Trajectory, seed: int = 0) -> Tensor:
    """A random texture, coarse and fine, under a motion: (T, S, S, 3) in 0…255."""
    generator = torch.Generator().manual_seed(seed)
    texture = torch.zeros(1, 3, 512, 512)
    for cells in (6, 20, 60):
        texture += F.interpolate(torch.randn(1, 3, cells, cells, generator=generator), (512, 512), mode="bicubic")
    grid = sampling_grid(trajectory, np.arange(FRAMES) / 8, SIZE) / 3.5  # the texture is wider than any view
    return (sample(texture[0], torch.from_numpy(grid)) * 40 + 128).clamp(0, 255).permute(0, 2, 3, 1)


def other(name: str) -> str:
    turned = {"in": "out", "left": "right", "up": "down", "clockwise": "counterclockwise"}
    turned |= {value: key for key, value in turned.items()}
    kind, to = name.split()
    return f"{kind} {turned[to]}"


@pytest.mark.parametrize("pace", [0.1, 1.0, 5.0])  # the least, a usual and the most motion of a clip
@pytest.mark.parametrize("name", DIRECTED)
def test_each_directed_motion_is_found(name: str, pace: float) -> None:
    true = MOTIONS[name](Timing(np.arange(FRAMES) / 8, pace, 1.0, np.random.default_rng(0)))
    measured = similarity(filmed(true, seed=DIRECTED.index(name)))
    assert goes(name, measured)
    assert not goes(other(name), measured)
    for axis in ("x", "y", "zoom", "turn"):
        amount = getattr(true, axis)[-1]
        assert getattr(measured, axis) == pytest.approx(amount, rel=0.1, abs=0.01), axis


def test_all_at_once() -> None:
    share = np.linspace(0, 1, FRAMES)
    measured = similarity(filmed(Trajectory(0.3 * share, -0.2 * share, 0.25 * share, -0.4 * share)))
    assert measured.x == pytest.approx(0.3, abs=0.02)
    assert measured.y == pytest.approx(-0.2, abs=0.02)
    assert measured.zoom == pytest.approx(0.25, abs=0.02)
    assert measured.turn == pytest.approx(-0.4, abs=0.02)


def test_a_turn_may_go_beyond_half_a_circle() -> None:
    measured = similarity(filmed(Trajectory(STILL, STILL, STILL, np.linspace(0, 4, FRAMES))))
    assert measured.turn == pytest.approx(4, rel=0.05)


def test_noise_and_changing_light_do_not_matter() -> None:
    frames = filmed(Trajectory(np.linspace(0, 0.3, FRAMES), STILL, STILL, STILL))
    generator = torch.Generator().manual_seed(1)
    frames = frames + 15 * torch.randn(FRAMES, 1, 1, 1, generator=generator)
    frames = frames + 12 * torch.randn(frames.shape, generator=generator)
    assert similarity(frames.clamp(0, 255)).x == pytest.approx(0.3, rel=0.2)


def test_something_that_moves_across_does_not_matter() -> None:
    frames = filmed(Trajectory(STILL, np.linspace(0, 0.4, FRAMES), STILL, STILL))
    for t, frame in enumerate(frames):
        frame[40:70, 5 * t : 5 * t + 30] = 255
    assert similarity(frames).y == pytest.approx(0.4, rel=0.1)


def test_where_nothing_is_to_be_seen_nothing_moves() -> None:
    measured = similarity(torch.full((4, 32, 32, 3), 200, dtype=torch.uint8))
    assert measured == Similarity(0.0, 0.0, 0.0, 0.0)
    assert not any(goes(name, measured) for name in DIRECTED)


def test_motions_without_direction_are_refused() -> None:
    with pytest.raises(ValueError, match="shake has no direction"):
        goes("shake", Similarity(math.pi, 0, 0, 0))
