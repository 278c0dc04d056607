"""The output folder of a batch: its lock, its journal, what is not finished yet, and what is."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.batch.items import Item
from dcrafter.batch.journal import Journal, Record, journal_path, read_records
from dcrafter.errors import DCrafterError, OutputError, WriteError
from dcrafter.media.fetch import is_url, public_name, stored_name
from dcrafter.media.formats import DEFAULT_FORMAT, FORMATS
from dcrafter.media.video import check_output, places_of, settings_in, write_video
from dcrafter.settings import DTYPES, WriteOptions

if TYPE_CHECKING:
    from dcrafter.batch.worker import Result, Task
    from dcrafter.events import Video

UNFINISHED = ".part"


class Store:
    """A context in which outputs are written: it holds the folder's lock and leaves nothing unfinished behind.

    What is being written lies in a hidden folder of its own, so that a run finds and removes what an earlier one,
    killed, has left there.
    """

    def __init__(
        self, folder: Path, writing: WriteOptions, *, shard: tuple[int, int] | None = None, overwrite: bool = False
    ) -> None:
        self.folder, self.writing, self.overwrite = folder, writing, overwrite
        self.format = writing.format or DEFAULT_FORMAT
        self.journal = Journal(journal_path(folder, shard))
        self.records = read_records(folder)
        self.unfinished = folder / f".{self.journal.path.stem}{UNFINISHED}"
        self._lock: Any = None

    def outputs(self) -> frozenset[Path]:
        """Absolute paths of all outputs in the journals."""
        return frozenset((self.folder / output).absolute() for output in self.records)

    def path(self, item: Item) -> Path:
        return self.folder / item.output

    def check(self, items: Sequence[Item]) -> None:
        """Raises OutputError where somebody else's file is in the way, or nothing could be written."""
        kept = images_of(items)
        for item in items:
            if item.problem:
                continue
            check_output(self.path(item), self.format, self._seems_ours(item), kept)

    def _seems_ours(self, item: Item) -> bool:
        """Whether an output may be a batch's work, as far as can be told without reading it all."""
        if self.overwrite or any(record.source == source_of(item) for record in self.records.get(item.output, ())):
            return True
        settings = settings_in(self.path(item))
        return settings.items() >= _identity(item).items()

    def _may_replace(self, item: Item) -> bool:
        return self.overwrite or not self.is_changed(item.output)

    def is_changed(self, output: str) -> bool:
        """Whether there is an output that no batch has written as it is now: then it is the user's."""
        content = hash_output(self.folder / output)
        return bool(content) and content not in {record.output_hash for record in self.records.get(output, ())}

    def find_done(self, task: Task, checkpoint: str, dtype: str) -> Record | None:
        """The record of a task's output if it was made with these settings, of these images, and is unharmed.

        A record that was lost is made anew from the settings in the video.

        Args:
            task: What is wanted.
            checkpoint: Fingerprint of the model's weights.
            dtype: One of `DTYPES`, or "auto" for any of them.
        """
        item, output_hash = task.item, hash_output(self.path(task.item))
        if not output_hash:
            return None
        for record in reversed(self.records.get(item.output, ())):
            if (
                record.status == "done"
                and record.key == item.key
                and record.settings == task.settings.to_dict()
                and record.inputs == list(task.inputs)
                and record.checkpoint == checkpoint
                and dtype in ("auto", record.dtype)
                and record.writing == asdict(self.writing)
                and record.output_hash == output_hash
            ):
                return record
        return None if item.output in self.records else self._recover(task, checkpoint, dtype, output_hash)

    def _recover(self, task: Task, checkpoint: str, dtype: str, output_hash: str) -> Record | None:
        """Make a lost record anew, unless the video was made of other images, or with other settings."""
        settings = settings_in(self.path(task.item))
        wanted = {**task.settings.to_dict(), **_identity(task.item), "checkpoint": checkpoint}
        if not settings.items() >= wanted.items() or settings.get("dtype") not in DTYPES:
            return None
        if dtype not in ("auto", settings["dtype"]) or self._is_older_than_images(task.item):
            return None
        record = self._record(task, settings, output_hash)
        if self._lock is not None:  # not in a dry run
            self.append(record)
        return record

    def _record(self, task: Task, about: Mapping[str, Any], output_hash: str, **more: Any) -> Record:
        """Of a task that is done; `about` are the settings in its video."""
        return Record(
            **_about(task.item),
            status="done",
            inputs=list(task.inputs),
            settings=task.settings.to_dict(),
            checkpoint=about["checkpoint"],
            dtype=about["dtype"],
            writing=asdict(self.writing),
            caption=task.caption,
            captioner=task.captioner,
            output_hash=output_hash,
            finished=time.time(),
            **more,
        )

    def _is_older_than_images(self, item: Item) -> bool:
        written = self.path(item).stat().st_mtime
        return any(not is_url(image) and Path(image).stat().st_mtime > written for image in item.images)

    def append(self, record: Record) -> None:
        """Add a record to the journal. Raises WriteError."""
        self.journal.append(record)
        self.records.setdefault(record.output, []).append(record)

    def caption(self, inputs: Sequence[str], name: str) -> str | None:
        """The caption that the captioner `name` gave an image before, if it did."""
        known = (record for records in self.records.values() for record in records)
        same = (record for record in known if record.captioner == name and record.inputs[:1] == list(inputs[:1]))
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
            kind = WriteError if WriteError.means(error) else OutputError
            raise kind(f"cannot write into {self.folder} ({error.strerror})", "Use -o") from error
        for left in self.unfinished.iterdir():
            if left.name != "lock":
                _remove(left)
        self.records = read_records(self.folder)  # nobody else adds to ours any more
        self.journal.read()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self._lock.release()

    def save(self, task: Task, result: Result) -> Record:
        """Write a result's video and its line in the journal: a failure if there is no video, or it cannot be written.

        Raises:
            WriteError: The disk is full, or the journal cannot be written.
        """
        try:
            if result.video is None:
                raise OutputError(result.error)
            return self._save(task, result, result.video)
        except (DCrafterError, OSError) as error:
            if WriteError.means(error):
                raise WriteError(
                    f"no room left in {self.folder}", "Make room, and run the same command again"
                ) from error
            path = self.path(task.item)
            reason = error.message if isinstance(error, DCrafterError) else f"cannot write {path} ({error.strerror})"
            record = failure(task.item, reason, seconds=result.seconds, attempts=result.attempts, inputs=task.inputs)
            self.append(record)
            return record

    def _save(self, task: Task, result: Result, video: Video) -> Record:
        path = self.path(task.item)
        part = self.unfinished / f"{secrets.token_hex(8)}{FORMATS[self.format].suffix}"
        try:
            write_video(video.frames, part, self.writing, fps=video.fps, settings=video.settings)
            check_output(path, self.format, overwrite=self._may_replace(task.item))
            record = self._record(
                task,
                video.settings,
                hash_output(part),
                attempts=result.attempts,
                seconds=round(result.seconds, 3),
                latents_hash=hashlib.sha256(video.latents.contiguous().numpy().tobytes()).hexdigest(),
            )
            self.append(record)
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
    if not item.images:
        return ""
    image = item.images[0]
    return stored_name(image) if is_url(image) else str(Path(image).absolute())


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


def _identity(item: Item) -> dict[str, Any]:
    """What a video says of its item, whatever the other settings are."""
    names = [public_name(image) for image in item.images]
    return {"command": item.command, "seed": item.seed, "images": names}


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
