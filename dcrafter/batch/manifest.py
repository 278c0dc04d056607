"""Manifests: CSV with a header line, or a JSON object a line. Columns are named like the long options.

`image` (with `image2`, `image3`, … for keyframes, or in JSON a list) is required, relative to the manifest. What is
empty, null or left out follows the command line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from dcrafter.batch.entries import Entry, printable
from dcrafter.config import Command
from dcrafter.errors import UsageError
from dcrafter.media.fetch import is_url
from dcrafter.settings import Options

TEXTS = ("prompt", "mode", "model", "name")
OPTIONS = {name.replace("_", "-"): kind for name, kind in get_type_hints(Options).items()}
COLUMNS = ("image", "image2", *TEXTS, "seed", *OPTIONS)
SHOWN_ERRORS = 5
_IMAGE = re.compile(r"image(?:[2-9]|[1-9]\d+)?")


def read_manifest(path: Path) -> list[Entry]:
    """The entries of a .csv or .jsonl file. Raises UsageError that names the lines with errors."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} ({error})", "Give a CSV or JSONL file in UTF-8") from error
    return parse_manifest(text, path.name, path.parent)


def is_manifest(text: str) -> bool:
    """Whether a text is one, and no list of paths."""
    first = text.lstrip("\ufeff \r\n").split("\n", 1)[0]
    columns = next(csv.reader([first]), [])
    return first.startswith("{") or ("image" in columns and all(_is_column(column) for column in columns))


def parse_manifest(text: str, name: str, folder: Path) -> list[Entry]:
    """The entries of a manifest's text, which is called `name`; its images are relative to `folder`."""
    entries, errors = [], []
    for line, row in _rows(text):
        where = f"{name}, line {line}"
        try:
            if isinstance(row, str):
                raise ValueError(row)
            entries.append(_entry(row, where, folder))
        except ValueError as error:
            errors.append(f"{where}: {error}")
    fail(errors)
    return entries


def fail(errors: list[str]) -> None:
    """Raises UsageError if there are any errors, with the first of them."""
    if errors:
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise UsageError("; ".join(errors[:SHOWN_ERRORS]) + more)


def _rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers (from 1) with what each says by column, or with what is wrong with it."""
    if not text.lstrip().startswith("{"):
        yield from _csv_rows(text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_without_repetition)
        except ValueError as error:
            yield number, f"no JSON ({error})"
            continue
        yield number, row if isinstance(row, dict) else "no JSON object"


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cells):
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
                try:
                    _without_repetition([(column, "") for column in columns])
                except ValueError as error:
                    yield reader.line_num, str(error)
                continue
            if len(cells) != len(columns):
                yield reader.line_num, f"{len(cells)} cells under {len(columns)} columns"
                continue
            yield reader.line_num, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        yield reader.line_num, f"no CSV ({error})"


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a column appears twice")
    return row


def _is_column(name: str) -> bool:
    return name in COLUMNS or _IMAGE.fullmatch(name) is not None


def _entry(row: dict[str, Any], where: str, folder: Path) -> Entry:
    """A row → its entry. Raises ValueError that says what is wrong."""
    if unknown := [printable(name) for name in row if not _is_column(name)]:
        raise ValueError(f"unknown column {', '.join(unknown)}; there are {', '.join(COLUMNS)}")
    row = {name: value for name, value in row.items() if value is not None and value != ""}
    for name in TEXTS:
        if not isinstance(row.get(name, ""), str):
            raise ValueError(f"{name} must be text, not {row[name]!r}")
    images = _images(row)
    if row.get("mode", "animate") not in get_args(Command):
        raise ValueError(f"mode must be {', '.join(get_args(Command))}, not {row['mode']}")
    return Entry(
        path=images[0] if is_url(images[0]) else Path(images[0]).as_posix(),
        images=tuple(image if is_url(image) else str(folder / image) for image in images),
        where=where,
        prompt=row.get("prompt"),
        command=row.get("mode"),
        model=row.get("model"),
        name=row.get("name"),
        seed=_number(row["seed"], "seed") if "seed" in row else None,
        options=cast(
            Options,
            {
                name.replace("-", "_"): _truth(row[name], name) if kind is bool else row[name]
                for name, kind in OPTIONS.items()
                if name in row
            },
        ),
    )


def _images(row: dict[str, Any]) -> list[str]:
    names = sorted((name for name in row if _IMAGE.fullmatch(name)), key=lambda name: int(name[5:] or 1))
    if "image" not in names:
        raise ValueError("no image")
    images = row["image"] if isinstance(row["image"], list) and len(names) == 1 else [row[name] for name in names]
    if not images or not all(isinstance(image, str) and image for image in images):
        raise ValueError("image must be a path, or a list of them")
    return cast(list[str], images)


def _number(value: object, name: str) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{name} must be a whole number, not {value!r}")


def _truth(value: object, name: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    truth = known.get(str(value).strip().lower())
    if truth is None:
        raise ValueError(f"{name} must be true or false, not {value!r}")
    return truth
