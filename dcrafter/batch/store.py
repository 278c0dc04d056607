"""The output folder of a batch: its lock, its journal, what is not finished yet, and what is."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.batch.items import Item
from dcrafter.batch.journal import Journal, Record, journal_path, read_journals
from dcrafter.errors import DCrafterError, OutputError
from dcrafter.media.fetch import is_url
from dcrafter.media.formats import FORMATS
from dcrafter.media.video import check_output, places_of, write_video
from dcrafter.settings import Settings

if TYPE_CHECKING:
    from dcrafter.batch.worker import Result, Task
    from dcrafter.pipeline import Video

UNFINISHED = ".part"


@dataclass(frozen=True)
class Writing:
    """How videos are written."""

    format: str = "mp4"
    codec: str | None = None
    crf: int | None = None
    metadata: bool = True


class Store:
    """A context in which outputs are written: it holds the folder's lock and leaves nothing unfinished behind.

    What is being written lies in a hidden folder of its own, so that a run finds and removes what an earlier one,
    killed, has left there.
    """

    def __init__(
        self, folder: Path, writing: Writing, *, shard: tuple[int, int] | None = None, overwrite: bool = False
    ) -> None:
        self.folder, self.writing, self.overwrite = folder, writing, overwrite
        self.journal = Journal(journal_path(folder, shard))
        self.records = read_journals(folder)
        self.unfinished = folder / f".{self.journal.path.stem}{UNFINISHED}"
        self._lock: Any = None

    def outputs(self) -> frozenset[Path]:
        """Absolute paths of all outputs in the journals."""
        return frozenset((self.folder / output).absolute() for output in self.records)

    def path(self, item: Item) -> Path:
        return self.folder / item.output

    def check(self, items: Sequence[Item]) -> None:
        """Raises OutputError where something in the way may not be replaced, or nothing could be written."""
        kept = images_of(items)
        for item in items:
            check_output(self.path(item), self.writing.format, self._may_replace(item), kept)

    def _may_replace(self, item: Item) -> bool:
        """What this batch has made before from the same image, it may make anew."""
        record = self.records.get(item.output)
        return self.overwrite or (record is not None and record.source == source_of(item))

    def is_done(self, item: Item, settings: Settings, inputs: Sequence[str], checkpoint: str, dtype: str) -> bool:
        """Whether the item was made with these settings, of these images, and is unharmed."""
        record = self.records.get(item.output)
        return (
            record is not None
            and record.status == "done"
            and record.key == item.key
            and record.settings == settings.to_dict()
            and record.inputs == list(inputs)
            and record.checkpoint == checkpoint
            and dtype in ("auto", record.dtype)
            and record.writing == asdict(self.writing)
            and record.output_hash == hash_output(self.path(item))
        )

    def caption(self, inputs: Sequence[str], name: str) -> str | None:
        """The caption that the captioner `name` gave a image before, if it did."""
        same = (r for r in self.records.values() if r.captioner == name and r.inputs[:1] == list(inputs[:1]))
        return next((record.caption for record in same), None)

    def __enter__(self) -> Store:
        from filelock import FileLock, Timeout

        try:
            self.unfinished.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.unfinished / "lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"another batch is writing into {self.folder}", "Wait for it, write elsewhere with -o, or use --shard"
            ) from None
        except OSError as error:
            raise OutputError(f"cannot write into {self.folder} ({error.strerror})", "Use -o") from error
        for left in self.unfinished.iterdir():
            if left.name != "lock":
                _remove(left)
        self.records = read_journals(self.folder)  # nobody else adds to ours any more
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self._lock.release()

    def save(self, task: Task, result: Result) -> Record:
        """Write a result's video and its line in the journal: a failure if there is no video, or it cannot be written.

        Raises:
            OutputError: The journal cannot be written.
        """
        try:
            if result.video is None:
                raise OutputError(result.error)
            return self._save(task, result, result.video)
        except (DCrafterError, OSError) as error:
            path = self.path(task.item)
            reason = error.message if isinstance(error, DCrafterError) else f"cannot write {path} ({error.strerror})"
            record = failure(task.item, reason, seconds=result.seconds, attempts=result.attempts, inputs=task.inputs)
            self.journal.append(record)
            return record

    def _save(self, task: Task, result: Result, video: Video) -> Record:
        path = self.path(task.item)
        part = self.unfinished / f"{secrets.token_hex(8)}{FORMATS[self.writing.format].suffix}"
        try:
            write_video(
                video.frames,
                part,
                format=self.writing.format,
                fps=video.fps,
                settings=video.settings if self.writing.metadata else None,
                codec=self.writing.codec,
                crf=self.writing.crf,
            )
            check_output(path, self.writing.format, overwrite=self._may_replace(task.item))
            record = Record(
                **_about(task.item),
                status="done",
                inputs=list(task.inputs),
                settings=task.settings.to_dict(),
                checkpoint=video.settings["checkpoint"],
                dtype=video.settings["dtype"],
                writing=asdict(self.writing),
                caption=task.caption,
                captioner=task.captioner,
                attempts=result.attempts,
                seconds=round(result.seconds, 3),
                output_hash=hash_output(part),
                latents_hash=hashlib.sha256(video.latents.contiguous().numpy().tobytes()).hexdigest(),
                finished=time.time(),
            )
            self.journal.append(record)
            _move(part, path, aside=part.with_suffix(".old"))
            return record
        finally:
            _remove(part)


def failure(item: Item, error: str, *, seconds: float = 0.0, attempts: int = 1, inputs: Sequence[str] = ()) -> Record:
    """The record of an item that failed. `inputs` are the SHA-256 of its images, as far as they could be read."""
    return Record(
        **_about(item),
        status="failed",
        inputs=list(inputs),
        error=error,
        attempts=attempts,
        seconds=round(seconds, 3),
        finished=time.time(),
    )


def _about(item: Item) -> dict[str, Any]:
    return {
        "item": item.path,
        "index": item.index,
        "output": item.output,
        "source": source_of(item),
        "seed": item.seed,
    }


def source_of(item: Item) -> str:
    """Where its first image is, whatever the current folder."""
    image = item.images[0]
    return image if is_url(image) else str(Path(image).absolute())


def images_of(items: Iterable[Item]) -> frozenset[Path]:
    """Where the images of items are, whose place nothing takes."""
    return places_of(image for item in items for image in item.images)


def hash_output(path: Path) -> str:
    """SHA-256 of a file, or of a folder's names and files; empty if there is nothing of this name."""
    digest = hashlib.sha256()
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in files:
            if path != file:
                digest.update(f"{file.name}\0".encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    except OSError:
        return ""
    return digest.hexdigest()


def _move(part: Path, path: Path, aside: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():  # a folder cannot be renamed over another
        path.rename(aside)
    part.replace(path)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()
