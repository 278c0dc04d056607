"""A generation's progress: a row per phase on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from dcrafter.cli.bars import Bars, Pace
from dcrafter.cli.console import Console
from dcrafter.events import Decoding, Done, Encoding, Event, Loading, MemoryDowngraded, Part, Step

if TYPE_CHECKING:
    from dcrafter.cli.preview import Preview
    from dcrafter.events import Video

ENCODING, SAMPLING, DECODING, LOADING = "encoding", "sampling", "decoding", "loading"
LINES = {SAMPLING: 10, DECODING: 4}  # per phase, without a terminal


def follow(
    events: Iterable[Event], console: Console, steps: int, preview: Preview | None = None
) -> tuple[Video, dict[str, float]]:
    """Show a generation's progress.

    The first Ctrl-C ends the generation after the event that is under way, the second at once, both as
    KeyboardInterrupt.

    Args:
        events: Of the generation, up to `Done`.
        console: Where to show it.
        steps: How many it samples.
        preview: Shows what forms.

    Returns:
        The video, and the seconds that each phase took.
    """
    with _view(console, preview) as view, console.interruptible() as interrupted:
        progress = _Generation(view, steps)
        for event in events:
            if interrupted():
                raise KeyboardInterrupt
            if isinstance(event, Done):
                return event.video, progress.timings.stop()
            progress.handle(event)
            if isinstance(event, Step) and preview is not None:
                preview.update(event.x0)
    raise AssertionError("a generation ends with Done")


class _Generation:
    """Which phase a generation is in, by its events. Components are loaded within the phase that needs them."""

    def __init__(self, view: _View, steps: int) -> None:
        self.view, self.steps = view, steps
        self.timings = _Timings()
        self.begin()

    def begin(self, title: str = "") -> None:
        self.phase, self.sampled = ENCODING, False
        if title:
            self.view.begin(title)

    def handle(self, event: Event) -> None:
        match event:
            case MemoryDowngraded():
                self.timings = _Timings()
                self.begin(f"not enough memory; once more with --memory {event.plan}")
            case Part():
                self.begin(f"part {event.index}/{event.total}")
            case Encoding():
                self.timings.to(ENCODING)
                self.view.show(ENCODING, 0, None, event.what)
            case Loading():
                self._load(event)
            case Step():
                self.sampled = True
                self._show(SAMPLING, event.index, event.total)
            case Decoding():
                self._show(DECODING, event.frame, event.total)

    def _load(self, event: Loading) -> None:
        if event.component == "unet":
            self._enter(SAMPLING)
        elif self.sampled:
            self._enter(DECODING)
        self.timings.to(LOADING)
        what = f"loading {event.component.replace('_', ' ')}"
        self.view.show(self.phase, event.done, event.total, what)
        if event.done == event.total:
            self.timings.to(self.phase)
            if self.phase == SAMPLING and not self.sampled:
                self.view.show(SAMPLING, 0, self.steps)  # the time of the first step counts

    def _enter(self, phase: str) -> None:
        if phase != self.phase:
            if self.phase == ENCODING:
                self.view.show(ENCODING, 1, 1)
            self.phase = phase

    def _show(self, phase: str, done: int, total: int) -> None:
        self._enter(phase)
        self.timings.to(phase)
        self.view.show(phase, done, total)


class _View(Protocol):
    def begin(self, title: str) -> None: ...

    def show(self, phase: str, done: int, total: int | None, what: str = "") -> None:
        """`what` goes on in a phase, in place of its own work."""


@contextmanager
def _view(console: Console, preview: Preview | None) -> Iterator[_View]:
    if console.quiet or not console.is_terminal:
        yield _Lines(console)
        return
    from rich.console import Group
    from rich.live import Live

    rows = _Rows()
    shown = Group(preview, rows.bars.progress) if preview else rows.bars.progress
    rate = 2 if preview else 10  # an image is sent anew each time
    with Live(shown, console=rows.bars.progress.console, redirect_stdout=False, refresh_per_second=rate):
        yield rows


class _Lines:
    """A line when weights are first loaded, and as many in each phase as LINES says."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.loaded = False
        self.begin("")

    def begin(self, title: str) -> None:
        self.line = ("", 0)
        self.pace = Pace()
        if title:
            self.console.say(title)

    def show(self, phase: str, done: int, total: int | None, what: str = "") -> None:
        if what:
            if what.startswith(LOADING) and not self.loaded:
                self.loaded = True
                self.console.say(LOADING)
            return
        if done == 0:
            self.pace.restart()
        if done == 0 or not total or phase not in LINES:
            return
        line = (phase, LINES[phase] * done // total)
        if line != self.line:
            self.line = line
            left = self.pace.left(done, total) if phase == SAMPLING else ""
            self.console.say(", ".join(filter(None, [f"{phase} {done}/{total}", left])))


class _Rows:
    """A bar per phase: first of what is loaded for it, then of its own work."""

    def __init__(self) -> None:
        self.bars = Bars()
        self.paces: dict[str, Pace] = {}
        self.what = ""

    def begin(self, title: str) -> None:
        self.bars.clear()  # rows of many parts would push the running one off the terminal
        self.paces.clear()
        self.bars.print(title)

    def show(self, phase: str, done: int, total: int | None, what: str = "") -> None:
        pace = self.paces.setdefault(phase, Pace())
        if what != self.what or done == 0:
            self.what = what
            pace.restart(done if what else 0)
        if what:
            count = f"{what} {total / 1e6:.1f} M values" if total else what
        else:
            count = f"{done}/{total}" if phase != ENCODING else ""
        finished = total is not None and done >= total and not what
        left = pace.elapsed() if finished else pace.left(done, total or 0)
        self.bars.show(phase, f"{phase:8}", done, total, count, left)


class _Timings:
    """Adds up the time between words for what is being done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.phase, self.since = ENCODING, time.monotonic()

    def to(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now

    def stop(self) -> dict[str, float]:
        self.to("")
        return self.seconds
