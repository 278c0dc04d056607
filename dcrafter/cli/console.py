"""What the user sees: results on stdout, everything else on stderr, as bars on a terminal and as lines elsewhere."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from dcrafter import interrupts
from dcrafter.errors import WriteError

if TYPE_CHECKING:
    from dcrafter.cli.preview import Preview
    from dcrafter.events import Event, Video

logger = logging.getLogger("dcrafter")


class Console:
    """One command's words to its user."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        """`quiet` leaves errors only; `verbose` lets the libraries' warnings through, and `app.main`'s tracebacks."""
        self.quiet = quiet
        self.is_terminal = sys.stderr.isatty()
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
            print(text, file=sys.stderr, flush=True)

    def result(self, text: str) -> None:
        """A line on stdout, at once. A file name that is no valid Unicode comes out as it is."""
        self.result_bytes((text + "\n").encode(sys.stdout.encoding, "surrogateescape"))

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

    def follow(
        self, events: Iterable[Event], steps: int, preview: Preview | None = None
    ) -> tuple[Video, dict[str, float]]:
        """Show a generation's progress; returns its video, and the seconds each phase took.

        The first Ctrl-C ends the generation behind the event that is under way, the second at once, both as
        KeyboardInterrupt.
        """
        from dcrafter.events import Decoding, Done, Encoding, Loading, MemoryDowngraded, Part, Step

        clock = _Clock()
        with self._view(preview) as view, self.interruptible() as interrupted:
            for event in events:
                if interrupted():
                    raise KeyboardInterrupt
                match event:
                    case MemoryDowngraded():
                        clock = _Clock()
                        view.begin(f"not enough memory; once more with --memory {event.plan}")
                    case Part():
                        view.begin(f"part {event.index}/{event.total}")
                    case Encoding():
                        clock.to("encoding")
                    case Loading():
                        clock.to("loading")
                        view.show("loading", event.done, event.total, event.component.replace("_", " "))
                        if event.component == "unet" and event.done == event.total:
                            clock.to("sampling")
                            view.show("sampling", 0, steps)  # the time of the first step counts
                    case Step():
                        view.show("sampling", event.index, event.total)
                        if preview is not None:
                            preview.update(event.x0)
                    case Decoding():
                        clock.to("decoding")
                        view.show("decoding", event.frame, event.total)
                    case Done():
                        return event.video, clock.stop()
        raise AssertionError("a generation ends with Done")

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

    @contextmanager
    def _view(self, preview: Preview | None) -> Iterator[_View]:
        if self.quiet or not self.is_terminal:
            yield _Lines(self)
            return
        from rich.console import Group
        from rich.live import Live

        bars = _Bars()
        shown = Group(preview, bars.progress) if preview else bars.progress
        rate = 2 if preview else 10  # a picture is sent anew each time
        with Live(shown, console=bars.progress.console, redirect_stdout=False, refresh_per_second=rate):
            yield bars


class _View(Protocol):
    def begin(self, title: str) -> None: ...

    def show(self, phase: str, done: int, total: int, what: str = "") -> None: ...


_LINES = {"loading": 1, "sampling": 10, "decoding": 4}


class _Lines:
    """A line when a phase begins, then as many more as _LINES says."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.line = ("", 0)
        self.since = 0.0

    def begin(self, title: str) -> None:
        self.line = ("", 0)
        self.console.say(title)

    def show(self, phase: str, done: int, total: int, what: str = "") -> None:
        if done == 0:
            self.since = time.monotonic()
            return
        line = (phase, _LINES[phase] * done // total)
        if line == self.line or (phase == "loading" == self.line[0]):
            return
        self.line = line
        if phase == "loading":
            self.console.say("loading")
            return
        left = (time.monotonic() - self.since) / done * (total - done)
        estimate = f", {clock(left)} left" if phase == "sampling" and done < total else ""
        self.console.say(f"{phase} {done}/{total}{estimate}")


class _Bars:
    """A bar a phase, with the time that is left."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=RichConsole(stderr=True),
            redirect_stdout=False,
            speed_estimate_period=3600,  # a single step may take minutes
        )
        self.tasks: dict[str, TaskID] = {}

    def begin(self, title: str) -> None:
        for task in self.tasks.values():  # bars of many parts would push the running one off the terminal
            self.progress.remove_task(task)
        self.tasks.clear()
        self.progress.console.print(title, highlight=False)

    def show(self, phase: str, done: int, total: int, what: str = "") -> None:
        if phase not in self.tasks:
            self.tasks[phase] = self.progress.add_task(f"{phase:8}", total=total, count="")
            self.progress.advance(self.tasks[phase], 0)  # where the estimate begins, so that one step is enough
        count = f"{what} {total / 1e6:.1f} M values" if what else f"{done}/{total}"
        self.progress.update(self.tasks[phase], completed=done, total=total, count=count)


class _Warnings(logging.Handler):
    """Our own warnings, one line each, on what is stderr at that moment: bars put theirs in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"dcrafter: {self.format(record)}", file=sys.stderr, flush=True)


class _Clock:
    """Adds up the time between words for what is being done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.phase, self.since = "encoding", time.monotonic()

    def to(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now

    def stop(self) -> dict[str, float]:
        self.to("")
        return self.seconds


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
