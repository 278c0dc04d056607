"""What a generation says while it works, and the video that it ends with. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.settings import WriteOptions

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Loading:
    """Weights of a component are being read: `done` of `total` parameters."""

    component: str
    done: int
    total: int


@dataclass(frozen=True)
class MemoryDowngraded:
    """Memory ran out: the generation begins again with the next smaller memory plan."""

    plan: str


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `total` of a video that is made in several begins."""

    index: int
    total: int


@dataclass(frozen=True)
class Encoding:
    """A prompt or an image is about to be encoded."""

    what: str


@dataclass(frozen=True, eq=False)
class Step:
    """Sampling step `index` (from 1) of `total` is done; `x0` is the predicted clean latent (B, C, T, h, w)."""

    index: int
    total: int
    x0: Tensor


@dataclass(frozen=True)
class Decoding:
    """Frame number `frame` (from 1) of `total` is decoded; where frames are decoded together, step number `frame`."""

    frame: int
    total: int


@dataclass(frozen=True, eq=False)
class Video:
    """The result. `frames` is uint8 (T, H, W, 3); `settings` is what made it, as plain values.

    `latents` (P, C, T, h, w) are the samples before decoding, all sampled frames of each of P parts.
    """

    frames: np.ndarray
    fps: float
    settings: dict[str, Any]
    latents: Tensor = field(repr=False)

    def save(
        self,
        path: str | Path,
        *,
        format: str | None = None,
        codec: str | None = None,
        crf: int | None = None,
        overwrite: bool = False,
        metadata: bool = True,
    ) -> Path:
        """Write a video file, by suffix or as mp4, webm, gif, webp, apng or frames, with the settings inside.

        Raises OutputError where the file exists and may not be overwritten, or cannot be written.
        """
        from dcrafter.media.video import write_video

        options = WriteOptions(format, codec, crf, metadata)
        return write_video(self.frames, path, options, fps=self.fps, settings=self.settings, overwrite=overwrite)


@dataclass(frozen=True)
class Done:
    """The last event."""

    video: Video


Event = Loading | MemoryDowngraded | Part | Encoding | Step | Decoding | Done
