"""Read inputs (files, folders, patterns, lists, manifests) into entries."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from dcrafter.batch.entries import NUMBERED, Entry
from dcrafter.batch.manifest import is_manifest, parse_manifest, path_problem, read_manifest, read_text
from dcrafter.config import Command
from dcrafter.errors import UsageError
from dcrafter.media.fetch import is_url
from dcrafter.text import counted

STDIN = "-"
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jp2",
        "ppm", "pgm", "tga",
    )
)  # fmt: skip
MANIFESTS = (".csv", ".tsv", ".jsonl", ".json")
PROMPT_LIST = ".txt"
SIDECAR = ".txt"  # cat.txt beside cat.png
PUBLISHED_PROMPTS = "*prompts.txt"  # beside the images, in the published examples


@dataclass
class Found:
    """What inputs came to: entries in order, and files and folders that were passed over, with the reason."""

    entries: list[Entry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """How inputs are read. `outputs` are files that this or an earlier batch writes: they are no inputs."""

    command: Command = "animate"
    recursive: bool = False
    prompts: Path | None = None  # a file of them, a line a entry
    prompt_from: str | None = None  # filename or sidecar
    implied_prompts: bool = True  # take a folder's *prompts.txt
    outputs: frozenset[Path] = frozenset()

    def find(self, inputs: Sequence[str], stdin: str = "") -> Found:
        """Shots of files, addresses, folders, globs, .txt of prompts, .csv and .jsonl manifests, and `-`.

        Raises UsageError for what cannot be read as a whole: no such input, a manifest with errors (each with its
        line), a list of prompts of another length than there are items.
        """
        found = Found()
        loose: list[Entry] = []  # files named one by one belong together
        groups: list[list[Entry]] = [loose]
        for given in inputs:
            if given == STDIN:
                manifest, paths = _sniff(stdin)
                groups.append(manifest)
                loose += map(_loose, paths)
            else:
                self._read(given, loose, groups, found)
        groups[0] = self._pair(loose)
        entries = [entry for group in groups for entry in group]
        if self.prompts is not None:
            unprompted = [entry for entry in entries if not entry.where]
            lines = iter(_prompts(self.prompts, len(unprompted)))
            entries = [entry if entry.where else replace(entry, prompt=next(lines)) for entry in entries]
        if self.prompt_from is not None:
            entries = [entry if entry.prompt is not None else self._prompted(entry) for entry in entries]
        found.entries = entries
        return found

    def _read(self, given: str, loose: list[Entry], groups: list[list[Entry]], found: Found) -> None:
        if is_url(given):
            loose.append(_loose(given))
            return
        path = Path(given)
        suffix = path.suffix.lower()
        if path.is_dir():
            groups.append(self._folder(path, found))
        elif suffix in MANIFESTS and path.is_file():
            groups.append(read_manifest(path))
        elif suffix == PROMPT_LIST and path.is_file() and (images := _listed_images(path)):
            loose += images
        elif suffix == PROMPT_LIST and path.is_file():
            groups.append(self._folder(path.parent, found, prompts=path))
        elif os.path.lexists(path):
            loose.append(Entry(path.name, (given,)))
        elif glob.has_magic(given):
            groups.append(self._glob(given))
        else:
            raise UsageError(f"there is no {given}", "Name files, folders, patterns in quotes, or -")

    def _folder(self, folder: Path, found: Found, prompts: Path | None = None) -> list[Entry]:
        """A folder's images, sorted by name; with `recursive` those of all folders in it."""
        images = []
        for path in self._walk(folder, (), found):
            if path.absolute() in self.outputs:
                continue
            if path.suffix.lower() in IMAGE_SUFFIXES:
                images.append(path)
            elif path.suffix.lower() not in (PROMPT_LIST, *MANIFESTS):
                found.skipped[str(path)] = "not an image by its name"
        entries = self._pair([Entry(path.relative_to(folder).as_posix(), (str(path),)) for path in images])
        if prompts is None and self.implied_prompts and self.prompts is None and self.prompt_from is None:
            prompts = next(iter(sorted(folder.glob(PUBLISHED_PROMPTS))), None)
        if prompts is None:
            return entries
        lines = _prompts(prompts, len(entries))
        return [replace(entry, prompt=line) for entry, line in zip(entries, lines, strict=True)]

    def _walk(self, folder: Path, above: tuple[Path, ...], found: Found) -> Iterator[Path]:
        """Everything in a folder that is no folder, sorted, without hidden names. `above` ends loops of links."""
        real = folder.resolve()
        if real in above:
            found.skipped[str(folder)] = "a link to a folder that it is in"
            return
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError as error:
            if not above:
                raise UsageError(f"cannot read {folder} ({error.strerror})", "Check its permissions") from error
            found.skipped[str(folder)] = str(error.strerror)
            return
        for name in names:
            path = folder / name
            if not path.is_dir():
                yield path
            elif self.recursive:
                yield from self._walk(path, (*above, real), found)

    def _glob(self, pattern: str) -> list[Entry]:
        """What a pattern matches, relative to the folder before its first wildcard."""
        fixed = Path(pattern).parts
        wild = next(i for i, part in enumerate(fixed) if glob.has_magic(part))
        root = Path(*fixed[:wild])
        paths = sorted(Path(path) for path in glob.glob(pattern, recursive=True))
        paths = [path for path in paths if not path.is_dir() and path.absolute() not in self.outputs]
        if not paths:
            raise UsageError(f"nothing matches {pattern}", "** matches any folders between")
        return self._pair([Entry(path.relative_to(root).as_posix(), (str(path),)) for path in paths])

    def _pair(self, entries: list[Entry]) -> list[Entry]:
        """For interpolation, images of a folder put together: by names in _01, _02, …, else 2i with 2i + 1."""
        if self.command != "interpolate":
            return entries
        folders: dict[PurePosixPath, list[Entry]] = {}
        for entry in entries:
            folders.setdefault(PurePosixPath(entry.path).parent, []).append(entry)
        return [together for each in folders.values() for together in _keyframes(each)]

    def _prompted(self, entry: Entry) -> Entry:
        if entry.problem:
            return entry
        if self.prompt_from == "filename":
            return replace(entry, prompt=" ".join(re.sub(r"[_\W]+", " ", entry.stem).split()))
        sidecar = Path(entry.images[0]).with_suffix(SIDECAR)
        try:
            if sidecar.exists() and not sidecar.is_file():  # a pipe would be waited for
                raise UsageError(f"{sidecar} is no file")
            return replace(entry, prompt=" ".join(read_text(sidecar).split()))
        except UsageError as error:
            return replace(entry, problem=f"its prompt: {error.message}")


def _sniff(text: str) -> tuple[list[Entry], list[str]]:
    """Standard input: a manifest's entries, or paths, a line or a NUL each."""
    separator = "\0" if "\0" in text else "\n"
    if separator == "\n" and is_manifest(text):
        return parse_manifest(text, "stdin", Path()), []
    return [], [path for path in text.split(separator) if path.strip()]


def _loose(path: str) -> Entry:
    """A file or an address that is named by itself."""
    if not is_url(path):
        problem = path_problem(path)
        return Entry(Path(path).name, () if problem else (path,), problem=f"its path {problem}" if problem else "")
    try:
        urlsplit(path).port  # noqa: B018 (raises)
    except ValueError:
        return Entry(path, (path,), problem="this is no address")
    return Entry(path, (path,))


def _listed_images(path: Path) -> list[Entry]:
    """The images that a text file names, a line each; none if it holds prompts."""
    lines = [line.strip() for line in _read_lines(path) if line.strip()]
    if not all(is_url(line) or PurePosixPath(line).suffix.lower() in IMAGE_SUFFIXES for line in lines):
        return []
    files = {line: str(path.parent / line) for line in lines if not is_url(line)}
    return [_loose(files[line] if line in files and os.path.exists(files[line]) else line) for line in lines]


def _prompts(path: Path, wanted: int) -> list[str]:
    """A file of prompts: a line each, without empty ones."""
    prompts = [line.strip() for line in _read_lines(path) if line.strip()]
    if not wanted:
        raise UsageError(
            f"{path} holds prompts, but there are no images for them", "Images listed in it end in .png, .jpg, …"
        )
    if len(prompts) != wanted:
        raise UsageError(
            f"{path} has {counted(len(prompts), 'prompt')} for {counted(wanted, 'item')}",
            "It needs a line for each, in sorted order",
        )
    return prompts


def _read_lines(path: Path) -> list[str]:
    return read_text(path).splitlines()


def _keyframes(entries: list[Entry]) -> list[Entry]:
    """Pictures of one folder as the ends of interpolations."""
    numbers: dict[str, dict[int, Entry]] = {}
    for entry in entries:
        if match := NUMBERED.fullmatch(PurePosixPath(entry.path).stem):
            numbers.setdefault(match[1], {})[int(match[2])] = entry
    whole = [sorted(group) == list(range(1, len(group) + 1)) and len(group) > 1 for group in numbers.values()]
    if all(whole) and sum(map(len, numbers.values())) == len(entries):
        groups = [[group[number] for number in sorted(group)] for group in numbers.values()]
    elif len(entries) % 2:
        raise UsageError(
            f"{len(entries)} images cannot be paired, the last is {entries[-1].path}",
            "Name them cat_01 and cat_02, give an even number, or a manifest",
        )
    else:
        groups = [entries[i : i + 2] for i in range(0, len(entries), 2)]
    return [
        replace(
            group[0],
            images=tuple(each.images[0] for each in group),
            problem=next((each.problem for each in group if each.problem), ""),
        )
        for group in groups
    ]
