"""Which videos the built-in model is measured by."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dcrafter.config import ModelConfig
from dcrafter.evaluation.studio import VideoSet
from dcrafter.tiny.data import Source
from dcrafter.tiny.evaluation import cases


def video_sets(config: ModelConfig, data: Path) -> dict[str, VideoSet]:
    """The sets of videos that `MEASURES` look at. Raises InputError where `data` holds no prepared data set."""
    source = Source(data, "held-out", size=config.height, frames=config.frames)
    pictures = partial(cases.pictures, source)
    return {
        "pictures": VideoSet(pictures),
        "paraphrases": VideoSet(partial(cases.paraphrases, source)),
        "emoji": VideoSet(partial(cases.emoji, source)),
        "loops": VideoSet(partial(cases.loops, source), command="loop"),
        "interpolations": VideoSet(partial(cases.between, source), command="interpolate"),
        "context scale 0.5": VideoSet(pictures, context_scale=0.5),
        "context scale 1.5": VideoSet(pictures, context_scale=1.5),
        "no detail": VideoSet(pictures, detail=False),
        "still emoji": VideoSet(partial(cases.stills, source, "emoji")),
        "still photographs": VideoSet(partial(cases.stills, source, "photographs")),
    }
