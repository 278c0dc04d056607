"""How a video moves, and what it keeps, against sampling options.

    python tests/benchmarks/motion.py IMAGE… -m tiny -p "pan left" --try start=1 --try start=0.94 --try segments=3

A row each, means over the images: the step between neighboring frames in gray levels, the largest step over the median
(a seam), the first frame against the image in dB and its contrast over the image's (by the model's own decoder, no
detail laid over it), what the last frame has of the first's edges and how far its mean color is from it, in gray
levels, and the CPU seconds it took.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from dcrafter.events import Video
from dcrafter.generators import drain
from dcrafter.media.image import fit_image, open_image, to_tensor
from dcrafter.metrics.pixels import psnr
from dcrafter.pipeline import Pipeline

HEADER = (
    "| options | motion | seam | first frame | contrast | edges kept | color drift | CPU seconds |\n"
    "|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("-p", "--prompt", default="")
    parser.add_argument("--try", dest="tries", action="append", default=[], metavar="NAME=VALUE,…")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(arguments.model, device="cpu")
    print(HEADER)
    for options in arguments.tries:
        given = dict(each.split("=") for each in options.split(",") if each)
        rows = [measure(pipe, image, arguments.prompt, seed, given) for seed, image in enumerate(arguments.images)]
        motion, seam, first, contrast, edges, color, seconds = torch.tensor(rows).mean(dim=0).tolist()
        frame = f"{first:.2f} dB | {100 * contrast:.1f} %"
        figures = f"{motion:.2f} | {seam:.1f} | {frame} | {100 * edges:.0f} % | {color:.1f} | {seconds:.1f}"
        print(f"| {options or 'none'} | {figures} |", flush=True)


def measure(pipe: Pipeline, image: str, prompt: str, seed: int, options: dict[str, str]) -> list[float]:
    start = time.process_time()
    video = pipe.animate(image, prompt, seed=seed, **options)  # type: ignore[arg-type]
    seconds = time.process_time() - start
    frames = torch.from_numpy(video.frames).float()
    steps = frames.diff(dim=0).abs().mean(dim=(1, 2, 3))
    kept = edges(frames[-1]) / edges(frames[0])
    color = (frames[-1].mean(dim=(0, 1)) - frames[0].mean(dim=(0, 1))).abs().mean()
    seam = steps.max() / steps.median().clamp_min(1e-6)
    return [float(steps.mean()), float(seam), *first_frame(pipe, video, image), float(kept), float(color), seconds]


@torch.inference_mode()
def first_frame(pipe: Pipeline, video: Video, image: str) -> tuple[float, float]:
    """PSNR against the image as the model saw it, and the ratio of their standard deviations."""
    size = video.settings["width"], video.settings["height"]
    seen = to_tensor(fit_image(open_image(image), *size, video.settings["fit"]))
    shown = drain(pipe.decode(video.latents[:1, :, :1]))[:, :, 0]
    return psnr(shown, seen[None]), float(shown.std() / seen.std())


def edges(frame: Tensor) -> Tensor:
    """Mean absolute difference of neighboring pixels, of a frame (H, W, 3)."""
    return frame.diff(dim=0).abs().mean() + frame.diff(dim=1).abs().mean()


if __name__ == "__main__":
    main()
