"""What a model is asked for: held-out pictures with captions, the same for a seed whatever the model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from dcrafter.errors import InputError
from dcrafter.evaluation.studio import Case
from dcrafter.tiny.captions import PHRASES, fill, takes_pace
from dcrafter.tiny.clips import ClipSampler
from dcrafter.tiny.drawing import one_of
from dcrafter.tiny.motions import DIRECTED, PACES
from dcrafter.tiny.stills import StillSampler

FPS = 12  # every case has this motion condition, so that they can be sampled together
LOCAL = ("yawn", "waves", "run")  # motions of a subject, as in free prompts
LOOPING = ("sway", "pulse", "ripple", "shake")  # motions that come back to where they began
# What a landscape may be called that no training caption may have said; `unseen_nouns` holds them against the data.
NOUNS = (
    "the scenery", "the countryside", "a vista", "a panorama", "a glade", "a canyon", "the wilderness", "the horizon",
    "the terrain", "a backdrop", "the surroundings", "a snapshot", "an artwork", "a valley",
)  # fmt: skip


def moved(sampler: ClipSampler, seed: int, motions: Sequence[str], count: int) -> list[Case]:
    """Pictures that the data's own clips move in one of `motions`, in turn."""
    cases: list[Case] = []
    numbers = itertools.count()
    while len(cases) < count:
        clip = sampler.clip(seed, next(numbers), motion=motions[len(cases) % len(motions)])
        if clip["kind"] == "picture":  # not a scene of emoji
            cases.append(_case(clip))
    return cases


def pictures(sampler: ClipSampler, seed: int, count: int) -> list[Case]:
    """Photographs to be moved in one of the eight directed motions, in turn, in the phrases of training.

    They are no frames of such a motion: one that is to be zoomed out of could be known by what it shows.
    """
    cases = []
    for number in range(count):
        motion = DIRECTED[number % len(DIRECTED)]
        picture, caption = sampler.prompted_view(seed, number, motion)
        cases.append(Case(caption, picture[None], FPS, motion))
    return cases


def between(sampler: ClipSampler, seed: int, count: int) -> list[Case]:
    """Pictures under the eight directed motions, whose last frames are wanted too."""
    return moved(sampler, seed, DIRECTED, count)


def paraphrases(sampler: ClipSampler, seed: int, count: int) -> list[Case]:
    """The same pictures and motions in phrases and with nouns that no training caption has.

    Raises InputError where training knows all the nouns.
    """
    rng = np.random.default_rng([seed, 1])
    nouns = unseen_nouns(sampler)
    cases = []
    for case in pictures(sampler, seed, count):
        assert case.direction is not None
        template = one_of(rng, PHRASES[case.direction].held_out)
        pace = one_of(rng, tuple(PACES)) if takes_pace(template) else None
        cases.append(replace(case, caption=fill(template, one_of(rng, nouns), pace, rng=rng)))
    return cases


def loops(sampler: ClipSampler, seed: int, count: int) -> list[Case]:
    """Pictures under motions that come back."""
    return moved(sampler, seed, LOOPING, count)


def emoji(sampler: ClipSampler, seed: int, count: int) -> list[Case]:
    """Emoji with animations of their own."""
    clips = (sampler.clip(seed, index) for index in itertools.count())
    found = (clip for clip in clips if clip["kind"] == "animation" and clip["fps"] == FPS)
    return [_case(next(found)) for _ in range(count)]


def local(sampler: ClipSampler, seed: int, count: int) -> list[Case]:
    """Subjects over photographs that yawn, wave like a flag, or run, in turn."""
    found: list[Case] = []
    numbers = itertools.count()
    while len(found) < count:
        clip = sampler.clip(seed, next(numbers), motion=LOCAL[len(found) % len(LOCAL)])
        if clip["fps"] == FPS:
            found.append(_case(clip))
    return found


@dataclass(frozen=True, eq=False)
class KnownCase(Case):
    """A clip at the output size whose motion is known."""

    new: Tensor | None = None  # (T, H, W) bool, where it shows what its first frame does not


def known(sampler: ClipSampler, seed: int, count: int) -> list[Case]:
    """Photographs under the eight directed motions, in turn."""
    cases: list[Case] = []
    for number in range(count):
        direction = DIRECTED[number % len(DIRECTED)]
        frames, new = sampler.known_view(seed, number, direction)
        cases.append(KnownCase("", frames, FPS, direction, new))
    return cases


def unseen_nouns(sampler: ClipSampler) -> list[str]:
    """Those of `NOUNS` whose words are in no label or tag of the training data."""
    data = sampler.ingredients.data
    rows = [*data.emoji("train"), *data.images("train")]
    said = " ".join(" ".join([row["label"], *row.get("tags", [])]) for row in rows)
    known = set(re.findall(r"\w+", said.lower()))
    nouns = [noun for noun in NOUNS if noun.split()[-1] not in known]
    if not nouns:
        raise InputError("training captions have every noun of the evaluation", "Add others to NOUNS")
    return nouns


def _case(clip: dict[str, Any]) -> Case:
    return Case(clip["caption"], clip["frames"], FPS, clip["motion"])


def stills(sampler: StillSampler, kind: Literal["emoji", "photographs"], seed: int, count: int) -> list[Case]:
    """The images that the autoencoder's own stage is evaluated on, the same for every seed."""
    return [Case("", image[None], FPS) for image in sampler.evaluation_stills(kind, count)]
