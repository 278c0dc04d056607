"""What the benchmarks of batches share: real pictures, and a model to name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden" / "dc256"
# In place of these: what follows -- on the command line.
MODEL = [
    "--checkpoint", str(GOLDEN / "model.ckpt"), "--model-config", str(GOLDEN / "config.json"),
    "--device", "cpu", "--dtype", "float32", "--steps", "1", "-g", "1", "--frames", "2",
]  # fmt: skip


def arguments() -> tuple[list[int], list[str]]:
    """The command line's numbers, and the options of the model."""
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    return [int(number) for number in given[:split]], given[split + 1 :] or MODEL


def cut_pictures(folder: Path, count: int) -> Path:
    """So many parts of a photograph, each another."""
    folder.mkdir()
    places = np.random.default_rng(0)
    with Image.open(DATA / "cat.png") as opened:
        cat = opened.convert("RGB")
    for i in range(count):
        width, height = 160, 120
        left, top = int(places.integers(cat.width - width)), int(places.integers(cat.height - height))
        cat.crop((left, top, left + width, top + height)).save(folder / f"{i:03}.png")
    return folder
