"""What can go wrong, each with what to do about it and the exit status the command line gives it."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dcrafter.text import printable, write_line

INTERRUPTED = 130  # the exit status behind Ctrl-C
UNREAD = 141  # that of what writes to a pipe whose reader has gone, as behind `| head -1`
LONGEST_MESSAGE = 1000  # characters: values out of files and the environment may have millions
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class DCrafterError(Exception):
    """Anything this package refuses or fails at.

    `message` says in one line what happened, `advice` what to do about it (may be empty).
    """

    exit_status = 1

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.advice = printable(advice)

    def __str__(self) -> str:
        return f"{self.message}. {self.advice}" if self.advice else self.message


class UsageError(DCrafterError):
    """An option, or a combination of options, that has no meaning."""

    exit_status = 2


class InputError(DCrafterError):
    """A picture, video or text that cannot be read."""

    exit_status = 2


class OutputError(DCrafterError):
    """A place that cannot be written to, or must not be."""

    exit_status = 2


class WriteError(OutputError):
    """Writing began and failed, as on a full disk."""

    exit_status = 1

    @classmethod
    def means(cls, error: BaseException | None) -> bool:
        """True if an exception, or one that it comes from, says that there is no room left."""
        while error is not None:
            if isinstance(error, OSError) and error.errno in _FULL:
                return True
            error = error.__cause__
        return False


class WeightsError(DCrafterError):
    """Weights that are missing, unreachable, damaged, unsafe or of another model."""

    exit_status = 4


class BatchError(DCrafterError):
    """Some items of a batch could not be made; the others were."""

    exit_status = 3


class OutOfMemoryError(DCrafterError):
    """The device, or the machine, has less memory than the work needs."""

    exit_status = 5

    @classmethod
    def means(cls, error: BaseException) -> bool:
        """Whether an exception, of any library, says that memory ran out."""
        if isinstance(error, cls | MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        return re.search("out of memory|can't allocate memory", str(error)) is not None


class NumericalError(DCrafterError):
    """A component gave NaN or infinite values, in float32 too."""


def to_dcrafter_error(error: Exception) -> DCrafterError:
    """An exception as one of ours: itself if it is, else with its type and, where there is any, advice."""
    if isinstance(error, DCrafterError):
        return error
    if OutOfMemoryError.means(error):
        return OutOfMemoryError(
            "not enough memory",
            "--memory min, smaller --width and --height, or --dtype float16 help, and closing other programs",
        )
    return DCrafterError(f"unexpected {type(error).__name__}: {error}", "Run again with -v for its traceback")


def format_error(program: str, message: str, advice: str = "") -> str:
    """An error and its advice on one line, behind the program's name."""
    message = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"
    stop = "" if not advice or message.endswith((".", "?")) else "."
    return printable(" ".join([f"{program}:", *f"{message}{stop} {advice}".split()]))


@contextmanager
def exit_on_error(program: str) -> Iterator[None]:
    """Print what is raised inside as one line on stderr, and exit with its status."""
    try:
        yield
    except DCrafterError as error:
        write_line(format_error(program, error.message, error.advice), sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        write_line(format_error(program, "interrupted"), sys.stderr)
        sys.exit(INTERRUPTED)
