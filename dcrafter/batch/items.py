"""The items of a batch: entries with nothing left open, each with its seed and its output's name.

An item is known by its path (POSIX, relative to the input folder) and its number among those of the same path. Its
seed follows from these and the batch's seed alone: not from its neighbours, the order, or how the work is divided.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from dcrafter.batch.entries import Entry
from dcrafter.batch.names import check_template, folded, output_path, problem_of, slug
from dcrafter.config import Command
from dcrafter.errors import UsageError
from dcrafter.media.fetch import is_url, public_name
from dcrafter.media.formats import FORMATS
from dcrafter.settings import Options, only_for

SHORT, LONG = "{stem}", "{stem}_{seed}"  # names by default


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
        """For people."""
        path = public_name(self.path) if is_url(self.path) else self.path
        return path + (f" ({self.index})" if self.index > 1 else "")


@dataclass(frozen=True)
class Defaults:
    """What holds for items whose entries do not say otherwise."""

    command: Command = "animate"
    prompt: str = ""
    model: str = "auto"
    seed: int | None = None  # of the batch; 0 if it is left out
    count: int = 1  # videos an item
    name: str | None = None  # template; by default {stem}, with the seed where several would be alike
    format: str = "mp4"
    options: Options = field(default_factory=lambda: Options())
    folder: Path = Path()  # of outputs
    earlier: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # outputs in the journal: keys of their items


def make_items(entries: Iterable[Entry], defaults: Defaults) -> list[Item]:
    """Items: numbered, seeded, named. What is wrong with a manifest's row is its items' problem.

    Raises:
        UsageError: Two would have one name, or what the command line says cannot be.
    """
    entries = list(entries)
    if defaults.name is not None:
        check_template(defaults.name)
    seen: Counter[str] = Counter()
    items: list[Item] = []
    names: list[list[str]] = []  # that an item could have, the best first
    for entry in entries:
        problem = _problem(entry, defaults)
        for copy in range(defaults.count if entry.images else 1):
            seen[entry.path] += 1
            item = _make_item(entry, defaults, seen[entry.path], copy, len(items) + 1, problem)
            items.append(item)
            names.append(_outputs(item, entry, defaults) if entry.images and problem == entry.problem else [])
    images = {os.path.realpath(image) for entry in entries for image in entry.images if not is_url(image)}
    items = _name(items, names, defaults, images)
    _check_names(items)
    return items


def _problem(entry: Entry, defaults: Defaults) -> str:
    """What is wrong with an entry. Raises UsageError if it is not a manifest's."""
    try:
        if not entry.problem:
            _check_images(entry, entry.command or defaults.command)
            check_template(entry.name or LONG)
        return entry.problem
    except UsageError as error:
        if not entry.where:
            raise
        return error.message


def _make_item(entry: Entry, defaults: Defaults, index: int, copy: int, position: int, problem: str) -> Item:
    seed = entry.seed + copy if entry.seed is not None else item_seed(defaults.seed or 0, entry.path, index)
    return Item(
        path=entry.path,
        index=index,
        position=position,
        images=entry.images,
        where=entry.where,
        problem=problem,
        prompt=defaults.prompt if entry.prompt is None else entry.prompt,
        command=entry.command or defaults.command,
        model=entry.model or defaults.model,
        seed=seed,
        options={**_defaults_for(entry, defaults), **entry.options},
        output="",
    )


def _defaults_for(entry: Entry, defaults: Defaults) -> Options:
    """The batch's options; an entry that says its own command does without those of other commands."""
    return only_for(entry.command, defaults.options) if entry.command else defaults.options


def _outputs(item: Item, entry: Entry, defaults: Defaults) -> list[str]:
    """What an item's output may be called."""
    values: dict[str, str | int] = {
        "stem": entry.stem,
        "seed": item.seed,
        "index": item.position,
        "copy": item.index,
        "parent": "" if is_url(entry.path) else Path(entry.images[0]).absolute().parent.name,
        "prompt": slug(item.prompt),
    }
    template = entry.name or defaults.name
    seeded = defaults.count > 1 or defaults.seed is not None or entry.seed is not None
    templates = [template] if template else [LONG] if seeded else [SHORT, LONG]
    folder = PurePosixPath() if is_url(entry.path) else PurePosixPath(entry.path).parent
    return [output_path(each, values, folder, FORMATS[defaults.format].suffix) for each in templates]


def _name(items: list[Item], names: list[list[str]], defaults: Defaults, images: Collection[str]) -> list[Item]:
    """Give each item the name that it had before, or the best that nobody else has."""
    wanted = Counter(folded(each[0]) for each in names if each)

    def is_free(name: str, item: Item) -> bool:
        taken = os.path.realpath(defaults.folder / name) in images
        return wanted[folded(name)] == 1 and not taken and defaults.earlier.get(name, item.key) == item.key

    named = []
    for item, candidates in zip(items, names, strict=True):
        before = [name for name in candidates if defaults.earlier.get(name) == item.key]
        free = [name for name in candidates if is_free(name, item)]
        output = next(iter(before + free + candidates[-1:]), "")
        named.append(replace(item, output=output, problem=item.problem or problem_of(output)))
    return named


def _check_images(entry: Entry, command: Command) -> None:
    given = len(entry.images)
    if (given < 2) if command == "interpolate" else (given != 1):
        needs = "two images or more" if command == "interpolate" else "one image"
        place = "" if entry.where else f"{entry.path}: "
        raise UsageError(f"{place}to {command} takes {needs}, not {given}")


def item_seed(seed: int, path: str, index: int) -> int:
    """An item's seed, of 32 bits."""
    identity = f"{seed}\0{unicodedata.normalize('NFC', path)}\0{index}"
    return int.from_bytes(hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()[:4], "big")


def _check_names(items: list[Item]) -> None:
    owners: dict[str, Item] = {}
    for item in items:
        other = owners.setdefault(folded(item.output), item) if item.output else item
        if other is not item:
            raise UsageError(
                f"{other.title} and {item.title} would both become {item.output}",
                "Tell them apart with --name, by {seed}, {index} or {copy}",
            )


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
