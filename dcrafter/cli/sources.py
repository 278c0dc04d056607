"""What a command reads before it generates: stdin, images, and prompts or captions of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dcrafter.batch.names import safe
from dcrafter.cli.arguments import STDIO
from dcrafter.cli.console import Console
from dcrafter.cli.options import Request
from dcrafter.errors import InputError, UsageError
from dcrafter.media.fetch import fetch, is_url, public_name, url_path

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcrafter.captioner import Captioner
    from dcrafter.media.image import ImageSource

MAX_PROMPT = 1_000_000  # bytes of a prompt from stdin
STDIN_STEM = "video"  # what the result of an image from stdin is called

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """An image: what it is read from, a file's path, the bytes of anything else or what a pipe gave, and its size."""

    content: ImageSource
    size: tuple[int, int]

    def open(self) -> Image:
        from dcrafter.media.image import open_image

        return open_image(self.content)


def title_of(image: str) -> str:
    """An image's name in messages."""
    return "stdin" if image == STDIO else PurePosixPath(public_name(image)).name


def stem_of(image: str) -> str:
    """The name of an image's video, without suffix."""
    if image == STDIO:
        return STDIN_STEM
    return safe(Path(url_path(image) if is_url(image) else image).stem) or STDIN_STEM


def read_stdin(arguments: Sequence[str], request: Request) -> tuple[str, bytes]:
    """The prompt, and the bytes of the argument that is `-`. Raises UsageError if both would be stdin."""
    named = arguments.count(STDIO)
    if named + (request.prompt == STDIO) > 1:
        raise UsageError("only one argument can be -", "stdin holds one of them")
    prompt, content = request.prompt, b""
    if prompt == STDIO:
        said = sys.stdin.buffer.read(MAX_PROMPT + 1)
        if len(said) > MAX_PROMPT:
            raise UsageError(f"the prompt from stdin has more than {MAX_PROMPT / 1e6:g} MB", "Give a line of text")
        prompt = " ".join(said.decode("utf-8", "replace").split())
    elif named:
        from dcrafter.media.image import read_stdin as read_content

        content = read_content(sys.stdin.buffer)
    if prompt == "" and request.from_ is None:
        logger.warning("the prompt is empty; what happens is left to the model")
    return prompt or "", content


def open_sources(images: Iterable[str], stdin: bytes, offline: bool) -> dict[str, Source]:
    """Read each image's header, and fetch what is on the web. Raises InputError that names all that cannot be read."""
    sources, errors = {}, []
    for image in dict.fromkeys(images):
        try:
            sources[image] = _open(image, stdin, offline)
        except InputError as error:
            errors.append(error)
    if len(errors) > 1:
        raise InputError("; ".join(error.message for error in errors), "Leave them out")
    if errors:
        raise errors[0]
    return sources


def _open(image: str, stdin: bytes, offline: bool) -> Source:
    from dcrafter.media.image import open_image

    content: ImageSource = fetch(image, offline=offline) if is_url(image) else stdin if image == STDIO else image
    opened = open_image(content)
    is_pipe = isinstance(content, str) and Path(content).is_fifo()  # as of <(…), which can be read only once
    return Source(opened if is_pipe else content, opened.size)


def prompts_of(
    sources: dict[str, Source], images: Iterable[str], prompt: str, request: Request, console: Console
) -> dict[str, str]:
    """The prompt by image: the given one, or with --auto-prompt a caption and that."""
    images = dict.fromkeys(images)
    if not request.auto_prompt:
        return dict.fromkeys(images, prompt)
    caption = captioner_of(request, console)
    prompts = {}
    for image in images:
        prompts[image] = ", ".join(filter(None, [caption(sources[image].open()), prompt]))
        if not request.dry_run:
            console.say(f"{title_of(image)}: {prompts[image]}")
    return prompts


def captioner_of(request: Request, console: Console) -> Captioner:
    """What --auto-prompt asks. A dry run downloads nothing: it says so where the captioner is missing."""
    from dcrafter.captioner import DEFAULT, Captioner, is_here
    from dcrafter.runtime.devices import choose_device

    name, offline = request.captioner or DEFAULT, request.model.offline
    missing = request.dry_run and not offline and not is_here(name)
    if missing:
        console.say(f"the captioner {name} is not on this machine yet: to download; its caption goes before the prompt")
    return Captioner(name, choose_device(request.model.device), offline or request.dry_run, silent=missing)
