"""The measures of the built-in model: whether videos move as prompted, and the general ones on its own data."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.evaluation import measures
from dcrafter.evaluation.measures import FEW, Measure
from dcrafter.evaluation.report import Row
from dcrafter.evaluation.studio import Studio
from dcrafter.metrics.pixels import as_input
from dcrafter.metrics.similarity import goes
from dcrafter.models import registration
from dcrafter.models.dynamicrafter import References
from dcrafter.models.reference_decoder import enlarge
from dcrafter.models.registration import inside, register_clip, shrink, warp
from dcrafter.tiny.autoencoder import EVALUATION_STILLS
from dcrafter.tiny.evaluation.cases import LOCAL, KnownCase
from dcrafter.tiny.motions import DIRECTED


def autoencoder(studio: Studio, count: int) -> list[Row]:
    """Held-out stills against what the autoencoder makes of them."""
    few = EVALUATION_STILLS
    return [
        *measures.autoencoder(studio, few, "still emoji", "held-out emoji"),
        *measures.autoencoder(studio, few, "still photographs", "held-out photographs"),
    ]


def first_frame(studio: Studio, count: int) -> list[Row]:
    """First frames against the images they were generated from."""
    return [*measures.first_frame(studio, count, "pictures"), *measures.first_frame(studio, min(count, FEW), "emoji")]


def motion(studio: Studio, count: int) -> list[Row]:
    """Whether videos move as asked, by the sign of the measured motion; and as other videos were asked to.

    For the second, each video is scored against the prompt of another one, dealt out at random. Mostly that asks for
    another kind of motion, whose sign in this video is noise; else for the same direction or its opposite. As
    opposites are prompted equally often, chance gives one half whatever the videos do, if they move at all.
    """
    names = [str(case.direction) for case in studio.cases("pictures", count)]
    order = np.random.default_rng(studio.seed).permutation(count)
    shuffled = names.copy()
    for one, other in zip(order, np.roll(order, 1), strict=True):  # nobody keeps their own
        shuffled[one] = names[other]
    return [
        _moves_as("motion as prompted", studio, "pictures", names),
        _moves_as("the same against shuffled prompts", studio, "pictures", shuffled),
    ]


def paraphrases(studio: Studio, count: int) -> list[Row]:
    """The same with phrases and nouns never trained on."""
    names = [str(case.direction) for case in studio.cases("paraphrases", count)]
    return [_moves_as("motion as prompted, in new words", studio, "paraphrases", names)]


def _moves_as(metric: str, studio: Studio, videos: str, names: list[str]) -> Row:
    """The share of videos that have the motions `names`."""
    measured = studio.similarities(videos, len(names))
    right = [goes(name, one) for name, one in zip(names, measured, strict=True)]
    shares = {}
    for direction in DIRECTED:
        if found := [hit for hit, name in zip(right, names, strict=True) if name == direction]:
            shares[direction] = sum(found) / len(found)
    captions = [case.caption for case in studio.cases(videos, len(names))]
    each = [
        {"caption": caption, "scored as": name, **asdict(one)}
        for caption, name, one in zip(captions, names, measured, strict=True)
    ]
    details = {"shares": shares, "videos": each}
    return Row(metric, sum(right) / len(right), "%", len(right), details)


def new_parts(studio: Studio, count: int) -> list[Row]:
    """What comes into view under known motions, from true latents: detail of the first frame must not be laid there."""
    few = min(count, FEW)
    each = []
    for case in studio.cases("known motions", few):
        assert isinstance(case, KnownCase)
        assert case.new is not None
        true = as_input(case.frames)
        coarse = studio.reconstruct(F.avg_pool2d(true, studio.pipe.config.output_scale))
        refined = with_detail(studio, coarse, true[:1])
        new = case.new[:, None].expand_as(true)
        if new.any():
            each.append([decibels((x - true)[new].square()) for x in (refined, enlarge(coarse, *true.shape[-2:]))])
    refined_db, coarse_db = np.mean(each, axis=0)
    details = {"without detail": float(coarse_db), "videos": each}
    return [Row("parts new to the view, from true latents, PSNR", float(refined_db), "dB", len(each), details)]


def true_latents(studio: Studio, count: int) -> list[Row]:
    """Animations of emoji from true latents, with their first frame's detail and without: what it spoils, and mends."""
    few = min(count, FEW)
    each = []
    for case in studio.cases("emoji", few):
        true = as_input(case.frames)
        coarse = studio.reconstruct(true)
        first = enlarge(true[:1], *(studio.pipe.config.output_scale * side for side in true.shape[2:]))
        refined = shrink(with_detail(studio, coarse, first), min(true.shape[2:]))
        each.append([decibels((x - true).square()) for x in (refined, coarse)])
    refined_db, coarse_db = np.mean(each, axis=0)
    details = {"without detail": float(coarse_db), "largest loss": float(max(b - a for a, b in each)), "videos": each}
    return [Row("animated emoji from true latents, PSNR", float(refined_db), "dB", few, details)]


def local_motion(studio: Studio, count: int) -> list[Row]:
    """Motion of parts under prompts of such, beyond the best similarity of the whole, over that of the data.

    How much changes, and how much of the data's change is in it: a subject that falls apart has the first alone.
    """
    few = min(count, FEW)
    amounts, along = [], []
    cases = studio.cases("local motions", few)
    for case, video in zip(cases, studio.videos("local motions", few), strict=True):
        size = [studio.pipe.config.output_scale * side for side in video.shape[1:3]]
        refined = with_detail(studio, as_input(video), enlarge(as_input(case.frames[:1]), *size))
        made, true = motion_of_parts(refined), motion_of_parts(as_input(case.frames))
        amounts.append((float(made.abs().mean()), float(true.abs().mean())))
        along.append((float((made * true).sum()), float((true * true).sum())))
    return [
        _shares("motion of parts when prompted, over the data's", amounts),
        _shares("the same, where and as the data's", along),
    ]


def _shares(metric: str, pairs: list[tuple[float, float]]) -> Row:
    """The sum of generated figures over the data's; by motion in the details."""

    def share(some: list[tuple[float, float]]) -> float:
        generated, data = (sum(each) for each in zip(*some, strict=True))
        return generated / max(data, 1e-9)

    shares = {name: share(pairs[i :: len(LOCAL)]) for i, name in enumerate(LOCAL) if pairs[i:]}
    return Row(metric, share(pairs), "%", len(pairs), {"shares": shares, "videos": pairs})


@torch.inference_mode()
def with_detail(studio: Studio, coarse: Tensor, first: Tensor) -> Tensor:
    """A coarse clip (T, 3, h, w) with the detail of its image (1, 3, H, W), in [-1, 1]: (T, 3, H, W)."""
    refined = studio.pipe.model.refine(coarse.transpose(0, 1)[None], References(first[None], (0,)))
    return refined[0].transpose(0, 1)


def motion_of_parts(frames: Tensor) -> Tensor:
    """What a similarity leaves of the change since the first of frames (T, 3, H, W): (T - 1, 3, 128, 128)."""
    small = shrink(frames.add(1) / 2, 128)
    flow = registration.Similarity(128, 128, small).flow(register_clip(small[:1], small))
    return ((small - warp(small[:1], flow)) * inside(flow))[1:]


def decibels(squares: Tensor) -> float:
    """PSNR from squared differences of values in [-1, 1]."""
    return float(10 * torch.log10(4 / squares.mean()))


CLIPS = ("clips", "clips, no detail", "clips, no context", "clips, no text")

MEASURES: dict[str, Measure] = {
    "autoencoder": Measure(autoencoder),
    "first_frame": Measure(first_frame, ("pictures", "emoji")),
    "motion": Measure(motion, ("pictures",)),
    "paraphrases": Measure(paraphrases, ("paraphrases",)),
    "emoji": Measure(partial(measures.movement, name="emoji"), ("emoji",)),
    "local_motion": Measure(local_motion, ("local motions",)),
    "new_parts": Measure(new_parts),
    "true_latents": Measure(true_latents),
    "loop": measures.MEASURES["loop"],
    "interpolation": measures.MEASURES["interpolation"],
    "context_scale": Measure(
        partial(measures.context_scale, name="pictures"), ("pictures", "context scale 0.5", "context scale 1.5")
    ),
    "detail": Measure(partial(measures.detail, name="pictures"), ("pictures", "no detail")),
    "streams": Measure(partial(measures.streams, names=CLIPS), CLIPS),
    "lambdas": measures.MEASURES["lambdas"],
}
