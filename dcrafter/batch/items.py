"""From inputs (files, folders, globs, lists, manifests) to the items of a batch: which video from what, and its name.

An item is known by its path (POSIX, relative to the input folder) and its number among those of the same path. Its
seed follows from these and the batch's seed alone: not from its neighbours, the order, or how the work is divided.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from dcrafter.config import Command
from dcrafter.errors import UsageError
from dcrafter.media.fetch import is_url
from dcrafter.settings import FORMATS, Options

STDIN = "-"
PICTURES = frozenset(
    f".{name}"
    for name in (
        "png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jp2",
        "ppm", "pgm", "tga",
    )
)  # fmt: skip
MANIFESTS = (".csv", ".jsonl")
PROMPT_LIST = ".txt"
SIDECAR = ".txt"  # cat.txt beside cat.png
PUBLISHED_PROMPTS = "*prompts.txt"  # beside the pictures, in the published examples
NAME = "{stem}_{seed}"
LONGEST_NAME = 255  # bytes, on most file systems
SLUG = 40


@dataclass(frozen=True)
class Item:
    """A video to be made.

    Fields below `where` are what the item says for itself, before the batch's defaults; `settle` fills them.
    """

    path: str  # POSIX, relative to the input folder
    pictures: tuple[str, ...]  # files or addresses
    where: str = ""  # in which line of which manifest it was found
    problem: str = ""  # why it cannot be made, if that is known already
    prompt: str | None = None
    command: Command | None = None
    model: str | None = None
    name: str | None = None  # template
    seed: int | None = None
    options: Options = field(default_factory=lambda: Options())
    index: int = 1  # among those of the same path
    position: int = 0  # in the batch, from 1
    output: str = ""  # POSIX, relative to the output folder

    @property
    def key(self) -> tuple[str, int]:
        """What it is known by."""
        return self.path, self.index

    @property
    def title(self) -> str:
        """For people: on one line."""
        return printable(self.path) + (f" ({self.index})" if self.index > 1 else "")

    @property
    def stem(self) -> str:
        """The name of its picture without suffix; of a numbered pair, what their names begin with."""
        name = PurePosixPath(unquote(urlsplit(self.path).path) if is_url(self.path) else self.path)
        numbered = len(self.pictures) > 1 and _NUMBERED.fullmatch(name.stem)
        return numbered[1] if numbered else name.stem


@dataclass(frozen=True)
class Defaults:
    """What holds for items that do not say otherwise."""

    command: Command = "animate"
    prompt: str = ""
    seed: int = 0  # of the batch
    count: int = 1  # videos an item
    name: str = NAME
    format: str = "mp4"
    options: Options = field(default_factory=lambda: Options())


@dataclass
class Found:
    """What inputs came to: items in order, and files and folders that were passed over, with the reason."""

    items: list[Item] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


# --- inputs ---


@dataclass(frozen=True)
class Search:
    """How inputs are read. `ours` are files that this or an earlier run makes: they are no inputs."""

    command: Command = "animate"
    recursive: bool = False
    prompts: Path | None = None  # a file of them, a line an item
    prompt_from: str | None = None  # filename or sidecar
    implied_prompts: bool = True  # take a folder's *prompts.txt
    ours: frozenset[Path] = frozenset()

    def find(self, inputs: Sequence[str], stdin: str = "") -> Found:
        """Items of files, addresses, folders, globs, .txt of prompts, .csv and .jsonl manifests, and `-`.

        Raises UsageError for what cannot be read as a whole: no such input, a manifest with errors (each with its
        line), a list of prompts of another length than there are items.
        """
        found = Found()
        loose: list[Item] = []  # files named one by one belong together
        groups: list[list[Item]] = [loose]
        for given in inputs:
            if given == STDIN:
                manifest, paths = _sniff(stdin)
                groups.append(manifest)
                loose += [Item(_identity(path), (path,)) for path in paths]
            else:
                self._read(given, loose, groups, found)
        groups[0] = self._pair(loose)
        items = [item for group in groups for item in group]
        if self.prompts is not None:
            unprompted = [item for item in items if not item.where]
            lines = iter(_prompts(self.prompts, len(unprompted)))
            items = [item if item.where else replace(item, prompt=next(lines)) for item in items]
        if self.prompt_from is not None:
            items = [item if item.prompt is not None else self._prompted(item) for item in items]
        found.items = items
        return found

    def _read(self, given: str, loose: list[Item], groups: list[list[Item]], found: Found) -> None:
        if is_url(given):
            loose.append(Item(given, (given,)))
            return
        path = Path(given)
        suffix = path.suffix.lower()
        if path.is_dir():
            groups.append(self._folder(path, found))
        elif suffix in MANIFESTS and path.is_file():
            from dcrafter.batch.manifest import read_manifest

            groups.append(read_manifest(path))
        elif suffix == PROMPT_LIST and path.is_file():
            groups.append(self._folder(path.parent, found, prompts=path))
        elif os.path.lexists(path):
            loose.append(Item(path.name, (given,)))
        elif glob.has_magic(given):
            groups.append(self._glob(given))
        else:
            raise UsageError(f"there is no {printable(given)}", "Name files, folders, patterns in quotes, or -")

    def _folder(self, folder: Path, found: Found, prompts: Path | None = None) -> list[Item]:
        """A folder's pictures, sorted by name; with `recursive` those of all folders in it."""
        pictures = []
        for path in self._walk(folder, (), found):
            if path.absolute() in self.ours:
                continue
            if path.suffix.lower() in PICTURES:
                pictures.append(path)
            elif path.suffix.lower() not in (PROMPT_LIST, *MANIFESTS):
                found.left_out[str(path)] = "no picture by its name"
        items = self._pair([Item(path.relative_to(folder).as_posix(), (str(path),)) for path in pictures])
        if prompts is None and self.implied_prompts and self.prompts is None and self.prompt_from is None:
            prompts = next(iter(sorted(folder.glob(PUBLISHED_PROMPTS))), None)
        if prompts is None:
            return items
        lines = _prompts(prompts, len(items))
        return [replace(item, prompt=line) for item, line in zip(items, lines, strict=True)]

    def _walk(self, folder: Path, above: tuple[Path, ...], found: Found) -> Iterator[Path]:
        """Everything in a folder that is no folder, sorted, without hidden names. `above` ends loops of links."""
        real = folder.resolve()
        if real in above:
            found.left_out[str(folder)] = "a link to a folder that it is in"
            return
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError as error:
            if not above:
                raise UsageError(f"cannot read {folder} ({error.strerror})", "Check its permissions") from error
            found.left_out[str(folder)] = str(error.strerror)
            return
        for name in names:
            path = folder / name
            if not path.is_dir():
                yield path
            elif self.recursive:
                yield from self._walk(path, (*above, real), found)

    def _glob(self, pattern: str) -> list[Item]:
        """What a pattern matches, relative to the folder before its first wildcard."""
        fixed = Path(pattern).parts
        wild = next(i for i, part in enumerate(fixed) if glob.has_magic(part))
        root = Path(*fixed[:wild])
        paths = sorted(Path(path) for path in glob.glob(pattern, recursive=True))
        paths = [path for path in paths if not path.is_dir() and path.absolute() not in self.ours]
        if not paths:
            raise UsageError(f"nothing matches {printable(pattern)}", "** matches any folders between")
        return self._pair([Item(path.relative_to(root).as_posix(), (str(path),)) for path in paths])

    def _pair(self, items: list[Item]) -> list[Item]:
        """For interpolation, pictures of a folder put together: by names in _01, _02, …, else 2i with 2i + 1."""
        if self.command != "interpolate":
            return items
        folders: dict[PurePosixPath, list[Item]] = {}
        for item in items:
            folders.setdefault(PurePosixPath(item.path).parent, []).append(item)
        return [together for each in folders.values() for together in _keyframes(each)]

    def _prompted(self, item: Item) -> Item:
        if self.prompt_from == "filename":
            return replace(item, prompt=" ".join(re.sub(r"[_\W]+", " ", item.stem).split()))
        sidecar = Path(item.pictures[0]).with_suffix(SIDECAR)
        try:
            return replace(item, prompt=" ".join(sidecar.read_text("utf-8-sig").split()))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            return replace(item, problem=f"cannot read its prompt {printable(sidecar.name)} ({reason})")


def _sniff(text: str) -> tuple[list[Item], list[str]]:
    """Standard input: a manifest's items, or paths, a line or a NUL each."""
    from dcrafter.batch.manifest import is_manifest, parse_manifest

    separator = "\0" if "\0" in text else "\n"
    if separator == "\n" and is_manifest(text):
        return parse_manifest(text, "stdin", Path()), []
    return [], [path for path in text.split(separator) if path.strip()]


def _identity(path: str) -> str:
    return path if is_url(path) else Path(path).name


def _prompts(path: Path, wanted: int) -> list[str]:
    """A file of prompts: a line each, without empty ones."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} ({error})", "Give a text file in UTF-8") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if len(prompts) != wanted:
        raise UsageError(
            f"{path} has {len(prompts)} prompts for {wanted} items", "It needs a line for each, in sorted order"
        )
    return prompts


_NUMBERED = re.compile(r"(.+)_(\d+)", re.DOTALL)


def _keyframes(items: list[Item]) -> list[Item]:
    """Pictures of one folder as the ends of interpolations."""
    numbers: dict[str, dict[int, Item]] = {}
    for item in items:
        if match := _NUMBERED.fullmatch(PurePosixPath(item.path).stem):
            numbers.setdefault(match[1], {})[int(match[2])] = item
    whole = [sorted(group) == list(range(1, len(group) + 1)) and len(group) > 1 for group in numbers.values()]
    if all(whole) and sum(map(len, numbers.values())) == len(items):
        groups = [[group[number] for number in sorted(group)] for group in numbers.values()]
    elif len(items) % 2:
        raise UsageError(
            f"{len(items)} pictures cannot be paired, the last is {printable(items[-1].path)}",
            "Name them cat_01 and cat_02, give an even number, or a manifest",
        )
    else:
        groups = [items[i : i + 2] for i in range(0, len(items), 2)]
    return [replace(group[0], pictures=tuple(each.pictures[0] for each in group)) for group in groups]


# --- what each item is ---


def settle(found: Iterable[Item], defaults: Defaults) -> list[Item]:
    """Items with nothing left open: numbered, seeded, named. Raises UsageError where two would have one name."""
    seen: Counter[str] = Counter()
    items: list[Item] = []
    for item in found:
        _check_pictures(item, item.command or defaults.command)
        for copy in range(defaults.count):
            seen[item.path] += 1
            index = seen[item.path]
            seed = item_seed(defaults.seed, item.path, index) if item.seed is None else item.seed + copy
            settled = replace(
                item,
                prompt=defaults.prompt if item.prompt is None else item.prompt,
                command=item.command or defaults.command,
                seed=seed,
                options={**defaults.options, **item.options},
                index=index,
                position=len(items) + 1,
            )
            items.append(_named(settled, item.name or defaults.name, FORMATS[defaults.format][0]))
    _check_names(items)
    return items


def _check_pictures(item: Item, command: Command) -> None:
    given = len(item.pictures)
    if (given < 2) if command == "interpolate" else (given != 1):
        needs = "two pictures or more" if command == "interpolate" else "one picture"
        raise UsageError(f"{item.where or item.title}: to {command} needs {needs}, not {given}")


def item_seed(seed: int, path: str, index: int) -> int:
    """An item's seed, of 32 bits."""
    identity = f"{seed}\0{unicodedata.normalize('NFC', path)}\0{index}"
    return int.from_bytes(hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()[:4], "big")


def _named(item: Item, template: str, suffix: str) -> Item:
    path = PurePosixPath("" if is_url(item.path) else item.path)
    parent = path.parent
    if path.is_absolute() or ".." in path.parts:
        parent = PurePosixPath()
    fields: dict[str, Any] = {
        "stem": item.stem,
        "seed": item.seed,
        "index": item.position,
        "copy": item.index,
        "parent": Path(item.pictures[0]).absolute().parent.name,
        "prompt": slug(item.prompt or ""),
    }
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        name = re.sub(r"[\x00-\x1f\x7f]", "_", template.format_map(fields))  # a line of output stays a line
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise UsageError(
            f"the name {template!r} cannot be filled in ({error})", f"Its fields are {', '.join(fields)}, in {{}}"
        ) from error
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not PurePosixPath(name).name:
        raise UsageError(f"the name {template!r} leads to {name!r}", "Names stay in the output folder")
    output = (PurePosixPath() if "parent" in used else parent) / f"{name}{suffix}"
    problem = item.problem
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in output.parts):
        problem = problem or f"its output's name would be longer than {LONGEST_NAME} bytes; see --name"
    return replace(item, output=output.as_posix(), problem=problem)


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


def printable(text: str) -> str:
    """A name as it can be shown: control characters and broken Unicode as question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)


# --- shards ---


def shard_of(text: str, environment: dict[str, str]) -> tuple[int, int]:
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


def _announced(environment: dict[str, str]) -> tuple[int, int]:
    def read(name: str, default: int | None = None) -> int:
        try:
            return int(environment.get(name, default))  # type: ignore[arg-type]
        except (TypeError, ValueError):
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
