"""Values as people read them, each in one way."""

from __future__ import annotations

GIGABYTES_FROM = 50_000_000  # bytes; fewer are shown in megabytes
LONGEST_REASON = 200  # characters


def printable(text: str) -> str:
    """Text as a terminal shows it and no more: names out of files may hold escape sequences and line ends."""
    return "".join(char if char.isprintable() else " " if char.isspace() else ascii(char)[1:-1] for char in text)


def format_size(size: float) -> str:
    """Bytes in GB, or in MB if they are few."""
    return f"{size / 1e9:.1f} GB" if size >= GIGABYTES_FROM else f"{size / 1e6:.1f} MB"


def error_text(error: BaseException) -> str:
    """What an exception of a library says, on one line."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.split("\n")[0][:LONGEST_REASON].strip().rstrip(".") or type(error).__name__
