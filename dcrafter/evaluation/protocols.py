"""The paper's protocols (section 4.2) as manifests: what to generate from, and what to measure it against.

2,048 clips of 16 frames, every third one, at 256×256, the first frame as the image. Which videos and which of their
captions the authors drew is not published: here a seed decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dcrafter.config import ModelConfig
from dcrafter.errors import InputError, OutputError
from dcrafter.evaluation.clips import ClipFile
from dcrafter.media.video import read_video
from dcrafter.training.jsonl import write_rows
from dcrafter.training.videos import motion_condition, open_track

CLIPS, STRIDE, FRAMES = 2048, 3, 16
REAL, BATCH, IMAGES = "real.jsonl", "batch.jsonl", "images"


@dataclass(frozen=True)
class Protocol:
    """How a data set's published layout becomes clips: a function of its folder and a random generator."""

    clips: Callable[[Path, np.random.Generator], list[ClipFile]]
    help: str


def ucf101(root: Path, rng: np.random.Generator) -> list[ClipFile]:
    """UCF-101's clips in random order: a folder a class, whose name is the caption."""
    videos = sorted(root.rglob("v_*.avi"))
    return [ClipFile(path.stem, path, _words(path.stem.split("_")[1])) for path in _shuffled(videos, rng)]


def msrvtt(root: Path, rng: np.random.Generator) -> list[ClipFile]:
    """MSR-VTT's test clips in random order, each with one of its captions; without a test split, all."""
    rows = [json.loads(path.read_text("utf-8")) for path in sorted(root.rglob("*.json"))]
    rows = [row for row in rows if isinstance(row, dict) and {"videos", "sentences"} <= row.keys()]
    splits = {video["video_id"]: video.get("split") for row in rows for video in row["videos"]}
    captions: dict[str, list[str]] = {}
    for row in rows:
        for sentence in row["sentences"]:
            captions.setdefault(sentence["video_id"], []).append(sentence["caption"])
    files = {path.stem: path for path in root.rglob("video*.mp4")}
    chosen = [name for name, split in splits.items() if split == "test"] or [*splits]
    here = sorted(name for name in chosen if name in files and name in captions)
    return [
        ClipFile(name, files[name], captions[name][int(rng.integers(len(captions[name])))])
        for name in _shuffled(here, rng)
    ]


PROTOCOLS = {
    "ucf101": Protocol(ucf101, "UCF-101: folders of classes with v_*.avi"),
    "msrvtt": Protocol(msrvtt, "MSR-VTT: *.json with videos and sentences, and video*.mp4, in any folders"),
}


def protocol_clips(name: str, root: Path, seed: int) -> Iterator[ClipFile]:
    """The clips of a protocol, in the order in which they are taken: those long enough.

    Raises:
        InputError: the data set is not there.
    """
    clips = PROTOCOLS[name].clips(root, np.random.default_rng(seed))
    if not clips:
        raise InputError(f"{root} is not laid out as {name} is", PROTOCOLS[name].help)
    for clip in clips:
        yield replace(clip, stride=STRIDE, frames=FRAMES)


def write_protocol(clips: Iterable[ClipFile], folder: Path, config: ModelConfig, count: int) -> int:
    """Write the first images, `real.jsonl` for the evaluation and `batch.jsonl` for `dcrafter batch`.

    Args:
        clips: at the model's size, once they are cut; those that cannot be read are passed over.
        folder: where to write.
        config: of the model that is to generate: its size, and the unit of its motion condition.
        count: how many clips to take.

    Returns:
        How many were found.

    Raises:
        OutputError: the folder cannot be written to.
    """
    width, height = config.width * config.output_scale, config.height * config.output_scale
    real: list[dict[str, Any]] = []
    batch: list[dict[str, Any]] = []
    try:
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        for clip in clips:
            if len(real) == count:
                break
            try:
                frames, motion = clip.load((width, height)), _motion(clip, config)
            except InputError:
                continue
            image = f"{IMAGES}/{clip.name}.png"
            Image.fromarray(frames[0].numpy()).save(folder / image)
            row = {"name": clip.name, "path": str(clip.path.absolute()), "caption": clip.caption, "image": image}
            numbers = {"first": clip.first, "stride": clip.stride, "frames": clip.frames}
            real.append(row | numbers | {"width": width, "height": height})
            batch.append({"image": image, "prompt": clip.caption, "motion": motion})
        for name, rows in ((REAL, real), (BATCH, batch)):
            write_rows(folder / name, rows)
    except OSError as error:
        raise OutputError(f"cannot write into {folder} ({error.strerror})") from error
    return len(real)


def _motion(clip: ClipFile, config: ModelConfig) -> int:
    """A clip's stride or frames a second, as far as the model's motion condition goes."""
    rate = open_track(clip.path, 2).nominal_rate if clip.path.is_file() else read_video(clip.path)[1]
    motion = motion_condition({"fps": rate / clip.stride, "stride": clip.stride}, config.motion)
    return min(max(motion, config.motion.minimum), config.motion.maximum)


def _words(name: str) -> str:
    """ApplyEyeMakeup → apply eye makeup."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()


def _shuffled(items: list[Any], rng: np.random.Generator) -> list[Any]:
    return [items[i] for i in rng.permutation(len(items))]
