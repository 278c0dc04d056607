from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation.conftest import checkpoint  # a model smaller than tiny
from PIL import Image

__all__ = ["checkpoint"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight pictures, each another; every third is a portrait."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for i in range(8):
        size = (40, 30, 3) if i % 3 == 2 else (30, 40, 3)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder
