from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dcrafter.tiny.captions import LOCAL_PHRASES, PHRASES
from dcrafter.tiny.motions import DIRECTED, EYES, LOCAL_MOTIONS, MOTIONS, MOUTH, Timing, Trajectory, sampling_grid
from dcrafter.training.videos import swing


def trajectory(
    name: str, pace: float, seconds: np.ndarray, rng: np.random.Generator, spread: float = 1.0
) -> Trajectory:
    return (MOTIONS | LOCAL_MOTIONS)[name](Timing(seconds, pace, spread, rng))


def test_every_motion_has_phrases() -> None:
    assert MOTIONS.keys() == PHRASES.keys()
    assert LOCAL_MOTIONS.keys() == LOCAL_PHRASES.keys()
    assert not MOTIONS.keys() & LOCAL_MOTIONS.keys()


def test_a_marker_moves_as_each_motion_says() -> None:
    """The pixel that shows the content at (0.5, 0), right of the middle, tells all directions."""
    seconds = np.arange(8) / 8
    end = {}
    for name in DIRECTED:
        motion = trajectory(name, 1.0, seconds, np.random.default_rng(0))
        grid = sampling_grid(motion, seconds, 64)
        distance = np.linalg.norm(grid - [0.5, 0.0], axis=-1)
        rows, columns = np.unravel_index(distance.reshape(8, -1).argmin(-1), (64, 64))
        end[name] = (columns[-1] - columns[0], rows[-1] - rows[0])
    assert end["pan left"][0] > 4
    assert end["pan right"][0] < -4
    assert end["pan up"][1] > 4
    assert end["pan down"][1] < -4
    assert end["zoom in"][0] > 2
    assert end["zoom out"][0] < -2
    assert end["rotate clockwise"][1] > 2  # right of the middle, clockwise is down
    assert end["rotate counterclockwise"][1] < -2


def test_motions_begin_at_rest_and_without_spread_are_one() -> None:
    seconds = np.arange(8) / 8
    line = (np.arange(32) + 0.5) / 16 - 1
    for name in MOTIONS:
        spread, one, other = (
            sampling_grid(trajectory(name, 1.0, seconds, np.random.default_rng(seed), by), seconds, 32)
            for seed, by in ((0, 1.0), (1, 0.0), (2, 0.0))
        )
        for grid in (spread, one):
            np.testing.assert_allclose(grid[0], np.stack(np.meshgrid(line, line), axis=-1), atol=1e-6)
        assert np.array_equal(one, other) == (name != "drift"), name
        assert np.array_equal(spread, one) == (name in (*DIRECTED, "still")), name
    sway = trajectory("sway", 1.0, seconds, np.random.default_rng(0))
    assert sway.x[1] > 0
    assert sway.x.min() < 0


def test_a_shake_turns_slower_than_frames_can_show() -> None:
    for name, seconds in (("clip", np.linspace(0, 2.5, 1501)), ("loop", swing(1501) * 1.25)):
        shake = trajectory("shake", 1.4, seconds, np.random.default_rng(0), 0)
        for path in (shake.x, shake.y, shake.turn):
            turns = np.flatnonzero(np.diff(np.sign(np.diff(path))))
            assert np.diff(turns).min() > 100, name  # a frame in sixteen


def test_a_lower_fps_moves_more() -> None:
    shifts = []
    for fps in (24, 12, 6):
        motion = trajectory("pan left", 1.0, np.arange(16) / fps, np.random.default_rng(0))
        shifts.append(motion.x[-1])
    assert all(slow < fast for slow, fast in pairwise(shifts))


SECONDS = np.arange(24) / 12


def displacement(name: str) -> tuple[np.ndarray, np.ndarray]:
    """How far content has gone to the right and up in each frame of a local motion, at every point: (T, 64, 64) each.

    Where the view shows content of a point further left, content has gone to the right, about as far.
    """
    moved = trajectory(name, 1.0, SECONDS, np.random.default_rng(0), 0.0)
    line = (np.arange(64) + 0.5) / 32 - 1
    rest = np.stack(np.meshgrid(line, line), axis=-1)
    away = sampling_grid(moved, SECONDS, 64) - rest
    return -away[..., 0], away[..., 1]


@pytest.mark.parametrize("name", LOCAL_MOTIONS)
def test_a_local_motion_begins_at_rest_and_goes_somewhere(name: str) -> None:
    right, up = displacement(name)
    assert np.abs(right[0]).max() < 1e-5
    assert np.abs(up[0]).max() < 1e-5
    light = trajectory(name, 1.0, SECONDS, np.random.default_rng(0), 0.0).light
    if light is not None:
        assert light[0].max() < 1e-6 < 0.3 < light.max() <= 1
        assert (light.mean(axis=0)[:-1] > light.mean(axis=0)[1:]).all()  # warm: most of red, least of blue
    if name != "glow":
        assert 0.04 < max(np.abs(right).max(), np.abs(up).max()) < 0.9


@pytest.mark.parametrize("name", ["dance", "wind"])
def test_what_bends_stands_on_its_foot_and_moves_more_the_higher(name: str) -> None:
    right, up = displacement(name)
    assert np.abs(up).max() < 1e-5
    reach = np.abs(right).max(axis=(0, 2))  # by row, from the top
    assert all(above >= below for above, below in pairwise(reach))
    assert reach[-1] < 0.01 < reach[0]
    if name == "wind":
        assert right.min() > -1e-5  # one way only
    else:
        assert right[:, 0].min() < -0.1 < 0.1 < right[:, 0].max()


def test_who_breathes_grows_upward_from_the_foot() -> None:
    _, up = displacement("breathe")
    highest = up[:, 0].mean(axis=1)
    assert np.abs(up[:, -1]).max() < 0.01
    assert highest.max() > 0.05
    assert highest.min() < -0.05


def test_who_bounces_goes_up_and_comes_back() -> None:
    moved = trajectory("bounce", 1.0, np.arange(241) / 120, np.random.default_rng(0), 0.0)
    assert moved.y.max() <= 0
    assert moved.y.min() < -0.12
    assert np.sum(np.diff(np.sign(np.diff(moved.y))) != 0) >= 4  # at least two hops


def test_a_blink_moves_the_eyes_and_a_yawn_the_mouth_too() -> None:
    line = (np.arange(64) + 0.5) / 32 - 1
    _, blink = displacement("blink")
    _, yawn = displacement("yawn")
    mouth, chin = (int(np.abs(line - y).argmin()) for y in (MOUTH, MOUTH + 0.3))
    assert np.abs(blink[:, mouth]).max() < 0.01
    assert yawn[:, chin].min() < -0.06  # downward
    eyes = slice(*(int(np.abs(line - EYES + by).argmin()) for by in (0.15, -0.15)))
    assert np.abs(blink[:, eyes]).max() > 0.1


def test_waves_run_to_the_right() -> None:
    """A crest is further right a moment later."""
    _, up = displacement("waves")
    earlier, later = up[12, 32] - up[12, 32].mean(), up[13, 32] - up[13, 32].mean()
    shifts = {by: float((np.roll(earlier, by)[12:-12] * later[12:-12]).sum()) for by in range(-6, 7)}
    assert max(shifts, key=lambda by: shifts[by]) > 0


def test_a_smile_lifts_the_corners_of_the_mouth_and_no_more() -> None:
    line = (np.arange(64) + 0.5) / 32 - 1
    right, up = displacement("smile")
    mouth, brow = (int(np.abs(line - y).argmin()) for y in (MOUTH, -0.7))
    middle, corner = 32, 52
    assert up[-1, mouth, corner] > 0.05 > abs(up[-1, mouth, middle])
    assert right[-1, mouth, corner] > 0 > right[-1, mouth, -1 - corner]
    assert np.abs(up[:, brow]).max() < 0.01


def test_who_greets_moves_the_right_side_alone() -> None:
    _, up = displacement("greet")
    assert np.abs(up[:, :, :32]).max() < 1e-5
    assert up[:, :, -1].min() < -0.1 < 0.1 < up[:, :, -1].max()
