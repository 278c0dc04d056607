"""From inputs (files, folders, patterns, lists, manifests) to shots: pictures for a video, and what is said of it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from dcrafter.config import Command
from dcrafter.errors import UsageError
from dcrafter.media.fetch import is_url
from dcrafter.settings import Options

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
_NUMBERED = re.compile(r"(.+)_(\d+)", re.DOTALL)


@dataclass(frozen=True)
class Shot:
    """What an input names: pictures for a video, and what is said of it there. None follows the defaults."""

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

    @property
    def stem(self) -> str:
        """The name of its picture without suffix; of a numbered pair, what their names begin with."""
        name = PurePosixPath(unquote(urlsplit(self.path).path) if is_url(self.path) else self.path)
        numbered = _NUMBERED.fullmatch(name.stem) if len(self.pictures) > 1 else None
        return numbered[1] if numbered else name.stem


@dataclass
class Found:
    """What inputs came to: shots in order, and files and folders that were passed over, with the reason."""

    shots: list[Shot] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """How inputs are read. `ours` are files that this or an earlier run makes: they are no inputs."""

    command: Command = "animate"
    recursive: bool = False
    prompts: Path | None = None  # a file of them, a line a shot
    prompt_from: str | None = None  # filename or sidecar
    implied_prompts: bool = True  # take a folder's *prompts.txt
    ours: frozenset[Path] = frozenset()

    def find(self, inputs: Sequence[str], stdin: str = "") -> Found:
        """Shots of files, addresses, folders, globs, .txt of prompts, .csv and .jsonl manifests, and `-`.

        Raises UsageError for what cannot be read as a whole: no such input, a manifest with errors (each with its
        line), a list of prompts of another length than there are items.
        """
        found = Found()
        loose: list[Shot] = []  # files named one by one belong together
        groups: list[list[Shot]] = [loose]
        for given in inputs:
            if given == STDIN:
                manifest, paths = _sniff(stdin)
                groups.append(manifest)
                loose += [Shot(_identity(path), (path,)) for path in paths]
            else:
                self._read(given, loose, groups, found)
        groups[0] = self._pair(loose)
        shots = [shot for group in groups for shot in group]
        if self.prompts is not None:
            unprompted = [shot for shot in shots if not shot.where]
            lines = iter(_prompts(self.prompts, len(unprompted)))
            shots = [shot if shot.where else replace(shot, prompt=next(lines)) for shot in shots]
        if self.prompt_from is not None:
            shots = [shot if shot.prompt is not None else self._prompted(shot) for shot in shots]
        found.shots = shots
        return found

    def _read(self, given: str, loose: list[Shot], groups: list[list[Shot]], found: Found) -> None:
        if is_url(given):
            loose.append(Shot(given, (given,)))
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
            loose.append(Shot(path.name, (given,)))
        elif glob.has_magic(given):
            groups.append(self._glob(given))
        else:
            raise UsageError(f"there is no {printable(given)}", "Name files, folders, patterns in quotes, or -")

    def _folder(self, folder: Path, found: Found, prompts: Path | None = None) -> list[Shot]:
        """A folder's pictures, sorted by name; with `recursive` those of all folders in it."""
        pictures = []
        for path in self._walk(folder, (), found):
            if path.absolute() in self.ours:
                continue
            if path.suffix.lower() in PICTURES:
                pictures.append(path)
            elif path.suffix.lower() not in (PROMPT_LIST, *MANIFESTS):
                found.left_out[str(path)] = "no picture by its name"
        shots = self._pair([Shot(path.relative_to(folder).as_posix(), (str(path),)) for path in pictures])
        if prompts is None and self.implied_prompts and self.prompts is None and self.prompt_from is None:
            prompts = next(iter(sorted(folder.glob(PUBLISHED_PROMPTS))), None)
        if prompts is None:
            return shots
        lines = _prompts(prompts, len(shots))
        return [replace(shot, prompt=line) for shot, line in zip(shots, lines, strict=True)]

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

    def _glob(self, pattern: str) -> list[Shot]:
        """What a pattern matches, relative to the folder before its first wildcard."""
        fixed = Path(pattern).parts
        wild = next(i for i, part in enumerate(fixed) if glob.has_magic(part))
        root = Path(*fixed[:wild])
        paths = sorted(Path(path) for path in glob.glob(pattern, recursive=True))
        paths = [path for path in paths if not path.is_dir() and path.absolute() not in self.ours]
        if not paths:
            raise UsageError(f"nothing matches {printable(pattern)}", "** matches any folders between")
        return self._pair([Shot(path.relative_to(root).as_posix(), (str(path),)) for path in paths])

    def _pair(self, shots: list[Shot]) -> list[Shot]:
        """For interpolation, pictures of a folder put together: by names in _01, _02, …, else 2i with 2i + 1."""
        if self.command != "interpolate":
            return shots
        folders: dict[PurePosixPath, list[Shot]] = {}
        for shot in shots:
            folders.setdefault(PurePosixPath(shot.path).parent, []).append(shot)
        return [together for each in folders.values() for together in _keyframes(each)]

    def _prompted(self, shot: Shot) -> Shot:
        if self.prompt_from == "filename":
            return replace(shot, prompt=" ".join(re.sub(r"[_\W]+", " ", shot.stem).split()))
        sidecar = Path(shot.pictures[0]).with_suffix(SIDECAR)
        try:
            return replace(shot, prompt=" ".join(sidecar.read_text("utf-8-sig").split()))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            return replace(shot, problem=f"cannot read its prompt {printable(sidecar.name)} ({reason})")


def _sniff(text: str) -> tuple[list[Shot], list[str]]:
    """Standard input: a manifest's shots, or paths, a line or a NUL each."""
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


def _keyframes(shots: list[Shot]) -> list[Shot]:
    """Pictures of one folder as the ends of interpolations."""
    numbers: dict[str, dict[int, Shot]] = {}
    for shot in shots:
        if match := _NUMBERED.fullmatch(PurePosixPath(shot.path).stem):
            numbers.setdefault(match[1], {})[int(match[2])] = shot
    whole = [sorted(group) == list(range(1, len(group) + 1)) and len(group) > 1 for group in numbers.values()]
    if all(whole) and sum(map(len, numbers.values())) == len(shots):
        groups = [[group[number] for number in sorted(group)] for group in numbers.values()]
    elif len(shots) % 2:
        raise UsageError(
            f"{len(shots)} pictures cannot be paired, the last is {printable(shots[-1].path)}",
            "Name them cat_01 and cat_02, give an even number, or a manifest",
        )
    else:
        groups = [shots[i : i + 2] for i in range(0, len(shots), 2)]
    return [replace(group[0], pictures=tuple(each.pictures[0] for each in group)) for group in groups]


def printable(text: str) -> str:
    """A name as it can be shown: control characters and broken Unicode as question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)
