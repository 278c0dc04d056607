"""The clips to be measured: of a folder, of a batch's journal, or of a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcrafter.batch.journal import read_journals
from dcrafter.errors import InputError
from dcrafter.media.formats import FORMATS
from dcrafter.media.image import fit_image, open_image
from dcrafter.media.video import holds_frames, read_video, settings_in
from dcrafter.text import error_text
from dcrafter.training.videos import SUFFIXES, manifest_rows, open_track

COLUMNS = "Columns are path, and perhaps name, caption, image, first, stride, frames, width and height"
KINDS = frozenset(SUFFIXES) | {suffix for entry in FORMATS.values() for suffix in entry.suffixes}


@dataclass(frozen=True)
class ClipFile:
    """Frames of a video file. `name` pairs it with clips of other runs and with its reference."""

    name: str
    path: Path
    caption: str = ""
    image: Path | None = None  # that the video was made from
    first: int = 0
    stride: int = 1
    frames: int = 16  # at most; a video of fewer is taken whole, unless the stride is above 1
    width: int = 0  # to which frames are scaled and cropped; 0: as they are
    height: int = 0

    def load(self, size: tuple[int, int] | None = None) -> Tensor:
        """Read the frames: (T, H, W, 3) uint8.

        Args:
            size: width and height to scale and crop to; None: the clip's own.

        Raises:
            InputError: the file cannot be read, or has too few frames.
        """
        width, height = size or (self.width, self.height)
        try:
            pictures = self._pictures()
        except InputError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged data
            raise InputError(f"cannot read {self.path} ({error_text(error)})", "Is the file complete?") from error
        if width:
            pictures = [np.asarray(fit_image(open_image(each), width, height)) for each in pictures]
        return torch.from_numpy(np.stack(pictures))

    def _pictures(self) -> list[Any]:
        last = self.first + (self.frames - 1) * self.stride
        if self.path.suffix.lower() in SUFFIXES and self.path.is_file():
            track = open_track(self.path, last + 1 if self.stride > 1 or self.first else 2)
            numbers = range(self.first, min(last + 1, track.count), self.stride)
            return [np.asarray(picture) for picture in track.pictures(numbers)]
        return [*read_video(self.path)[0][self.first : last + 1 : self.stride]]

    def load_image(self, width: int, height: int) -> Tensor:
        """The image it was made from, scaled and cropped: (height, width, 3) uint8. Raises InputError."""
        assert self.image is not None
        return torch.from_numpy(np.array(fit_image(open_image(self.image), width, height)))


def list_clips(source: Path) -> list[ClipFile]:
    """The clips of a folder (with a batch's journal, those that it made), or of a CSV or JSONL manifest.

    A clip is named after the image that it was made from, or else after its file.

    Raises:
        InputError: there are none, or the manifest cannot be read.
    """
    if source.is_dir():
        clips = _of_journal(source) or _of_folder(source)
    elif source.suffix.lower() in (".csv", ".jsonl") and source.exists():
        clips = [_of_row(where, row, source.parent) for where, row in manifest_rows(source)]
    else:
        raise InputError(f"{source} is neither a folder nor a manifest", COLUMNS)
    if not clips:
        raise InputError(f"{source} holds no videos", f"A folder of videos, or a manifest. {COLUMNS}")
    return _with_own_names(clips)


def _of_journal(folder: Path) -> list[ClipFile]:
    made = [record for record in read_journals(folder).values() if record.status == "done"]
    return [
        ClipFile(
            Path(record.source).stem,
            folder / record.output,
            str(record.settings.get("prompt", "")),
            Path(record.source) if Path(record.source).is_file() else None,
        )
        for record in sorted(made, key=lambda record: record.output)
        if (folder / record.output).exists()
    ]


def _of_folder(folder: Path) -> list[ClipFile]:
    """Videos, animations and folders of frames."""
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    found = {place for place in places if holds_frames(place) and any(place.iterdir())}
    for place in set(places) - found:
        found |= {path for path in place.iterdir() if path.suffix.lower() in KINDS and path.is_file()}
    return [_described(path) for path in sorted(found)]


def _described(path: Path) -> ClipFile:
    """A video with the caption in its settings, or in a .txt beside it."""
    text = path.with_suffix(".txt")
    settings = settings_in(path)  # whatever is wrong with it is said when it is measured
    images, caption = settings.get("images"), settings.get("prompt")
    name = Path(str(images[0])).stem if isinstance(images, list) and images else path.stem
    if caption is None and text.is_file():
        caption = " ".join(text.read_text("utf-8", errors="replace").split())
    return ClipFile(name, path, str(caption or ""))


def _of_row(where: str, row: Mapping[str, Any], folder: Path) -> ClipFile:
    file = next((row[key] for key in ("path", "file", "file_name", "video") if row.get(key)), None)
    if not file:
        raise InputError(f"{where} lacks a path", COLUMNS)
    caption = next((row[key] for key in ("caption", "prompt", "text") if row.get(key)), "")
    path = folder / str(file)
    image = folder / str(row["image"]) if row.get("image") else None
    name = str(row.get("name") or (image or path).stem)
    try:
        numbers = {key: int(row[key]) for key in ("first", "stride", "frames", "width", "height") if row.get(key)}
    except (TypeError, ValueError):
        raise InputError(f"{where} has something else than a number among its numbers", COLUMNS) from None
    if any(value < (0 if key == "first" else 1) for key, value in numbers.items()):
        raise InputError(f"{where} has a number out of range", COLUMNS)
    return ClipFile(name, path, str(caption), image, **numbers)


def _with_own_names(clips: list[ClipFile]) -> list[ClipFile]:
    """The clips, those of one image told apart by their files."""
    count = Counter(clip.name for clip in clips)
    return [clip if count[clip.name] == 1 else replace(clip, name=clip.path.stem) for clip in clips]
