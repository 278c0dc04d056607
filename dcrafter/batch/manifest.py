"""Manifests: CSV (with commas, semicolons or tabs) under a header line, JSON objects a line, or a JSON list of them.

    image,image2,mode,prompt,steps
    cat.png,,animate,a cat yawns,50
    sun.png,moon.png,interpolate,night falls,

Columns are named like the long options, in any case, with - or _. `image` (with `image2`, `image3`, … for keyframes,
or in JSON a list) is required; files are relative to the manifest. What is empty, null or left out follows the command
line.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

from dcrafter.batch.entries import Entry
from dcrafter.config import Command
from dcrafter.errors import UsageError
from dcrafter.media.fetch import is_url
from dcrafter.settings import Options, Settings, options_of

TEXTS = ("prompt", "mode", "model", "name")
OPTIONS = {name.replace("_", "-"): option for name, option in options_of(Settings).items()}
COLUMNS = ("image", "image2", *TEXTS, "seed", *OPTIONS)
ALIASES = {"command": "mode", "images": "image"}  # as results call them in JSON
DELIMITERS = ",;\t"
SHOWN_ERRORS = 5
MAX_BYTES = 100_000_000  # of a text file
LONGEST_TEXT, LONGEST_VALUE, LONGEST_SHOWN = 10_000, 100, 40  # characters
_IMAGE = re.compile(r"image(?:[2-9]|[1-9]\d{1,2})?")

Row = tuple[str, dict[str, Any] | str]
"""Where a row is, and its values by column or what is wrong with it."""


def read_manifest(path: Path) -> list[Entry]:
    """The entries of a .csv, .tsv, .jsonl or .json file; see `parse_manifest`."""
    try:
        text = read_text(path)
    except UsageError as error:
        raise UsageError(error.message, "Give a CSV or JSONL file in UTF-8") from error
    return parse_manifest(text, path.name, path.parent)


def read_text(path: Path) -> str:
    """A text file of a person's. Raises UsageError where it cannot be read, is too long or not in UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = io.StringIO(content.decode("utf-8-sig"), newline=None).read()  # each line end as \n
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"cannot read {path} ({reason})", "Give a text file in UTF-8") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path} has more than {MAX_BYTES / 1e6:g} MB")
    return text


def is_manifest(text: str) -> bool:
    """True if a text is a manifest, and not a list of paths."""
    text = text.lstrip("\ufeff \r\n")
    if text.startswith("{") or (text.startswith("[") and text.rstrip().endswith("]")):
        return True
    columns = _header(text)[1]
    return "image" in columns and (len(columns) > 1 or columns == ["image"])


def parse_manifest(text: str, name: str, folder: Path) -> list[Entry]:
    """Read a manifest's text. What is wrong with a row is the problem of its entry.

    Args:
        text: The manifest.
        name: What to call it in messages.
        folder: What its images are relative to.

    Raises:
        UsageError: The header is wrong, or the text is neither CSV nor JSON.
    """
    entries = []
    for place, row in _rows(text, name):
        where = f"{name}, {place}"
        try:
            if isinstance(row, str):
                raise ValueError(row)
            entries.append(_entry(row, where, folder))
        except ValueError as error:
            entries.append(Entry(where, (), where, problem=str(error)))
    return entries


def raise_errors(errors: list[str]) -> None:
    """Raises UsageError if there are any errors, with the first of them."""
    if errors:
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise UsageError("; ".join(errors[:SHOWN_ERRORS]) + more)


def _rows(text: str, name: str) -> Iterator[Row]:
    first = text.lstrip("\ufeff \r\n")[:1]
    if first == "[":
        yield from _json_rows(text, name)
    elif first == "{":
        yield from _json_lines(text)
    else:
        yield from _csv_rows(text, name)


def _json_lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", _checked(_json(line))
            except ValueError as error:
                yield f"line {number}", str(error)


def _json_rows(text: str, name: str) -> Iterator[Row]:
    try:
        rows = _json(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}", "Give a JSON list of objects, or an object a line") from None
    for number, row in enumerate(rows, start=1):
        try:
            yield f"entry {number}", _checked(row)
        except ValueError as error:
            yield f"entry {number}", str(error)


def _json(text: str) -> Any:
    """Parse JSON, objects as lists of pairs. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_Pairs, parse_int=_whole)
    except RecursionError:
        raise ValueError("no JSON (nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"no JSON ({str(error)[:200]})") from None


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_VALUE:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its keys, those that appear twice too."""


def _checked(row: object) -> dict[str, Any]:
    if not isinstance(row, _Pairs):
        raise ValueError("no JSON object")
    columns = [_canonical(name) for name, _ in row]
    _check_columns(columns)
    return dict(zip(columns, (value for _, value in row), strict=True))


def _csv_rows(text: str, name: str) -> Iterator[Row]:
    delimiter, _ = _header(text)
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), strict=True, delimiter=delimiter)
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cells):
                continue
            if columns:
                right = len(cells) == len(columns)
                wrong = f"{len(cells)} cells under {len(columns)} columns"
                yield f"line {reader.line_num}", dict(zip(columns, cells, strict=True)) if right else wrong
                continue
            columns = [_canonical(cell) for cell in cells]
            _check_columns(columns)
            if "image" not in columns:
                raise ValueError(f"no column image; the columns are {', '.join(columns)}"[:500])
    except (csv.Error, ValueError) as error:
        problem = f"no CSV ({error})" if isinstance(error, csv.Error) else error
        raise UsageError(f"{name}, line {reader.line_num}: {problem}") from None


def _header(text: str) -> tuple[str, list[str]]:
    """The delimiter of a CSV text and its columns: the first delimiter that makes `image` one of them."""
    first = text.lstrip("\ufeff \r\n").split("\n", 1)[0].rstrip("\r")
    found = []
    for delimiter in DELIMITERS:
        try:
            found.append((delimiter, [_canonical(cell) for cell in next(csv.reader([first], delimiter=delimiter), [])]))
        except csv.Error:
            continue
    return next((each for each in found if "image" in each[1]), (found or [(",", [])])[0])


def _canonical(name: str) -> str:
    """A column's name as in `COLUMNS`, whatever its case."""
    name = name.strip().lower().replace("_", "-")
    return ALIASES.get(name, name)


def _check_columns(columns: list[str]) -> None:
    """Raises ValueError for columns that there are not, or that appear twice."""
    if unknown := [name for name in columns if name not in COLUMNS and not _IMAGE.fullmatch(name)]:
        near = difflib.get_close_matches(unknown[0][:LONGEST_VALUE], COLUMNS, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"unknown column {unknown[0][:LONGEST_SHOWN]}{meant}; there are {', '.join(COLUMNS)}")
    if len(set(columns)) < len(columns):
        raise ValueError("a column appears twice")


def _entry(row: dict[str, Any], where: str, folder: Path) -> Entry:
    """A row as an entry. Raises ValueError that says what is wrong."""
    row = {name: value for name, value in row.items() if value is not None and value != ""}
    images = _images(row)
    texts = {name: _text(row[name], name) for name in TEXTS if name in row}
    mode = texts.get("mode", "animate").lower()
    if mode not in get_args(Command):
        raise ValueError(f"mode must be {', '.join(get_args(Command))}, not {mode[:LONGEST_SHOWN]}")
    options = {name.replace("-", "_"): _option(row[name], name) for name in OPTIONS if name in row}
    options = {name: folder / value if isinstance(value, Path) else value for name, value in options.items()}
    return Entry(
        path=images[0] if is_url(images[0]) else Path(images[0]).as_posix(),
        images=tuple(image if is_url(image) else str(folder / image) for image in images),
        where=where,
        prompt=texts.get("prompt"),
        command=cast(Command, mode) if "mode" in row else None,
        model=texts.get("model"),
        name=texts.get("name"),
        seed=_number(row["seed"], "seed") if "seed" in row else None,
        options=cast(Options, options),
    )


def _images(row: dict[str, Any]) -> list[str]:
    names = sorted((name for name in row if _IMAGE.fullmatch(name)), key=lambda name: int(name[5:] or 1))
    if "image" not in names:
        raise ValueError("no image")
    images = row["image"] if isinstance(row["image"], list) and len(names) == 1 else [row[name] for name in names]
    if not images or not all(isinstance(image, str) and image for image in images):
        raise ValueError("image must be a path, or a list of them")
    for image in images:
        if problem := path_problem(image):
            raise ValueError(f"image {_shown(image)} {problem}")
    return cast(list[str], images)


def path_problem(path: str) -> str:
    """Why no file can have this path; empty if one can."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return "holds a NUL" if "\0" in path else "is too long" if len(path) > LONGEST_TEXT else ""


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {_shown(value)}")
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"{name} has {len(value)} characters, more than {LONGEST_TEXT}")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{name} is not valid Unicode")
    return value


def _option(value: object, name: str) -> Any:
    try:
        return OPTIONS[name].check(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _number(value: object, name: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,20}\s*", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64:
        return value
    raise ValueError(f"{name} must be a whole number, not {_shown(value)}")


def _shown(value: object) -> str:
    """A value for a message: on one line, and not long."""
    if isinstance(value, (list, dict)):
        return "a list or an object"
    text = repr(value) if not isinstance(value, int) or abs(value) < 2**64 else "a number that large"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
