"""The journal: what became of each item, a JSON line each, beside the outputs.

Lines are only ever appended, each in one write, and reach the disk before the output gets its name. So a line may be
without its output, never an output without its line; and only the last line can be torn. The order of lines counts, not
the clock.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dcrafter.errors import OutputError, WriteError

NAME = "batch"
SUFFIX = ".jsonl"
_JOURNAL = re.compile(rf"{NAME}(\.\d+-of-\d+)?\{SUFFIX}")

logger = logging.getLogger(__name__)


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
    """Appends records to a file. Several threads may.

    If the file is deleted meanwhile, it is written anew with all that this object read or wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[bytes] = []
        self._lock = threading.Lock()

    def read(self) -> list[Record]:
        """The records in the file. Raises OutputError."""
        self._lines = [line + b"\n" for line in _read(self.path).split(b"\n") if line]
        return [record for line in self._lines if (record := _parse(line))]

    def append(self, record: Record) -> None:
        """Raises WriteError if the record cannot be written whole."""
        line = json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n"  # ASCII, whatever the names are
        try:
            with self._lock:
                self._append(line)
                self._lines.append(line)
        except OSError as error:
            reason = error.strerror or error
            raise WriteError(f"cannot write the journal {self.path} ({reason})", "Make room, or use -o") from error

    def _append(self, line: bytes) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            end = os.lseek(file, 0, os.SEEK_END)
            if end == 0 and self._lines:
                logger.warning("%s was deleted while the batch ran; it is written anew", self.path)
                line = b"".join([*self._lines, line])
            elif end > 0 and _last_byte(file, end) != b"\n":  # torn
                line = b"\n" + line
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
        finally:
            os.close(file)


def _last_byte(file: int, end: int) -> bytes:
    os.lseek(file, end - 1, os.SEEK_SET)
    return os.read(file, 1)


def journal_path(folder: Path, shard: tuple[int, int] | None = None) -> Path:
    """Where a batch into `folder` keeps its journal; each shard has one of its own."""
    part = f".{shard[0]}-of-{shard[1]}" if shard else ""
    return folder / f"{NAME}{part}{SUFFIX}"


def read_records(folder: Path) -> dict[str, list[Record]]:
    """All records of each output, by its name, of all journals in a folder. Raises OutputError.

    Those of one journal are in the order in which they were written.
    """
    records: dict[str, list[Record]] = {}
    for path in _journals(folder):
        for record in Journal(path).read():
            records.setdefault(record.output, []).append(record)
    return records


def read_journals(folder: Path) -> dict[str, Record]:
    """The record of each output, by its name: the last that says done, else the last. Raises OutputError.

    Order counts within a journal; between those of shards that made the same, the clock.
    """
    latest: dict[str, Record] = {}
    for path in _journals(folder):
        own: dict[str, Record] = {}
        for record in Journal(path).read():
            if record.status == "done" or own.get(record.output, record).status == "failed":
                own[record.output] = record
        for output, record in own.items():
            latest[output] = max(latest.get(output, record), record, key=_rank)
    return latest


def _rank(record: Record) -> tuple[bool, float]:
    return record.status == "done", record.finished


def _journals(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{NAME}*{SUFFIX}") if _JOURNAL.fullmatch(path.name))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise OutputError(f"cannot read the journal {path} ({error.strerror})", "Check its permissions") from error


def _parse(line: bytes) -> Record | None:
    """The record in a line. None if the line is torn or says something else."""
    try:
        values = json.loads(line)
        record = Record(**{name: value for name, value in values.items() if name in _TYPES})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    valid = all(_has_type(getattr(record, name), hint) for name, hint in _TYPES.items())
    return record if valid and all(isinstance(each, str) for each in record.inputs) else None


def _has_type(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kind = get_origin(hint) or hint
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)


_TYPES = get_type_hints(Record)
