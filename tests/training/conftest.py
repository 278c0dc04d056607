from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcrafter.media.video import write_video

SIZE, LENGTH = 32, 40


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four videos, each of a disc that goes its own way over its own color."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for name in ("red sun", "green ball", "blue moon", "grey stone"):
        ground, disc, start, way = *rng.integers(0, 256, (2, 3)), *rng.uniform(0, SIZE, (2, 2))
        frames = np.empty((LENGTH, SIZE, SIZE, 3), np.uint8)
        for frame, passed in zip(frames, np.linspace(0, 1, LENGTH), strict=True):
            y, x = start + passed * (way - start)
            frame[:] = np.where(np.hypot(rows - y, columns - x)[..., None] < SIZE / 4, disc, ground)
        write_video(frames, folder / f"{name}.mp4")
    return folder
