"""The formats of results, one entry each: choices, suffixes, codecs and help of the command line follow from it.

To add one, write a function `(frames, path, encoding) -> None` and give it an entry in `FORMATS`. PyAV and Pillow
are imported by these functions when called: `--help` and completion need the table and neither library.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePath

from dcrafter.errors import UsageError
from dcrafter.media.animations import write_apng, write_frames, write_gif, write_webp
from dcrafter.media.containers import write_mp4, write_webm
from dcrafter.media.encoding import Writer


@dataclass(frozen=True)
class Format:
    """A file format of results.

    Attributes:
        suffixes: those that select it, lower case, the usual one first.
        write: encodes frames into a file, or into a folder if `is_folder`.
        codecs: names for `--codec`, the default first; a format without any takes neither codec nor CRF.
        size_multiple: of a frame's width and height; 2 with 4:2:0 color.
        max_fps: highest frame rate it can store, in 1/s.
        is_folder: the result is a folder of files.
        help: what the name alone does not say.
    """

    suffixes: tuple[str, ...]
    write: Writer
    codecs: tuple[str, ...] = ()
    size_multiple: int = 1
    max_fps: float = 240.0
    is_folder: bool = False
    help: str = ""

    @property
    def suffix(self) -> str:
        return self.suffixes[0]


FORMATS: dict[str, Format] = {
    "mp4": Format((".mp4", ".m4v"), write_mp4, codecs=("h264", "h265", "vp9", "av1"), size_multiple=2),
    "webm": Format((".webm",), write_webm, codecs=("vp9", "av1"), size_multiple=2),
    "gif": Format((".gif",), write_gif, max_fps=50.0),  # delays are in 1/100 s, and players refuse a delay of 1
    "webp": Format((".webp",), write_webp),
    "apng": Format((".apng", ".png"), write_apng),
    "frames": Format((".frames",), write_frames, is_folder=True, help="a folder of numbered PNGs"),
}
DEFAULT_FORMAT = "mp4"


def describe_formats() -> str:
    """The names, each with its help, for the command line."""
    return ", ".join(f"{name} ({format.help})" if format.help else name for name, format in FORMATS.items())


def describe_codecs() -> str:
    """The names that `--codec` knows, for the command line."""
    return ", ".join(dict.fromkeys(codec for format in FORMATS.values() for codec in format.codecs))


def is_folder(name: str | None) -> bool:
    """True if a name is marked as a folder's by a / at its end."""
    return name is not None and name.endswith(("/", os.sep))


def named_format(name: str | None) -> str | None:
    """The format selected by a file name's suffix, if any. A folder's name (with / at its end) selects none."""
    suffix = "" if is_folder(name) else PurePath(name or "").suffix.lower()
    return next((format for format, entry in FORMATS.items() if suffix in entry.suffixes), None)


def is_animation(path: Path) -> bool:
    """True for a file that a page shows as an image, not as a video, by its suffix."""
    format = named_format(path.name)
    return format is not None and not FORMATS[format].codecs


def format_of(path: str | Path, wanted: str | None = None) -> str:
    """The name of the format to write `path` in: `wanted` if given, else by suffix.

    Raises:
        UsageError: there is no such format.
    """
    found = named_format(str(path)) if wanted is None else wanted
    if found in FORMATS:
        return found
    problem = f"unknown format {wanted!r}" if wanted else f"the name {Path(path).name!r} has no known suffix"
    raise UsageError(problem, f"Choose one of {', '.join(FORMATS)} with -f, or a suffix like .mp4")
