"""The journal: what became of each item, a JSON line each, beside the outputs.

Lines are only ever appended, each in one write, and reach the disk before the output gets its name. So a line may be
without its output, never an output without its line; and only the last line can be torn.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dcrafter.errors import OutputError

NAME = "batch"
SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Record:
    """What became of an item.

    Hashes are SHA-256. `output` is relative to the journal; `source` is the first image's absolute path.
    """

    item: str
    index: int
    status: Literal["done", "failed", "skipped"]  # skipped, since done before, is not written
    output: str
    source: str
    inputs: list[str] = field(default_factory=list)  # a hash of each image
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    checkpoint: str = ""
    dtype: str = ""
    writing: dict[str, Any] = field(default_factory=dict)  # format, codec, …
    caption: str = ""  # of --auto-prompt
    captioner: str = ""  # which model said it
    error: str = ""
    attempts: int = 1
    seconds: float = 0.0
    output_hash: str = ""
    latents_hash: str = ""
    finished: float = 0.0  # seconds since 1970

    @property
    def key(self) -> tuple[str, int]:
        return self.item, self.index


class Journal:
    """Appends records to a file. Several threads may."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, record: Record) -> None:
        """Raises OutputError if it cannot be written whole."""
        line = json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n"  # ASCII, whatever the names are
        try:
            with self._lock:
                file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
                try:
                    end = os.lseek(file, 0, os.SEEK_END)
                    torn = end > 0 and _last_byte(file, end) != b"\n"
                    line = b"\n" * torn + line
                    if os.write(file, line) < len(line):
                        raise OSError("the disk is full")
                    os.fsync(file)
                finally:
                    os.close(file)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"cannot write the journal {self.path} ({reason})", "Make room, or use -o") from error


def _last_byte(file: int, end: int) -> bytes:
    os.lseek(file, end - 1, os.SEEK_SET)
    return os.read(file, 1)


def journal_path(folder: Path, shard: tuple[int, int] | None = None) -> Path:
    """Where a batch into `folder` keeps its journal; each shard has one of its own."""
    part = f".{shard[0]}-of-{shard[1]}" if shard else ""
    return folder / f"{NAME}{part}{SUFFIX}"


def read_journals(folder: Path) -> dict[str, Record]:
    """The latest record of each output, by its name, from all journals in a folder; if it was ever done, of that.

    An output is there still, though its image could not be read since.
    """
    records: dict[str, Record] = {}
    for path in sorted(folder.glob(f"{NAME}*{SUFFIX}")):
        for record in _read(path):
            known = records.get(record.output)
            if known is None or _rank(known) <= _rank(record):
                records[record.output] = record
    return records


def _rank(record: Record) -> tuple[bool, float]:
    return record.status == "done", record.finished


def _read(path: Path) -> Iterator[Record]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise OutputError(f"cannot read the journal {path} ({error.strerror})", "Check its permissions") from error
    for line in lines:
        try:
            yield Record(**json.loads(line))
        except (ValueError, TypeError):
            continue  # torn, or empty
