"""A story from its shots (paper, section 6): the videos of a batch, one after the other, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcrafter.errors import UsageError
from dcrafter.media.encoding import Frames
from dcrafter.media.video import read_video, settings_in
from dcrafter.settings import Settings


def fade_frames(shots: Sequence[Settings], seconds: float) -> int:
    """Over how many frames shots fade into each other. Raises UsageError where they do not fit together."""
    kinds = dict.fromkeys((shot.width, shot.height, shot.fps) for shot in shots)
    if len(kinds) > 1:
        sizes = " and ".join(f"{width}×{height} at {fps:g} fps" for width, height, fps in kinds)
        raise UsageError(f"the shots of a story must be alike, not {sizes}", "Give --width, --height and --fps")
    if any(shot.size == "as-input" for shot in shots):
        raise UsageError("the shots of a story must be alike, not each as its image", "Leave out --size")
    shortest = min(shot.frames for shot in shots)
    overlap = round(seconds * shots[0].fps)
    if not 0 <= 2 * overlap <= shortest:
        most = shortest // 2 / shots[0].fps
        raise UsageError(f"--crossfade must be 0 to {most:g} seconds for shots of {shortest} frames, not {seconds:g}")
    return overlap


def join(shots: Sequence[Path], overlap: int = 0) -> Frames:
    """The frames of all shots (T, H, W, 3); where two meet, `overlap` frames of each are mixed into as many.

    Raises InputError for a file that cannot be read.
    """
    parts: list[Frames] = []
    for path in shots:
        frames, _ = read_video(path)
        if parts and overlap:
            parts[-1], tail = parts[-1][:-overlap], parts[-1][-overlap:]
            parts.append(_mixed(tail, frames[:overlap]))
            frames = frames[overlap:]
        parts.append(frames)
    return np.concatenate(parts)


def _mixed(out: Frames, into: Frames) -> Frames:
    """From one to the other, evenly; neither end is one of them alone."""
    weight = (np.arange(1, len(out) + 1) / (len(out) + 1))[:, None, None, None]
    return np.rint(out * (1 - weight) + into * weight).astype(np.uint8)


def read_story(path: Path) -> dict[str, Any] | None:
    """The settings of an earlier story; None if the file is none."""
    settings = settings_in(path)
    return settings if "shots" in settings else None
