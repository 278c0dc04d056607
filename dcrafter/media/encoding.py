"""What every writer of a format is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Frames: TypeAlias = "NDArray[np.uint8]"
"""Frames of a video (T, H, W, 3)."""


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes:
        fps: frames per second.
        comment: text to embed, plain ASCII.
        codec: name in `containers.CODECS`, or of any video encoder in PyAV; empty where the format has no codecs.
        crf: constant rate factor, 0 (best) to 63; None for the codec's default.
    """

    fps: float
    comment: str | None = None
    codec: str = ""
    crf: int | None = None


Writer: TypeAlias = "Callable[[Frames, Path, Encoding], None]"
"""Encodes frames into a new file or folder."""


class EncoderError(ValueError):
    """The encoder is unknown, or refuses the size or its options."""
