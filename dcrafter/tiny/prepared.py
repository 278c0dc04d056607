"""Reads the data set that `dcrafter.tiny.prepare` made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dcrafter.errors import InputError

Split = Literal["train", "held-out"]
SPLITS: tuple[Split, Split] = ("train", "held-out")
Array = np.ndarray
Row = dict[str, Any]  # what the index says of one emoji or image


class PreparedData:
    """Memory-mapped pixels, and what is known of them. Raises InputError where there is no prepared data set."""

    def __init__(self, folder: Path) -> None:
        try:
            self.about = json.loads((folder / "index.json").read_text("utf-8"))
        except OSError as error:
            advice = "Build it with `python -m dcrafter.tiny.prepare`"
            raise InputError(f"{folder} holds no prepared data set", advice) from error
        size = self.about["emoji_size"]
        self.stills = np.memmap(folder / "stills.u8", mode="r").reshape(-1, size, size, 4)
        self.animations = np.memmap(folder / "animations.u8", mode="r").reshape(-1, size, size, 4)
        self._images = np.memmap(folder / "pictures.u8", mode="r")
        has_cutouts = bool(self.about.get("cutouts"))  # older data sets have none
        self._cutouts = np.memmap(folder / "cutouts.u8", mode="r") if has_cutouts else np.empty(0, np.uint8)

    def emoji(self, split: Split) -> list[Row]:
        return [row for row in self.about["emoji"] if row["split"] == split]

    def images(self, split: Split) -> list[Row]:
        """Photographs and drawings."""
        return [row for row in self.about["pictures"] if row["split"] == split]

    def cutouts(self, split: Split) -> list[Row]:
        return [row for row in self.about.get("cutouts", []) if row["split"] == split]

    def cutout(self, row: Row) -> Array:
        """A cut-out's pixels (height, width, 4) uint8, premultiplied."""
        height, width, start = row["height"], row["width"], row["offset"]
        return self._cutouts[start : start + height * width * 4].reshape(height, width, 4)

    def pixels(self, row: Row) -> Array:
        """An image's pixels (height, width, 3) uint8."""
        height, width, start = row["height"], row["width"], row["offset"]
        return self._images[start : start + height * width * 3].reshape(height, width, 3)
