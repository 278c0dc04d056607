"""Names of outputs: templates filled in, safe on every platform, no two alike."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath

from dcrafter.errors import UsageError

FIELDS = ("stem", "seed", "index", "copy", "parent", "prompt")
LONGEST_TEMPLATE = 1000  # characters
LONGEST_NAME = 255  # bytes a part of a path, on most file systems
SLUG = 40  # characters of a prompt in a name
_FIELD = re.compile(r"\{(?P<name>\w+)(?::0(?P<width>\d\d?))?\}|\{\{|\}\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")
_WINDOWS = re.compile(r"^(con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])( *(?:\.|$))", re.IGNORECASE)
_UNFINISHED = re.compile(r"\.batch(\..*)?\.part", re.IGNORECASE)  # folders of what is being written


def check_template(template: str) -> None:
    """Raises UsageError for a template that cannot be filled in, or leads out of the output folder."""
    if len(template) > LONGEST_TEMPLATE:
        raise UsageError(f"the name has {len(template)} characters", f"Give at most {LONGEST_TEMPLATE}")
    shown = repr(template)
    unknown = [match["name"] for match in _FIELD.finditer(template) if match["name"] not in (None, *FIELDS)]
    padded = [match["name"] for match in _FIELD.finditer(template) if match["width"]]
    wrong = set(padded) - {"seed", "index", "copy"}
    if unknown or wrong or re.search(r"[{}]", _FIELD.sub("", template)):
        raise UsageError(
            f"the name {shown} cannot be filled in",
            f"Its fields are {', '.join(f'{{{name}}}' for name in FIELDS)}; numbers can be padded, as in {{index:03}}",
        )
    name = _FIELD.sub(lambda match: match[0][0] if match["name"] is None else "x", template)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name.endswith("/") or not path.parts:
        raise UsageError(f"the name {shown} leads out of the output folder", "Name files in it")
    if "\\" in name or _DRIVE.match(name) or name != _CONTROL.sub("", name) or any(map(_is_reserved, path.parts)):
        raise UsageError(f"the name {shown} is not valid on every platform", "Choose another one")


def fill(template: str, values: Mapping[str, str | int]) -> str:
    """Fill in a template that `check_template` accepts. What is unsafe in the values becomes _."""

    def value(match: re.Match[str]) -> str:
        if match["name"] is None:
            return match[0][0]
        text = safe(str(values[match["name"]]))
        return text.zfill(int(match["width"] or 0))

    return _FIELD.sub(value, template)


def safe(text: str) -> str:
    """Text as part of a file's name: it opens no folder, and a line of results stays a line."""
    return _UNSAFE.sub("_", text)


def output_path(template: str, values: Mapping[str, str | int], folder: PurePosixPath, suffix: str) -> str:
    """An output's path in the output folder, POSIX.

    Args:
        template: One that `check_template` accepts.
        values: One for each of `FIELDS`.
        folder: Where in the output folder, unless the template says {parent}.
        suffix: Of the format, with its dot.
    """
    if "{parent" in template or folder.is_absolute() or ".." in folder.parts:
        folder = PurePosixPath()
    parts = (PurePosixPath(_CONTROL.sub("_", str(folder))) / f"{fill(template, values)}{suffix}").parts
    return PurePosixPath(*map(_portable, parts)).as_posix()


def _portable(part: str) -> str:
    """A part of a path, changed where Windows would read it as something else."""
    if _DRIVE.match(part) or "\\" in part:
        part = part.replace(":", "_").replace("\\", "_")
    if part == "..":
        return "__"
    return _WINDOWS.sub(r"\1_\2", part, count=1)


def _is_reserved(part: str) -> bool:
    return _WINDOWS.match(part) is not None or _UNFINISHED.fullmatch(part) is not None


def problem_of(output: str) -> str:
    """Why there can be no output of this path; empty if there can."""
    parts = PurePosixPath(output).parts
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
        return "the name of its output would be too long; see --name"
    if any(_UNFINISHED.fullmatch(part) for part in parts):
        return "its output would be in a folder of unfinished files; see --name"
    return ""


def folded(output: str) -> str:
    """A path without what some file systems do not tell apart: case, and how accents are written."""
    return unicodedata.normalize("NFC", output).casefold()


def slug(text: str) -> str:
    """A prompt as part of a file name."""
    return re.sub(r"\W+", "-", text.casefold()).strip("-")[:SLUG].rstrip("-")
