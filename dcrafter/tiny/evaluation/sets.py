"""Which videos the built-in model is measured by."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dcrafter.config import ModelConfig
from dcrafter.evaluation.studio import VideoSet
from dcrafter.tiny.clips import ClipSampler
from dcrafter.tiny.evaluation import cases
from dcrafter.tiny.recipe import Clips
from dcrafter.tiny.stills import StillSampler

PROMPTED = Clips(speed=0.5, spread=0.1)  # what words mean to the model, as in the recipes


def video_sets(config: ModelConfig, data: Path) -> dict[str, VideoSet]:
    """The sets of videos that `MEASURES` look at. Raises InputError where `data` holds no prepared data set."""
    sampler = ClipSampler(data, "held-out", size=config.height, frames=config.frames)
    stills = StillSampler(data, "held-out", size=config.height)
    pictures, clips = partial(cases.pictures, sampler), partial(cases.between, sampler)
    size = config.height * config.output_scale
    prompted, large = (ClipSampler(data, "held-out", size=side, frames=config.frames, clips=PROMPTED)
                       for side in (config.height, size))  # fmt: skip
    return {
        "pictures": VideoSet(pictures),
        "paraphrases": VideoSet(partial(cases.paraphrases, sampler)),
        "emoji": VideoSet(partial(cases.emoji, sampler)),
        "local motions": VideoSet(partial(cases.local, prompted)),
        "known motions": VideoSet(partial(cases.known, large)),
        "loops": VideoSet(partial(cases.loops, sampler), command="loop"),
        "interpolations": VideoSet(clips, command="interpolate"),
        "context scale 0.5": VideoSet(pictures, context_scale=0.5),
        "context scale 1.5": VideoSet(pictures, context_scale=1.5),
        "no detail": VideoSet(pictures, without="detail"),
        "clips": VideoSet(clips),
        "clips, no detail": VideoSet(clips, without="detail"),
        "clips, no context": VideoSet(clips, without="context"),
        "clips, no text": VideoSet(clips, without="text"),
        "still emoji": VideoSet(partial(cases.stills, stills, "emoji")),
        "still photographs": VideoSet(partial(cases.stills, stills, "photographs")),
    }
