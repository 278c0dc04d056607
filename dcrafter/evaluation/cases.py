"""Cases from a person's own videos: their captions, their first frames, and how they go on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dcrafter.config import ModelConfig
from dcrafter.evaluation.studio import Case, VideoSet
from dcrafter.training.videos import VideoData, Videos, motion_condition


def video_cases(config: ModelConfig, data: Path, seed: int, count: int) -> list[Case]:
    """Clips of the videos at `data` (as `Videos` finds them), at the model's size.

    Raises:
        InputError: there are no videos, or they cannot be read.
    """
    videos = Videos(data, VideoData(), seed, count, height=config.height, width=config.width, frames=config.frames)
    clips = (videos[i] for i in range(count))
    return [Case(clip["caption"], clip["frames"], motion_condition(clip, config.motion)) for clip in clips]


def video_sets(config: ModelConfig, data: Path) -> dict[str, VideoSet]:
    """The sets of videos that `MEASURES` look at."""
    cases = partial(video_cases, config, data)
    return {
        "videos": VideoSet(cases),
        "loops": VideoSet(cases, command="loop"),
        "interpolations": VideoSet(cases, command="interpolate"),
        "context scale 0.5": VideoSet(cases, context_scale=0.5),
        "context scale 1.5": VideoSet(cases, context_scale=1.5),
        "no detail": VideoSet(cases, without="detail"),
        "no context": VideoSet(cases, without="context"),
        "no text": VideoSet(cases, without="text"),
    }
