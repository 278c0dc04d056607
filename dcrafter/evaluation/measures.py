"""The measures: each looks at some videos of a studio and returns rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dcrafter.evaluation.report import Row
from dcrafter.evaluation.studio import Studio
from dcrafter.generators import drain
from dcrafter.metrics.conformity import perceptual_input_conformity
from dcrafter.metrics.distributions import frechet_distance
from dcrafter.metrics.features import embedding_features, stack_features
from dcrafter.metrics.pixels import as_input, frame_difference, loop_gap, psnr
from dcrafter.metrics.similarity import motion_as_prompted
from dcrafter.metrics.temporal import motion_magnitude
from dcrafter.training.alignment import Towers

FEW = 32  # videos are enough for a mean
STREAMS = ("videos", "no detail", "no context", "no text")  # sets


@dataclass(frozen=True)
class Measure:
    """A function of a studio and how many videos to look at."""

    run: Callable[[Studio, int], list[Row]]
    sets: tuple[str, ...] = ()  # whose videos it looks at


def autoencoder(studio: Studio, count: int, name: str = "videos", images: str = "images") -> list[Row]:
    """Images against what the autoencoder makes of them, without posterior noise."""
    true = as_input(torch.stack([case.frames[0] for case in studio.cases(name, count)]))
    return [Row(f"autoencoder on {images}, PSNR", psnr(studio.reconstruct(true), true), "dB", count)]


def first_frame(studio: Studio, count: int, name: str = "videos") -> list[Row]:
    """The first frame against the image it was generated from."""
    return [Row(f"first frame, {name}, PSNR", conformity(studio, name, count), "dB", count)]


def movement(studio: Studio, count: int, name: str = "videos") -> list[Row]:
    """How much videos move, over how much the data's own clips do."""
    few = min(count, FEW)
    true = frame_difference(torch.stack([case.frames for case in studio.cases(name, few)]))
    generated = frame_difference(studio.videos(name, few))
    ratio = float(generated.mean() / true.mean().clamp_min(1e-8))
    details = {"generated": generated.tolist(), "data": true.tolist()}
    return [Row(f"{name}, difference of neighboring frames over the data's", ratio, "", few, details)]


def loop(studio: Studio, count: int) -> list[Row]:
    """The step from a loop's last frame back to its first, over the mean step within."""
    few = min(count, FEW)
    gaps = loop_gap(studio.videos("loops", few))
    share = float((gaps <= 1).float().mean())
    return [
        Row("loop, step from last to first frame over mean step, median", float(gaps.median()), "", few),
        Row("loops of which it is at most 1", share, "%", few, {"gaps": gaps.tolist()}),
    ]


def interpolation(studio: Studio, count: int) -> list[Row]:
    """First and last frames of interpolations against the two images, less what the autoencoder makes of those."""
    few = min(count, FEW)
    true = as_input(torch.cat([case.frames[[0, -1]] for case in studio.cases("interpolations", few)]))
    generated = as_input(torch.cat([video[[0, -1]] for video in studio.videos("interpolations", few)]))
    most, found = psnr(studio.reconstruct(true), true), psnr(generated, true)
    name = "interpolation, first and last frame, PSNR less the autoencoder's"
    return [Row(name, found - most, "dB", few, {"frames": found, "autoencoder": most})]


def context_scale(studio: Studio, count: int, name: str = "videos") -> list[Row]:
    """A higher context scale (λ's multiplier) lowers motion (paper, figure 2a)."""
    few = min(count, FEW)
    usual = float(frame_difference(studio.videos(name, few)).mean())
    rows = []
    for scale in (0.5, 1.5):
        changed = float(frame_difference(studio.videos(f"context scale {scale}", few)).mean())
        details = {"usual": usual, "changed": changed}
        ratio = changed / max(usual, 1e-8)
        rows.append(Row(f"motion at context scale {scale} over that at 1", ratio, "", few, details))
    return rows


def detail(studio: Studio, count: int, name: str = "videos") -> list[Row]:
    """Without visual detail guidance videos conform less to their image (paper, table 4)."""
    few = min(count, FEW)
    usual, without = (conformity(studio, which, few) for which in (name, "no detail"))
    metric = "first frame's PSNR without visual detail guidance, less that with it"
    return [Row(metric, without - usual, "dB", few, {"with": usual, "without": without})]


def lambdas(studio: Studio, count: int) -> list[Row]:
    """λ of each dual cross-attention layer, as trained (paper, figure 2a)."""
    pipe = studio.pipe
    drain(pipe.residency.ensure_loaded("unet"))
    layers = pipe.model.unet.dual_attentions()
    pipe.model.unet.set_context_scale([1.0] * len(layers))
    values = [float(layer.image_scale()) for layer in layers]
    mean = sum(values) / len(values)
    return [Row("λ, mean over the layers", mean, "", len(values), {"per layer": values})]


def conformity(studio: Studio, name: str, count: int) -> float:
    """PSNR of first frames against the images they were generated from."""
    images = torch.stack([case.frames[0] for case in studio.cases(name, count)])
    return psnr(as_input(studio.videos(name, count)[:, 0]), as_input(images))


def streams(studio: Studio, count: int, names: Sequence[str] = STREAMS) -> list[Row]:
    """What each stream of the image, and the text, are for: videos with all of them, and without each (table 4)."""
    return against_data(studio, min(count, FEW), dict(zip(("all", *STREAMS[1:]), names, strict=True)))


def against_data(studio: Studio, count: int, sets: Mapping[str, str]) -> list[Row]:
    """Sets of videos of the same cases, by their labels, against the data's own clips, their images and their captions.

    Features and perceptual distance are by the model's own image tower.
    """
    towers, cases = Towers(studio.pipe), studio.cases(next(iter(sets.values())), count)
    embedded = [towers.embed_frames(case.frames) for case in cases]
    real = stack_features([embedding_features(each) for each in embedded])
    rows = []
    for label, name in sets.items():
        values: dict[str, list[float]] = {"PIC": [], "PSNR": [], "motion": [], "direction": []}
        features = []
        for case, of_data, video in zip(cases, embedded, studio.videos(name, count), strict=True):
            of_video = towers.embed_frames(video)
            features.append(embedding_features(of_video))
            values["PIC"].append(perceptual_input_conformity(1 - F.cosine_similarity(of_data[:1], of_video, dim=-1)))
            values["PSNR"].append(psnr(as_input(video), as_input(case.frames)))
            values["motion"].append(motion_magnitude(video))
            right = motion_as_prompted(video, case.caption)
            values["direction"] += [] if right is None else [right]
        if count > 1:
            rows.append(Row(f"{label}, FVD", frechet_distance(stack_features(features), real), "", count))
        rows += [
            Row(f"{label}, {metric}", sum(each) / len(each), "", len(each)) for metric, each in values.items() if each
        ]
    return rows


MEASURES: dict[str, Measure] = {
    "autoencoder": Measure(autoencoder),
    "first_frame": Measure(first_frame, ("videos",)),
    "movement": Measure(movement, ("videos",)),
    "loop": Measure(loop, ("loops",)),
    "interpolation": Measure(interpolation, ("interpolations",)),
    "context_scale": Measure(context_scale, ("videos", "context scale 0.5", "context scale 1.5")),
    "detail": Measure(detail, ("videos", "no detail")),
    "streams": Measure(streams, STREAMS),
    "lambdas": Measure(lambdas),
}
