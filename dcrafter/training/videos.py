"""Clips of video files in a folder or manifest. Each is a function of (seed, index), so that a resume is exact."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation
from PIL import Image
from torch.utils.data import Dataset

from dcrafter.config import Motion
from dcrafter.errors import InputError
from dcrafter.media.image import fit_image
from dcrafter.media.video import open_container
from dcrafter.text import error_text

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".gif")
TRIES = 100  # videos that may fail in one item
ROUNDING = 1e-4  # frames a second by which a whole rate may be missed
SAME_RATE = 0.02  # share by which a rate may differ from the file's
HELD_OUT_SHARE = 0.05  # of the files
_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND  # the faster one is darker
_FILES, _CAPTIONS = ("path", "file", "file_name", "video"), ("caption", "text", "name")
_COLUMNS = "It needs `path` or `file`, or WebVid's `videoid` and `page_dir`; and `caption`, `text` or `name`."


@dataclass(frozen=True)
class VideoData:
    """Which videos to use, at which speeds, with which text. Raises InputError for values out of range.

    The annotations `dynamic_*` are those of the paper's section 5; a video without them does not pass their filter.
    """

    strides: tuple[int, int] = (1, 6)  # smallest and largest; all between are equally likely
    confidence: float = 0.0  # least `dynamic_confidence`
    categories: tuple[str, ...] = ()  # allowed `dynamic_source_category`; empty: any
    wording: Literal["caption", "dynamic"] = "caption"  # dynamic: `dynamic_wording` where a video has it

    def __post_init__(self) -> None:
        if len(self.strides) != 2 or not 1 <= self.strides[0] <= self.strides[1]:
            raise InputError(f"strides cannot be {self.strides}", "Give the smallest and the largest, such as [1, 6]")
        if self.wording not in ("caption", "dynamic"):
            raise InputError(f"there is no wording {self.wording!r}", "Choose caption or dynamic")


class Videos(Dataset[dict[str, Any]]):
    """`length` clips of the videos at `path`, as a map-style data set; clip i of a seed is always the same.

    `path` is a folder, searched through (captions from a `.txt` beside the video, else from its name), or a CSV or
    JSONL manifest (columns as in `_COLUMNS`, paths relative to it, perhaps `dynamic_*`). An item is {"frames":
    (T, height, width, 3) uint8, "caption", "fps": float, frames a second of the clip, "stride": int, "skipped": str}:
    every stride-th frame from a random one on, scaled to cover the size and cut to its middle.

    `held_out` chooses the one file in twenty that is kept back, by a hash of its name, or the others; a single file
    is both. By default all are drawn from.

    `broken` says why a file cannot be used at all; it is not opened again. `damaged` names videos of which some clip
    could not be decoded. Those stay in, or a clip would depend on which ones were made before it. "skipped" has a line
    for each that this process met for the first time on the way to the item; each worker counts for itself.

    Raises InputError where there are no videos, and from an item when nothing can be read any more.
    """

    def __init__(
        self,
        path: Path,
        options: VideoData,
        seed: int,
        length: int,
        *,
        height: int,
        width: int,
        frames: int = 16,
        held_out: bool | None = None,
    ) -> None:
        self.path, self.options, self.seed, self.length = path, options, seed, length
        self.height, self.width, self.frames = height, width, frames
        self.videos = _listed(path, options)
        if held_out is not None:
            self.videos = _split(self.videos, held_out)
        self.files = len({file for file, _ in self.videos})
        self.broken: dict[Path, str] = {}
        self.damaged: dict[Path, str] = {}

    def __len__(self) -> int:
        return self.length

    def about(self) -> str:
        """One line about the videos that were found."""
        text = f"videos in {self.path}: {self.files}"
        if blank := sum(not caption for _, caption in self.videos):
            text += f", {blank} without a caption"
        named = [file for file, _ in self.videos if not Path(file).with_suffix(".txt").exists()]
        if named and self.path.is_dir():
            text += f", {len(named)} with no .txt beside it: its name is the caption"
        return text

    def clip(self, index: int, *, loop: bool = False) -> dict[str, Any]:
        """Clip `index`, as a loop played to its end and back."""
        return there_and_back(self[index]) if loop else self[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index])
        failed = 0
        skipped: list[str] = []
        while failed < TRIES and len(self.broken) < self.files:
            # All three are drawn for a broken video too: later draws must not depend on which videos are broken.
            file, caption = self.videos[int(rng.integers(len(self.videos)))]
            stride, place = int(rng.integers(self.options.strides[0], self.options.strides[1] + 1)), rng.random()
            video = Path(file)
            if video in self.broken:
                continue
            track = None
            try:
                track = open_track(video, self.frames)
                return {"caption": caption, **self._clip(track, stride, place), "skipped": "\n".join(skipped)}
            except Exception as error:  # decoders raise nearly anything on damaged data
                failed += 1
                failures = self.damaged if track else self.broken
                if video not in failures:
                    failures[video] = error_text(error)
                    skipped.append(f"{video}: {failures[video]}")
        problem = f"{failed} videos in turn" if failed >= TRIES else "every video"
        why = next(reversed({**self.damaged, **self.broken}.items()))
        raise InputError(f"{problem} of {self.path} failed, as {why[0]}: {why[1]}", "Are the files complete?")

    def _clip(self, track: Track, stride: int, place: float) -> dict[str, Any]:
        """Frames, fps and stride; `place` in [0, 1) is where in the video the clip lies."""
        steps = max(self.frames - 1, 1)  # a single frame needs a neighbor to have a rate
        if track.count <= stride * steps:  # as the released code; all that a short video has would often be more
            stride = min(track.count // self.frames, (track.count - 1) // steps)
        first = int(place * (track.count - stride * steps))
        pictures = track.pictures(range(first, first + stride * steps + 1, stride)[: self.frames])
        frames = np.stack([np.asarray(fit_image(picture, self.width, self.height)) for picture in pictures])
        rate = track.rate(first, first + stride * steps)
        return {"frames": torch.from_numpy(frames), "fps": rate / stride, "stride": stride}


def swing(frames: int) -> np.ndarray:
    """Share of the way that is covered at each frame (T,) of a clip there and back, slow where it turns.

    At an even speed a loop would seem to bounce off its image.
    """
    return (1 - np.cos(np.linspace(0, 2 * np.pi, frames))) / 2


def motion_condition(clip: Mapping[str, Any], motion: Motion) -> int:
    """A clip's "fps" or "stride" as the model's motion condition: a fraction is dropped, as in the released code."""
    value = clip["fps"] if motion.unit == "FPS" else clip["stride"]
    return max(math.floor(value + ROUNDING), 1)


def there_and_back(clip: dict[str, Any]) -> dict[str, Any]:
    """A clip of a video played to its end and back to its beginning in the same time."""
    last = len(clip["frames"]) - 1
    frames = clip["frames"][np.rint(last * swing(last + 1)).astype(int)]
    return clip | {"frames": frames, "fps": clip["fps"] / 2, "stride": clip["stride"] * 2}


# --- files


@dataclass(frozen=True)
class Track:
    """The frames of a video file: how many, and when each is shown, if the file says so."""

    path: Path
    count: int
    times: np.ndarray | None  # (count,) int64 in units of time_base; None: no reliable times
    time_base: float
    nominal_rate: float

    def rate(self, first: int, last: int) -> float:
        """Frames a second from frame `first` to frame `last`: it may vary over the file."""
        if self.times is None:
            return self.nominal_rate
        measured = (last - first) / (float(self.times[last] - self.times[first]) * self.time_base)
        is_nominal = abs(measured - self.nominal_rate) < SAME_RATE * self.nominal_rate  # times are rounded
        return self.nominal_rate if is_nominal else measured

    def pictures(self, numbers: range) -> list[Image.Image]:
        """The frames of these numbers. Raises whatever the decoder does, and ValueError if some are not there."""
        found: dict[int, Image.Image] = {}
        if self.times is not None:
            found = self._decoded([int(time) for time in self.times[numbers]], seek=True)
        if len(found) < len(numbers):  # some seeks land after the frame
            found = self._decoded(list(numbers), seek=False)
        if len(found) < len(numbers):
            raise ValueError(f"the decoder gives only {len(found)} of {len(numbers)} frames")
        return list(found.values())

    def _decoded(self, wanted: list[int], *, seek: bool) -> dict[int, Image.Image]:
        """Frames by their time, from the keyframe before the first one on, or by their number, from the beginning."""
        found: dict[int, Image.Image] = {}
        with open_container(self.path) as container:
            stream = container.streams.best("video")
            assert isinstance(stream, av.VideoStream)  # a track has one
            if seek:
                container.seek(wanted[0], stream=stream)
            for number, frame in enumerate(container.decode(stream)):
                key = frame.pts if seek else number
                if key in wanted[len(found) :]:
                    if frame.is_corrupt:
                        raise ValueError(f"frame {number} is damaged")
                    pixels = frame.to_ndarray(format="rgb24", interpolation=_EXACT).astype(np.uint8, copy=False)
                    found[key] = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90)))
                if key is None or key >= wanted[-1]:
                    break
        return found


@lru_cache(maxsize=256)
def open_track(path: Path, least: int) -> Track:
    """Read a file's packets without decoding. Raises ValueError if it has fewer frames than `least`, or than 2."""
    with open_container(path) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise ValueError("it has no picture")
        shown = []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ValueError("it is cut off or damaged")
            if packet.size and not packet.is_discard:
                shown.append(packet.pts)
        times = np.unique([time for time in shown if time is not None])
        # An AVI has no presentation times, and those guessed from its order of decoding may be wrong.
        timed = None not in shown and container.format.name != "avi"
        count = len(times) if timed else len(shown)
        if count < max(least, 2):
            raise ValueError(f"it has {count} frames, too few for a clip of {least}")
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        return Track(path, count, times if timed else None, float(stream.time_base or 0), rate)


# --- folders and manifests


def _listed(path: Path, options: VideoData) -> list[tuple[str, str]]:
    """(file, caption) pairs, as text because there may be millions. Raises InputError."""
    listed, seen = [], 0
    for seen, (where, row) in enumerate(video_rows(path), 1):  # noqa: B007
        file, caption = file_and_caption(where, row, path.parent)
        if options.wording == "dynamic":
            caption = row.get("dynamic_wording") or caption
        try:
            confidence = parse_confidence(row.get("dynamic_confidence") or 0)
        except ValueError:
            raise InputError(f"{where}: dynamic_confidence must be a number", "Correct it, or leave it out.") from None
        category = row.get("dynamic_source_category")
        if confidence >= options.confidence and (not options.categories or category in options.categories):
            listed.append((str(file), str(caption)))
    if not seen:
        raise InputError(f"{path} holds no videos", f"Videos end in {', '.join(SUFFIXES)}.")
    if not listed:
        advice = "Lower `confidence`, or allow other `categories`; only a manifest has such annotations."
        raise InputError(f"of {seen} videos in {path} the filter leaves none", advice)
    return listed


def video_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The videos of a folder, or of a CSV or JSONL manifest: a name for messages, and values. Raises InputError."""
    if path.is_dir():
        return _folder_rows(path)
    if not path.exists():
        raise InputError(f"there is no {path}", "Give a folder of videos, or a CSV or JSONL manifest.")
    if path.suffix.lower() in (".csv", ".jsonl"):
        return manifest_rows(path)
    raise InputError(f"{path} is neither a folder nor a manifest", "Give a folder, a .csv or a .jsonl.")


def file_and_caption(where: str, row: Mapping[str, Any], folder: Path) -> tuple[Path, str]:
    """The file and the caption of a row of a manifest in `folder`. Raises InputError where it lacks one."""
    captions = [row[name] for name in _CAPTIONS if name in row]
    file: Any = next((row[name] for name in _FILES if row.get(name)), None)
    if not file and row.get("videoid") and row.get("page_dir"):
        file = _webvid_folder(folder, str(row["page_dir"])) / f"{row['videoid']}.mp4"
    if not file or not captions:
        raise InputError(f"{where} lacks {'a caption' if file else 'a file'}", _COLUMNS)
    return folder / str(file), str(next((text for text in captions if text is not None), ""))


@cache
def _webvid_folder(folder: Path, page: str) -> Path:
    return folder / page if (folder / page).is_dir() else folder / "videos" / page


def parse_confidence(value: Any) -> float:
    """0.9 of 0.9, "0.9" or "90%", as language models write it. Raises ValueError for anything else."""
    text = str(value).strip()
    number = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    if not 0 <= number <= 1:
        raise ValueError(f"{value} is no share of 1")
    return number


def _split(videos: list[tuple[str, str]], held_out: bool) -> list[tuple[str, str]]:
    """The held-out videos, or the others. Of two files or more at least one is held out, whatever their order."""
    names = sorted({Path(file).name for file, _ in videos}, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) < 2:
        return videos
    kept_back = set(names[: max(int(HELD_OUT_SHARE * len(names)), 1)])
    return [video for video in videos if (Path(video[0]).name in kept_back) == held_out]


def _folder_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for video in sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES):
        text = video.with_suffix(".txt")
        caption = text.read_text("utf-8", errors="replace") if text.exists() else re.sub(r"[_.-]", " ", video.stem)
        yield str(video), {"path": video.absolute(), "caption": " ".join(caption.split())}


def manifest_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's name for messages, and its values. Raises InputError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file, strict=True)
                reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
                yield from ((f"{path}, line {reader.line_num},", row) for row in reader)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except ValueError:
                        row = None
                    if not isinstance(row, dict):
                        raise InputError(f"{path}, line {number}, is no JSON object", 'Like {"path": …, "caption": …}.')
                    yield f"{path}, line {number},", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the manifest {path} cannot be read: {error}", "Save it as CSV or JSONL in UTF-8.") from error
