"""Values as people read them, each in one way."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

GIGABYTES_FROM = 50_000_000  # bytes; fewer are shown in megabytes
LONGEST_REASON = 200  # characters
# What systems say of a host that there is not: glibc, macOS, Windows.
_UNRESOLVED = ("Name or service not known", "Temporary failure in name resolution", "No address associated",
               "nodename nor servname", "getaddrinfo failed")  # fmt: skip


def printable(text: str) -> str:
    """Text as a terminal shows it and no more: names out of files may hold escape sequences and line ends."""
    return "".join(char if char.isprintable() else " " if char.isspace() else ascii(char)[1:-1] for char in text)


def write_line(text: str, stream: TextIO) -> None:
    """Print text as one line, at once; on a terminal that is narrower, wrapped at words."""
    text = printable(text)
    with suppress(OSError, ValueError):  # it is no terminal
        columns = os.get_terminal_size(stream.fileno()).columns
        if len(text) > columns > 0:
            text = textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
    print(text, file=stream, flush=True)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines, their cells below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2 frames`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_size(size: float) -> str:
    """Bytes in GB, or in MB if they are few."""
    return f"{size / 1e9:.1f} GB" if size >= GIGABYTES_FROM else f"{size / 1e6:.1f} MB"


def error_text(error: BaseException) -> str:
    """What an exception of a library says, on one line and without numbers of errors."""
    reason = getattr(error, "reason", None)  # of urllib's errors
    error = reason if isinstance(reason, BaseException) else error
    text = str(getattr(error, "strerror", None) or error).strip()
    text = re.sub(r"^\[Errno -?\d+\] ", "", text)
    if text.startswith(_UNRESOLVED):
        return "the host's name cannot be resolved"
    text = text.split("\n")[0].strip().rstrip(".")
    if len(text) > LONGEST_REASON:
        text = text[:LONGEST_REASON].rsplit(" ", 1)[0] + "…"
    return text or type(error).__name__
