"""Files of JSON lines: manifests, and what a run appends to and a later one goes on from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, none where there is no file. A torn line is left out."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a file of rows, in the place of any that is there. Raises OSError."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row, on a line of its own whatever the last one is. Raises OSError."""
    with path.open("a+b") as file:
        file.seek(max(file.seek(0, 2) - 1, 0))
        torn = file.read(1) not in (b"", b"\n")
        file.write((b"\n" if torn else b"") + json.dumps(row).encode() + b"\n")
