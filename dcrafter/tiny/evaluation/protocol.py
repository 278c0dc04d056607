"""`python -m dcrafter.tiny.evaluation.protocol DATA -o FOLDER`: the paper's protocol on the built-in model's data.

Held-out clips stand in for UCF-101 and MSR-VTT. Beside what `evaluation.protocols` writes there are other held-out
clips and spoiled forms of them, which show what each metric sees.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from dcrafter.config import MODELS
from dcrafter.errors import exit_on_error
from dcrafter.evaluation.clips import ClipFile
from dcrafter.evaluation.protocol import describe
from dcrafter.evaluation.protocols import write_protocol
from dcrafter.media.video import write_video
from dcrafter.settings import WriteOptions
from dcrafter.tiny.clips import ClipSampler
from dcrafter.training.jsonl import write_rows

PROGRAM = "dcrafter.tiny.evaluation.protocol"
MODEL = MODELS["tiny"]
LOSSLESS = WriteOptions(format="frames")
BLUR = 3  # pixels, standard deviation
REAL_SEED, OTHER_SEED = 0, 1


def shuffled(frames: Tensor, number: int) -> Tensor:
    """The frames in an order of their own for each clip."""
    return frames[torch.from_numpy(np.random.default_rng(number).permutation(len(frames)))]


def blurred(frames: Tensor, number: int) -> Tensor:
    """Every frame out of focus."""
    blur = ImageFilter.GaussianBlur(BLUR)
    return torch.stack([torch.tensor(np.array(Image.fromarray(frame.numpy()).filter(blur))) for frame in frames])


def still(frames: Tensor, number: int) -> Tensor:
    """The first frame all the time."""
    return frames[:1].expand_as(frames)


SPOILED = {"shuffled": shuffled, "blurred": blurred, "still": still}


def held_out(data: Path, folder: Path, seed: int, count: int) -> Iterator[ClipFile]:
    """Write held-out clips as folders of PNGs, and yield them."""
    sampler = ClipSampler(data, "held-out", size=MODEL.height * MODEL.output_scale, frames=MODEL.frames)
    for number in range(count):
        name = f"clip-{number:04}"
        clip = sampler.clip(seed, number)
        path = write_video(clip["frames"].numpy(), folder / name, LOSSLESS, fps=clip["fps"], overwrite=True)
        yield ClipFile(name, path, clip["caption"])


def spoil(clips: list[ClipFile], folder: Path) -> None:
    """Write every spoiled form of clips, and for each and the clips themselves a manifest that names their images."""
    kept: dict[str, list[dict[str, str]]] = {"others": []}
    for number, clip in enumerate(clips):
        image = min(clip.path.iterdir())
        about = {"name": clip.name, "caption": clip.caption, "image": str(image.absolute())}
        kept["others"].append(about | {"path": str(clip.path.absolute())})
        frames = clip.load()
        for kind, change in SPOILED.items():
            path = write_video(change(frames, number).numpy(), folder / kind / clip.name, LOSSLESS, overwrite=True)
            kept.setdefault(kind, []).append(about | {"path": str(path.absolute())})
    for kind, rows in kept.items():
        write_rows(folder / f"{kind}.jsonl", rows)


def main() -> None:
    """Run the process's command line, and exit with its status."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description="Lay out a stand-in for the protocols.")
    parser.add_argument("data", type=Path, help="the folder that dcrafter.tiny.prepare made")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=256, metavar="N", help="number of clips")
    arguments = parser.parse_args()
    with exit_on_error(PROGRAM):
        real = held_out(arguments.data, arguments.output / "real", REAL_SEED, arguments.count)
        found = write_protocol(real, arguments.output, MODEL, arguments.count)
        others = held_out(arguments.data, arguments.output / "others", OTHER_SEED, arguments.count)
        spoil([*others], arguments.output)
        describe(arguments.output, "tiny", found, arguments.count)


if __name__ == "__main__":
    main()
