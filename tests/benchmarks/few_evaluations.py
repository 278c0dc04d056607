"""What fewer evaluations cost in quality: each variant against many steps from the same noise, on held-out photographs.

    python tests/benchmarks/few_evaluations.py DATA -m tiny --guidance 1.5 --try steps=10 --try steps=10,deep_every=2 …

DATA is what `python -m dcrafter.tiny.prepare` made. A row each, means over the clips: evaluations of the UNet, those
that reuse its deep features counted by their operations; the latents and the frames against those of `--reference`
steps of dpm++, PSNR (of latents, whose variance is about 1, with that as their range); and the share of clips that move
as prompted. Frames are the autoencoder's own: no detail is laid over them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcrafter.conditions import Conditions, seeded_noise
from dcrafter.evaluation.studio import Case
from dcrafter.generators import drain
from dcrafter.media.image import to_frames
from dcrafter.metrics.pixels import as_input
from dcrafter.metrics.similarity import goes, similarity
from dcrafter.pipeline import Pipeline
from dcrafter.runtime.estimate import evaluations
from dcrafter.settings import Settings, resolve
from dcrafter.tiny.evaluation.sets import video_sets

BATCH = 8  # clips sampled at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--lora", action="append", default=[])
    parser.add_argument("--count", type=int, default=56)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--reference", type=int, default=200, metavar="STEPS")
    parser.add_argument("--try", dest="tries", action="append", default=[], metavar="NAME=VALUE,…")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(arguments.model, device="cpu", lora=arguments.lora)
    common = {
        "sampler": "dpm++",
        "width": pipe.config.width,
        "height": pipe.config.height,
        "guidance": arguments.guidance,
    }
    tries = [common | dict(each.split("=") for each in options.split(",") if each) for options in arguments.tries]
    every = [common | {"steps": arguments.reference}, *tries]
    cases = video_sets(pipe.config, arguments.data)["pictures"].cases(0, arguments.count)
    rows: list[list[tuple[float, float, bool]]] = [[] for _ in every]
    for first in range(0, len(cases), BATCH):
        for row, found in zip(rows, compare(pipe, cases[first : first + BATCH], first, every), strict=True):
            row += found
        show(pipe, every, arguments.tries, rows)


def show(pipe: Pipeline, every: list[dict[str, Any]], names: list[str], rows: list[list[Any]]) -> None:
    print(f"\n{len(rows[0])} clips\n| options | evaluations | latents | frames | as prompted |\n|---|---|---|---|---|")
    for options, name, row in zip(every, ["reference", *names], rows, strict=True):
        count = evaluations(pipe.config, resolve(pipe.config, "animate", "", 0, options))  # type: ignore[arg-type]
        latents, frames, right = torch.tensor(row).float().mean(dim=0).tolist()
        print(f"| {name} | {count:.1f} | {latents:.1f} dB | {frames:.1f} dB | {100 * right:.0f} % |", flush=True)


@torch.inference_mode()
def compare(pipe: Pipeline, cases: list[Case], first: int, every: list[dict[str, Any]]) -> list[list[Any]]:
    """Of each variant and case: PSNR of latents and frames against the first variant's, and whether it moves right."""
    settings = [resolve(pipe.config, "animate", case.caption, first + i, every[0]) for i, case in enumerate(cases)]
    singly = [
        drain(pipe.encode(as_input(case.frames[:1]), each, seeded_noise(each.seed)))
        for case, each in zip(cases, settings, strict=True)
    ]
    conditions = Conditions.together(singly)
    sampled = [
        sample(pipe, conditions, [resolve(pipe.config, "animate", "", first + i, options) for i in range(len(cases))])
        for options in every
    ]
    decoded = [drain(pipe.decode(latents)) for latents in sampled]
    found = []
    for latents, frames in zip(sampled, decoded, strict=True):
        of_latents = -10 * ((latents - sampled[0]) ** 2).flatten(1).mean(dim=1).log10()
        of_frames = -10 * (((frames - decoded[0]) / 2) ** 2).flatten(1).mean(dim=1).log10()
        right = [
            goes(str(case.direction), similarity(torch.from_numpy(to_frames(video))))
            for case, video in zip(cases, frames, strict=True)
        ]
        found.append([*zip(of_latents.tolist(), of_frames.tolist(), right, strict=True)])
    return found


def sample(pipe: Pipeline, conditions: Conditions, settings: list[Settings]) -> Tensor:
    """Latents (B, C, T, h, w), each from the noise of its own settings' seed."""
    draws = [seeded_noise(10**6 + each.seed) for each in settings]
    noise = lambda shape: torch.cat([draw((1, *shape[1:])) for draw in draws])  # noqa: E731
    return drain(pipe.sample(conditions, settings[0], noise))


if __name__ == "__main__":
    main()
