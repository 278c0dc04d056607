"""The items of a batch: entries with nothing left open, each with its seed and its output's name.

An item is known by its path (POSIX, relative to the input folder) and its number among those of the same path. Its
seed follows from these and the batch's seed alone: not from its neighbours, the order, or how the work is divided.
"""

from __future__ import annotations

import hashlib
import os
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dcrafter.batch.entries import Entry, printable
from dcrafter.config import Command
from dcrafter.errors import UsageError
from dcrafter.media.fetch import is_url
from dcrafter.media.formats import FORMATS
from dcrafter.settings import Options

NAME = "{stem}_{seed}"
LONGEST_NAME = 255  # bytes a part of a path, on most file systems
SLUG = 40  # characters of a prompt in a name
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Item:
    """A video to be made, with nothing left open but what its images tell."""

    path: str  # POSIX, relative to the input folder
    index: int  # among those of the same path, from 1
    position: int  # in the batch, from 1
    images: tuple[str, ...]
    where: str
    problem: str
    prompt: str
    command: Command
    model: str
    seed: int
    options: Options
    output: str  # POSIX, relative to the output folder

    @property
    def key(self) -> tuple[str, int]:
        """What it is known by."""
        return self.path, self.index

    @property
    def title(self) -> str:
        """For people, on one line."""
        return printable(self.path) + (f" ({self.index})" if self.index > 1 else "")


@dataclass(frozen=True)
class Defaults:
    """What holds for items that do not say otherwise."""

    command: Command = "animate"
    prompt: str = ""
    model: str = "auto"
    seed: int = 0  # of the batch
    count: int = 1  # videos an item
    name: str = NAME
    format: str = "mp4"
    options: Options = field(default_factory=lambda: Options())


def make_items(entries: Iterable[Entry], defaults: Defaults) -> list[Item]:
    """Items: numbered, seeded, named. Raises UsageError where two would have one name, or a name cannot be."""
    seen: Counter[str] = Counter()
    items: list[Item] = []
    for entry in entries:
        command = entry.command or defaults.command
        prompt = defaults.prompt if entry.prompt is None else entry.prompt
        _check_images(entry, command)
        for copy in range(defaults.count):
            seen[entry.path] += 1
            index, position = seen[entry.path], len(items) + 1
            seed = item_seed(defaults.seed, entry.path, index) if entry.seed is None else entry.seed + copy
            fields = {
                "stem": entry.stem,
                "seed": seed,
                "index": position,
                "copy": index,
                "parent": "" if is_url(entry.path) else Path(entry.images[0]).absolute().parent.name,
                "prompt": slug(prompt),
            }
            problem = entry.problem
            output = _output(entry.path, entry.name or defaults.name, fields, FORMATS[defaults.format].suffix)
            if any(len(os.fsencode(part)) > LONGEST_NAME for part in PurePosixPath(output).parts):
                problem = problem or "the name of its output would be too long; see --name"
            items.append(
                Item(
                    path=entry.path,
                    index=index,
                    position=position,
                    images=entry.images,
                    where=entry.where,
                    problem=problem,
                    prompt=prompt,
                    command=command,
                    model=entry.model or defaults.model,
                    seed=seed,
                    options={**defaults.options, **entry.options},
                    output=output,
                )
            )
    _check_names(items)
    return items


def _check_images(entry: Entry, command: Command) -> None:
    given = len(entry.images)
    if (given < 2) if command == "interpolate" else (given != 1):
        needs = "two images or more" if command == "interpolate" else "one image"
        raise UsageError(f"{entry.where or printable(entry.path)}: to {command} takes {needs}, not {given}")


def item_seed(seed: int, path: str, index: int) -> int:
    """An item's seed, of 32 bits."""
    identity = f"{seed}\0{unicodedata.normalize('NFC', path)}\0{index}"
    return int.from_bytes(hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()[:4], "big")


def _output(path: str, template: str, fields: dict[str, Any], suffix: str) -> str:
    """An output's path in the output folder, POSIX: in the same folders as its image in the input folder."""
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        name = template.format_map(fields)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise UsageError(
            f"the name {template!r} cannot be filled in ({error})", f"Its fields are {', '.join(fields)}, in {{}}"
        ) from error
    name = _CONTROL.sub("_", name)  # a line of results stays a line
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or name.endswith("/") or not name:
        raise UsageError(f"the name {template!r} leads to {name!r}", "Names stay in the output folder")
    where = PurePosixPath(_CONTROL.sub("_", path)).parent
    if "parent" in used or is_url(path) or where.is_absolute() or ".." in where.parts:
        where = PurePosixPath()
    return (where / f"{name}{suffix}").as_posix()


def _check_names(items: list[Item]) -> None:
    """Names that differ only in case, or in how accents are written, are one on some file systems."""
    owners: dict[str, Item] = {}
    for item in items:
        other = owners.setdefault(unicodedata.normalize("NFC", item.output).casefold(), item)
        if other is not item:
            raise UsageError(
                f"{other.title} and {item.title} would both become {printable(item.output)}",
                "Tell them apart with --name, by {seed}, {index} or {copy}",
            )


def slug(text: str) -> str:
    """A prompt as part of a file name."""
    return re.sub(r"\W+", "-", text.casefold()).strip("-")[:SLUG].rstrip("-")


def shard_of(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """`I/N`, or `auto` from a SLURM array or torchrun → (I from 1, N). Raises UsageError."""
    if text == "auto":
        number, of = _announced(environment)
    else:
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match:
            raise UsageError(f"--shard must be I/N, such as 1/4, or auto, not {text}")
        number, of = int(match[1]), int(match[2])
    if not 1 <= number <= of:
        raise UsageError(f"there is no shard {number} of {of}", "They count from 1")
    return number, of


def _announced(environment: Mapping[str, str]) -> tuple[int, int]:
    def read(name: str, default: int | None = None) -> int:
        try:
            return int(environment[name] if default is None else environment.get(name, default))
        except (KeyError, ValueError):
            raise UsageError(f"--shard auto finds no number in {name}", "Give --shard I/N") from None

    if "SLURM_ARRAY_TASK_ID" in environment:
        step = read("SLURM_ARRAY_TASK_STEP", 1)
        number, over = divmod(read("SLURM_ARRAY_TASK_ID") - read("SLURM_ARRAY_TASK_MIN"), max(1, step))
        if over:
            raise UsageError("--shard auto needs an array of evenly spaced numbers", "Give --shard I/N")
        return number + 1, read("SLURM_ARRAY_TASK_COUNT")
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return read("RANK") + 1, read("WORLD_SIZE")
    raise UsageError("--shard auto finds neither a SLURM array nor RANK and WORLD_SIZE", "Give --shard I/N")


def in_shard(items: list[Item], number: int, of: int) -> list[Item]:
    """Every `of`-th item: each item is in exactly one shard."""
    return items[number - 1 :: of]
