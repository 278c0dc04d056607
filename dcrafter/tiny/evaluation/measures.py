"""The measures of the built-in model: whether videos move as prompted, and the general ones on its own data."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from dcrafter.evaluation import measures
from dcrafter.evaluation.measures import FEW, Measure
from dcrafter.evaluation.report import Row
from dcrafter.evaluation.studio import Studio
from dcrafter.metrics.similarity import goes
from dcrafter.tiny.autoencoder import EVALUATION_STILLS
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


MEASURES: dict[str, Measure] = {
    "autoencoder": Measure(autoencoder),
    "first_frame": Measure(first_frame, ("pictures", "emoji")),
    "motion": Measure(motion, ("pictures",)),
    "paraphrases": Measure(paraphrases, ("paraphrases",)),
    "emoji": Measure(partial(measures.movement, name="emoji"), ("emoji",)),
    "loop": measures.MEASURES["loop"],
    "interpolation": measures.MEASURES["interpolation"],
    "context_scale": Measure(
        partial(measures.context_scale, name="pictures"), ("pictures", "context scale 0.5", "context scale 1.5")
    ),
    "detail": Measure(partial(measures.detail, name="pictures"), ("pictures", "no detail")),
    "lambdas": measures.MEASURES["lambdas"],
}
