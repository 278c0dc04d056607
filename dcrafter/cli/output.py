"""Where a command's results go and under which names. What can be refused is refused before the work."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from dcrafter.cli.arguments import STDIO
from dcrafter.cli.options import Request
from dcrafter.errors import UsageError, WriteError
from dcrafter.media.formats import DEFAULT_FORMAT, FORMATS, format_of, is_folder, named_format
from dcrafter.media.video import check_output, encode_video, holds_frames, is_at, places_of, write_video
from dcrafter.settings import Settings, WriteOptions

if TYPE_CHECKING:
    from dcrafter.events import Video


class Output:
    """One file that `-o` names, standard output, or a folder in which names are free: cat.mp4, cat-2.mp4, …"""

    def __init__(self, request: Request, results: int, images: Iterable[str] = ()) -> None:
        """`images` are files that no result overwrites, with --overwrite either.

        Raises UsageError where `-o`, `-f` and the number of results do not go together.
        """
        self.request = request
        self.format = request.writing.format or DEFAULT_FORMAT
        self.to_stdout = request.output == STDIO
        self.folder = Path(request.output or "")
        self.file: Path | None = None
        self._taken: set[Path] = set()  # by earlier results of this run
        self._kept = places_of(images)
        if self.to_stdout:
            self._check_stdout(results)
            return
        suffix_format = named_format(request.output)
        if request.output is None or is_folder(request.output):
            return
        if os.path.isdir(self.folder) and (results > 1 or not self._is_result(request.writing.format, suffix_format)):
            return
        if results > 1:
            if suffix_format:
                raise UsageError(
                    f"{self.folder} names one file, but there will be {results}", "Give a folder, with / at its end"
                )
            return
        self.file = self.folder
        self.format = format_of(self.file, request.writing.format)
        if suffix_format not in (None, self.format):
            raise UsageError(f"{self.file} is no name for {self.format}", "Change its suffix, or leave out -f")

    @property
    def options(self) -> WriteOptions:
        """How its files are written."""
        return replace(self.request.writing, format=self.format)

    def _is_result(self, format: str | None, suffix_format: str | None) -> bool:
        """Whether the folder that -o names is one of frames, by its suffix or as an earlier result."""
        if (format or suffix_format) != "frames":
            return False
        return suffix_format == "frames" or (any(self.folder.iterdir()) and holds_frames(self.folder))

    def _check_stdout(self, results: int) -> None:
        if results > 1:
            raise UsageError(f"stdout takes one result, not {results}", "Give a folder with -o")
        if self.request.json:
            raise UsageError("stdout cannot take both the video and --json", "Leave out one of them")
        if self.format == "frames":
            raise UsageError("a folder of frames cannot go to stdout", "Choose another format with -f")
        if sys.stdout.isatty():
            raise UsageError("a terminal cannot show a video's bytes", "Send them to a file or another program")

    def plan(self, stem: str) -> Path:
        """The name for the next result. Raises OutputError if nothing could be written there."""
        if self.to_stdout:
            return Path(STDIO)
        path = self.file or next(path for path in self._names(stem) if self._is_free(path))
        check_output(path, self.format, self.request.overwrite, self._kept)
        self._taken.add(path)
        return path

    def _names(self, stem: str) -> Iterator[Path]:
        suffix = FORMATS[self.format].suffix
        yield self.folder / f"{stem}{suffix}"
        for number in itertools.count(2):
            yield self.folder / f"{stem}-{number}{suffix}"

    def _is_free(self, path: Path) -> bool:
        if path in self._taken or self.is_image(path):
            return False
        return self.request.overwrite or not os.path.lexists(path)

    def is_image(self, path: Path) -> bool:
        """True if a file is one of the input images, or a folder has one in it."""
        return is_at(path, self._kept)

    def try_encoding(self, settings: Settings) -> None:
        """Writes one black frame somewhere temporary: codec and options that do not work fail now, not at the end."""
        frame = np.zeros((1, settings.height, settings.width, 3), np.uint8)
        with TemporaryDirectory() as folder:
            write_video(frame, Path(folder) / "trial", self.options, fps=settings.fps, sync=False)

    def encode(self, video: Video) -> bytes:
        """A video as the bytes of a file."""
        return encode_video(video.frames, self.options, fps=video.fps, settings=video.settings)

    def save(self, video: Video, path: Path, stem: str) -> Path:
        """Writes a video under its planned name, or the next free one if somebody else was faster."""
        claims = self.file is None and not self.request.overwrite
        while claims and not _claim(path, folder=self.format == "frames"):
            path = self.plan(stem)
        try:
            overwrite = claims or self.request.overwrite
            return write_video(
                video.frames, path, self.options, fps=video.fps, settings=video.settings, overwrite=overwrite
            )
        except BaseException:
            if claims:
                path.rmdir() if path.is_dir() else path.unlink()
            raise


def _claim(path: Path, folder: bool) -> bool:
    """Makes an empty file or folder if there is nothing of this name; tells whether it did."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if folder else path.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:
        raise WriteError(f"cannot write {path} ({error.strerror})", "Write elsewhere with -o") from error
    return True
