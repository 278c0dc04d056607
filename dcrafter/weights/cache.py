"""The folder of weight files: their names, their headers, and whether their bytes are still what was written.

    512.safetensors             ours: weights under our keys, the configuration, origin and digest in the header
    towers/<hash>.safetensors   CLIP's towers, by the hash of their weights, for all models whose header names it
    512.safetensors.part        one that is being written
    512.safetensors.damaged     one that failed its verification, until another is in its place
    downloads/512/<hash>.part   an original as far as it has come; without .part, whole and verified
    .512.lock                   who holds it downloads or writes the others

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from dcrafter.errors import UsageError, WeightsError, WriteError
from dcrafter.text import format_size

HEADER = "dcrafter"  # the entry of a safetensors header that marks a file as ours and holds its configuration
SOURCE = "source"  # the one with where it came from, as JSON
DIGEST = "sha256"  # the one with the digest of all others and of the data
SUFFIX = ".safetensors"
TOWERS = ("text_encoder", "image_encoder")  # the components that models share
TOWERS_HEADER = "towers"  # the entry with the digest of the towers: in their own file, and in a model's
BLOCK = 4_000_000  # bytes that are hashed or written at once
MAX_HEADER = 4_000_000  # bytes; that of a whole model has 300,000
NAME = re.compile(r"\w[\w.+-]{0,63}")


@dataclass(frozen=True)
class Progress:
    """Bytes done, and in total; a `total` of 0 means unknown."""

    phase: str
    done: int
    total: int


def cache_dir() -> Path:
    """The folder of this package's own weight files: $DCRAFTER_CACHE_DIR, or the platform's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("DCRAFTER_CACHE_DIR") or user_cache_path("dcrafter"))


def weights_path(folder: Path, model: str) -> Path:
    """The path of a model's converted file. Raises UsageError for an invalid name."""
    if not NAME.fullmatch(model):
        raise UsageError(f"{model!r} is no name for a model", "Use letters, digits, and . _ - within")
    return folder / f"{model}{SUFFIX}"


def towers_path(folder: Path, digest: str) -> Path:
    """The path of towers in our cache."""
    return folder / "towers" / f"{digest}{SUFFIX}"


def all_towers(folder: Path) -> list[Path]:
    """The files of towers in our cache, the oldest first. A link in the folder's place is not followed."""
    place = folder / "towers"
    files = [] if place.is_symlink() else place.glob(f"*{SUFFIX}")
    return sorted((file for file in files if file.is_file()), key=lambda file: (file.stat().st_mtime, file))


def towers_named_by(path: Path) -> str | None:
    """The digest of the towers that a model's file goes with, if they are not in it."""
    try:
        digest = read_header(path)[0]["__metadata__"].get(TOWERS_HEADER)
    except WeightsError:
        return None
    is_digest = isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)
    return digest if is_digest else None


def find_towers(path: Path) -> Path | None:
    """The towers that a model's file goes with, beside it or in the user's cache; None where they are not here."""
    if digest := towers_named_by(path):
        places = (towers_path(folder, digest) for folder in (path.parent, cache_dir()))
        return next((place for place in places if place.is_file()), None)
    return None


def is_usable(path: Path) -> bool:
    """Whether a model's file is here, and the towers that it goes with too.

    Raises WeightsError where the folder cannot be searched.
    """
    try:
        return path.is_file() and (towers_named_by(path) is None or find_towers(path) is not None)
    except PermissionError as error:
        raise WeightsError(
            f"cannot read {path.parent} ({error.strerror})",
            "Check its permissions, or name another folder in DCRAFTER_CACHE_DIR",
        ) from error


def downloads(folder: Path, model: str) -> Path:
    """The folder of a model's originals, whole or in part."""
    return folder / "downloads" / model


def models(folder: Path) -> list[str]:
    """The names of the models that have a file of ours in a folder. What else lies there is passed over."""
    files = (path for path in folder.glob(f"*{SUFFIX}") if NAME.fullmatch(path.stem) and path.is_file())
    return sorted(path.stem for path in files)


def originals(folder: Path, model: str) -> list[Path]:
    """A model's downloaded files, whole or in part. A link in the folder's place is not followed."""
    place = downloads(folder, model)
    return [] if place.is_symlink() else sorted(file for file in place.glob("*") if file.is_file() or file.is_symlink())


def remove(folder: Path, model: str) -> int:
    """Delete all files of a model in our cache, and of links only these; returns the number of bytes."""
    path = weights_path(folder, model)
    files = [path, *(path.with_name(path.name + suffix) for suffix in (".part", ".damaged"))]
    files += originals(folder, model)
    if towers := towers_named_by(path) if path.is_file() else None:
        others = [weights_path(folder, other) for other in models(folder) if other != model]
        if towers not in map(towers_named_by, others):
            files += [towers_path(folder, towers)] if others else all_towers(folder)
    freed = sum(file.lstat().st_size for file in files if file.is_file())
    try:
        for file in files:
            file.unlink(missing_ok=True)
        clear_downloads(folder, model)
        with suppress(OSError):  # it is not empty, or there is none
            (folder / "towers").rmdir()
    except OSError as error:
        raise WeightsError(f"cannot remove {model} from {folder} ({error.strerror})") from error
    return freed


def clear_damaged(path: Path) -> None:
    """Delete a model's file that failed its verification, and the towers that did."""
    for damaged in (path.with_name(path.name + ".damaged"), *path.parent.glob("towers/*.damaged")):
        damaged.unlink(missing_ok=True)


def clear_downloads(folder: Path, model: str, but: Path | None = None) -> None:
    """Delete a model's originals and parts, all but one, and folders that are then empty."""
    place = downloads(folder, model)
    for file in originals(folder, model):
        if file != but:
            file.unlink()
    if place.is_symlink():
        place.unlink()
    for empty in (place, place.parent):
        with suppress(OSError):
            empty.rmdir()


def open_own(path: Path, mode: Literal["ab", "wb"]) -> BinaryIO | FileIO:
    """Open a file of ours for writing. What a link in its place leads to is not ours: the link is replaced."""
    if path.is_symlink():
        path.unlink()
    return path.open(mode, buffering=0) if mode == "ab" else path.open(mode)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn OSErrors from writing into the cache into WeightsErrors that say what to do."""
    try:
        yield
    except OSError as error:
        reason, advice = error.strerror or str(error), "Check its permissions"
        if WriteError.means(error):
            free = shutil.disk_usage(folder).free if folder.is_dir() else 0
            reason += f"; {format_size(free)} are free"
            advice = "Make room there and run the same again to go on"
        raise WeightsError(
            f"cannot write to {folder} ({reason})", f"{advice}, or name another folder in DCRAFTER_CACHE_DIR"
        ) from error


def check_space(folder: Path, download: int, convert: int) -> None:
    """Raises WeightsError unless the disk has room for the bytes to download and to convert."""
    free = shutil.disk_usage(folder).free
    if free < download + convert:
        raise WeightsError(
            f"{folder} has {format_size(free)} free, and {format_size(download + convert)} are needed: "
            f"{format_size(download)} to download and {format_size(convert)} for the converted weights",
            "Make room, or name another folder in DCRAFTER_CACHE_DIR",
        )


def lock(folder: Path, model: str) -> Generator[Progress, None, Any]:
    """Take a model's lock, waiting while another process has it. Returns what `unlock` takes."""
    from filelock import FileLock, Timeout

    held = FileLock(folder / f".{model}.lock")
    while True:
        try:
            return held.acquire(timeout=1).lock
        except Timeout:
            downloaded = sum(part.lstat().st_size for part in originals(folder, model) if part.suffix == ".part")
            yield Progress("another process has it", downloaded, 0)


def unlock(held: Any) -> None:
    with suppress(OSError):  # Windows keeps files that are open
        os.unlink(held.lock_file)  # those who wait notice, and make another
    held.release()


def touch(path: Path) -> None:
    """Set the access time of a file to now: many file systems do not."""
    with suppress(OSError):
        os.utime(path, (time.time(), path.stat().st_mtime))


# --- headers and digests ---


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and the offset of its data. Raises WeightsError where there is none."""
    try:
        with open(path, "rb", opener=_unnoticed) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError("its header is too large")
            header = json.loads(file.read(length))
        if not isinstance(header, dict) or not isinstance(header.setdefault("__metadata__", {}), dict):
            raise ValueError("its header is no table")
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"cannot read the header of {path} ({error})") from error
    return cast(dict[str, Any], header), 8 + length


def _unnoticed(path: str, flags: int) -> int:
    """Open a file so that its access time stays: it says when a model was used."""
    try:
        return os.open(path, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # of another user
        return os.open(path, flags)


def source_of(path: Path) -> dict[str, Any]:
    """What the header of our own file says about its origin: empty where it says nothing."""
    try:
        source = json.loads(read_header(path)[0]["__metadata__"].get(SOURCE, "{}"))
    except (WeightsError, ValueError, TypeError, RecursionError):
        return {}
    return source if isinstance(source, dict) else {}


def seal(header: dict[str, Any], data: Any) -> str:
    """The digest of a file of ours: SHA-256 of its data (hashed into `data` so far) and then of its header.

    The header is taken as sorted JSON, without the digest itself, so that white space in it does not matter.
    """
    metadata = {key: value for key, value in header["__metadata__"].items() if key != DIGEST}
    data.update(json.dumps(header | {"__metadata__": metadata}, sort_keys=True).encode())
    return str(data.hexdigest())


def hash_file(path: Path, start: int = 0) -> Generator[Progress, None, Any]:
    """The SHA-256 object of a file's bytes from `start` on, as the generator's return value."""
    digest = hashlib.sha256()
    done, total = start, path.stat().st_size
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            yield Progress("checking", done, total)
    return digest


def is_whole(path: Path) -> bool:
    """Whether a safetensors file has a header, and ends where that says."""
    try:
        header, start = read_header(path)
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        return path.stat().st_size == start + max(ends, default=0)
    except (WeightsError, KeyError, TypeError, IndexError):
        return False


def is_intact(path: Path) -> Generator[Progress, None, bool]:
    """Whether a file of ours is bit for bit what was written, as the generator's return value."""
    try:
        header, start = read_header(path)
    except WeightsError:
        return False
    digest = yield from hash_file(path, start)
    return seal(header, digest) == header["__metadata__"].get(DIGEST)
