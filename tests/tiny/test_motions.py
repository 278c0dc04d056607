from __future__ import annotations

from itertools import pairwise

import numpy as np

from dcrafter.tiny.captions import PHRASES
from dcrafter.tiny.motions import DIRECTED, MOTIONS, Timing, Trajectory, sampling_grid
from dcrafter.training.videos import swing


def trajectory(
    name: str, pace: float, seconds: np.ndarray, rng: np.random.Generator, spread: float = 1.0
) -> Trajectory:
    return MOTIONS[name](Timing(seconds, pace, spread, rng))


def test_every_motion_has_phrases() -> None:
    assert MOTIONS.keys() == PHRASES.keys()


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
