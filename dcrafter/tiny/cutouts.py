"""Labelled cut-outs: the stamps of Tux Paint.

No emoji of other vendors: people try the model with those, and figures are measured on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dcrafter.tiny.packages import debian_files
from dcrafter.tiny.splits import label_split

STAMPS, STAMP_FOLDER = "tuxpaint-stamps-default", "usr/share/tuxpaint/stamps"
STAMP_SOURCE = {"licence": "GPL-2.0-or-later", "credit": "Tux Paint stamps; Bill Kendrick and contributors"}

NO_SUBJECTS = ("symbols", "town/flags", "town/roadsigns")  # letters, coins, signs
SENTENCE = {"is", "are", "was", "that", "can", "called", "used"}
CUTOUT_SIDE = 256
SMALLEST_SIDE = 96
COVERED = (0.08, 0.95)  # share of a cut-out's box that it may cover: one that fills it is an image


def convert_cutouts(work: Path, out: Path) -> list[dict[str, Any]]:
    """Write `out`/cutouts.u8; return the index of the cut-outs. Raises InputError where a package is out of reach."""
    index, offset = [], 0
    with open(out / "cutouts.u8", "wb") as cutouts:
        for image, row in stamps(debian_files(STAMPS, work)):
            pixels = trimmed(image)
            if pixels is None:
                continue
            cutouts.write(pixels.tobytes())
            height, width = pixels.shape[:2]
            split = label_split(row["label"])
            index.append({**row, "split": split, "offset": offset, "height": height, "width": width})
            offset += pixels.size
    return index


def trimmed(image: Image.Image) -> np.ndarray | None:
    """A cut-out's box (H, W, 4) uint8, premultiplied, at most `CUTOUT_SIDE` a side; None where it is no cut-out."""
    rgba = image.convert("RGBA")
    box = rgba.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < SMALLEST_SIDE:
        return None
    cut = rgba.crop(box).convert("RGBa")
    cut.thumbnail((CUTOUT_SIDE, CUTOUT_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(cut)
    return pixels if COVERED[0] < (pixels[..., 3] > 127).mean() < COVERED[1] else None


def stamps(package: Path) -> list[tuple[Image.Image, dict[str, Any]]]:
    """The stamps that have a label and show a subject, by name."""
    folder = package / STAMP_FOLDER
    found = []
    for path in sorted(folder.rglob("*.png")):
        text = path.with_suffix(".txt")
        name = path.relative_to(folder).as_posix()
        if name.startswith(NO_SUBJECTS) or not text.exists():
            continue
        if label := noun_phrase(text.read_text("utf-8", errors="replace")):
            with Image.open(path) as image:
                found.append((image.convert("RGBA"), {**STAMP_SOURCE, "name": name, "label": label}))
    return found


def noun_phrase(text: str) -> str:
    """The first line of a stamp's text as a noun phrase: "A hot air balloon." → "a hot air balloon"; else ""."""
    line = (text.splitlines() or [""])[0].strip().rstrip(".!")
    first, _, rest = line.partition(" ")
    if len(line) > 60 or any(mark in line for mark in '.,:;!?()"“”—=$') or SENTENCE & set(rest.split()):
        return ""
    if first in ("A", "An", "The", "Some"):
        return f"{first.lower()} {rest}"
    return line.lower() if len(line.split()) < 3 else ""
