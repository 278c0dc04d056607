from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = 32


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of a few colored discs and smooth random pictures; held-out pixels are all pure green."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    line = np.linspace(-1, 1, SIZE)
    radius = np.hypot(*np.meshgrid(line, line))
    emoji, stills, animations = [], [], []
    for i in range(6):
        held_out = i == 5
        color = np.array([0, 255, 0] if held_out else [200, 0, 40 * i])
        frames = []
        for grown in np.linspace(0.4, 0.9, 20):
            alpha = (radius < grown)[..., None]
            frames.append(np.concatenate([alpha * color, alpha * 255], axis=-1).astype(np.uint8))
        animation = [20 * len(animations), 20] if i % 2 else None
        if animation:
            animations.append(np.stack(frames))
        stills.append(frames[-1])
        split = "held-out" if held_out else "train"
        row = {"label": f"disc {'ABCDEF'[i]}", "tags": ["round thing", "up", "shit"], "hexcode": str(i)}
        emoji.append({**row, "split": split, "still": i, "animation": animation})
    cutouts = []
    for i in range(3):
        row = {"label": f"a block {'XYZ'[i]}", "split": "held-out" if i == 2 else "train", "offset": 4 * 20 * 30 * i}
        cutouts.append({**row, "height": 30, "width": 20})
    blue = np.tile(np.array([0, 0, 255, 255], np.uint8), 3 * 20 * 30)
    (folder / "cutouts.u8").write_bytes(blue.tobytes())
    pictures, offset, pixels = [], 0, []
    for i in range(4):
        held_out = i == 3
        height, width = (150, 200) if i % 2 else (220, 160)
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).copy()
        picture[..., 1] = 0
        if held_out:
            picture[:] = [0, 255, 0]
        row = {"label": f"picture {i}", "photograph": True, "split": "held-out" if held_out else "train"}
        pictures.append({**row, "offset": offset, "height": height, "width": width})
        offset += picture.size
        pixels.append(picture.ravel())
    (folder / "stills.u8").write_bytes(np.stack(stills).tobytes())
    (folder / "animations.u8").write_bytes(np.concatenate(animations).tobytes())
    (folder / "pictures.u8").write_bytes(np.concatenate(pixels).tobytes())
    (folder / "index.json").write_text(
        json.dumps({"emoji_size": SIZE, "emoji": emoji, "cutouts": cutouts, "pictures": pictures})
    )
    return folder
