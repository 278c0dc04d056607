"""What inputs and manifests are read into."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from dcrafter.config import Command
from dcrafter.media.fetch import is_url, url_path
from dcrafter.settings import Options

NAMELESS = "video"
NUMBERED = re.compile(r"(.+)_(\d+)", re.DOTALL)  # a keyframe: cat_01.png


@dataclass(frozen=True)
class Entry:
    """What an input asks for: the images of one video, and its options. None follows the command line."""

    path: str  # POSIX, relative to the input folder
    images: tuple[str, ...]  # files or addresses
    where: str = ""  # manifest and line
    problem: str = ""  # why it cannot be made, if already known
    prompt: str | None = None
    command: Command | None = None
    model: str | None = None
    name: str | None = None  # template
    seed: int | None = None
    options: Options = field(default_factory=lambda: Options())

    @property
    def stem(self) -> str:
        """Name of the first image without suffix, and without its number if it is one of several."""
        name = PurePosixPath(url_path(self.path) if is_url(self.path) else self.path)
        numbered = NUMBERED.fullmatch(name.stem) if len(self.images) > 1 else None
        return numbered[1] if numbered else name.stem or NAMELESS
