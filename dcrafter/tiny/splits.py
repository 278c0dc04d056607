"""What is held out: chosen by hashes of names, so that it is the same wherever and whenever the data are built."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Literal

HELD_OUT_LABELS = 0.05
HELD_OUT_IMAGES = 0.10  # 5 % of the wallpapers would be two photographs


def fraction(name: str) -> float:
    """A number in [0, 1) that depends on `name` alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def label_split(label: str) -> Literal["train", "held-out"]:
    """The split of an emoji or a cut-out."""
    return "held-out" if fraction(label) < HELD_OUT_LABELS else "train"


def held_out_names(names: Iterable[str]) -> set[str]:
    """The `HELD_OUT_IMAGES` share of names, rounded up, whose hashes are smallest."""
    ranked = sorted(names, key=fraction)
    return set(ranked[: math.ceil(HELD_OUT_IMAGES * len(ranked))])
