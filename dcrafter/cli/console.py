"""What the user sees: results on stdout, everything else on stderr, as bars on a terminal and as lines elsewhere."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dcrafter import interrupts
from dcrafter.errors import WriteError
from dcrafter.text import printable, write_line

logger = logging.getLogger("dcrafter")
started = time.monotonic()  # when this command line was; `app.main` sets it


def can_redraw() -> bool:
    """Whether stderr is a terminal that understands more than lines."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Console:
    """One command's words to its user."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        """`quiet` leaves errors only; `verbose` lets the libraries' warnings through, and `app.main`'s tracebacks."""
        self.quiet = quiet
        self.is_terminal = can_redraw()
        logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
        logger.handlers = [_Warnings(logging.CRITICAL if quiet else logging.NOTSET)]
        if not verbose:
            warnings.simplefilter("ignore")
            logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what nobody handles
            os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # has a handler of its own; reads this at import
        if quiet:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def say(self, text: str) -> None:
        """A line on stderr, unless quiet."""
        if not self.quiet:
            write_line(text, sys.stderr)

    def result(self, text: str) -> None:
        """A line on stdout, at once. A file's name comes out as its bytes are, but for what controls a terminal."""
        line = printable(text) if sys.stdout.isatty() else text
        try:
            content = line.encode(sys.stdout.encoding, "surrogateescape")
        except UnicodeEncodeError:  # the locale has no such letters, but the file system does
            content = os.fsencode(line)
        self.result_bytes(content + b"\n")

    def result_json(self, **values: Any) -> None:
        self.result(json.dumps(values))

    def result_bytes(self, content: bytes) -> None:
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again when it ends
            raise WriteError(f"cannot write to stdout ({error.strerror})", "Write to a file with -o") from error

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """A spinner while the block runs, on a terminal."""
        if self.quiet or not self.is_terminal:
            yield
            return
        from rich.console import Console as RichConsole

        with RichConsole(stderr=True).status(text):
            yield

    @contextmanager
    def interruptible(self) -> Iterator[Callable[[], bool]]:
        """Inside, the first Ctrl-C (or SIGTERM, SIGHUP) only makes the function that it gives true.

        In a thread, and for signals that are ignored, nothing changes.
        """
        asked: list[int] = []

        def ask(number: int, frame: FrameType | None) -> None:
            if asked:
                signal.default_int_handler(number, frame)
            asked.append(number)
            self.say("stopping after this step; Ctrl-C again stops at once")

        with interrupts.handled(ask):
            yield lambda: bool(asked)


class _Warnings(logging.Handler):
    """Our own warnings, one line each, on what is stderr at that moment: bars put theirs in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        write_line(f"dcrafter: {self.format(record)}", sys.stderr)
