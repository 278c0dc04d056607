"""How a batch's progress is shown: a bar for all and one a worker on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from dcrafter.cli.bars import Bars, Pace, clock
from dcrafter.cli.console import Console

if TYPE_CHECKING:
    from dcrafter.batch.items import Item
    from dcrafter.batch.journal import Record
    from dcrafter.batch.worker import Progress

EVERY = 10.0  # seconds between lines on one item


class View(Protocol):
    def progress(self, item: Item, progress: Progress) -> None: ...

    def record(self, item: Item, record: Record, line: str | None) -> None:
        """Show an item's end. `line` goes to stdout."""


@contextmanager
def view(console: Console, total: int) -> Iterator[View]:
    """How `total` items are shown while the block runs."""
    if console.quiet or not console.is_terminal:
        yield _Lines(console, total)
        return
    with Bars() as bars:
        yield _Rows(console, bars, total)


class _Tally:
    """How many items are behind us, and how long the rest may take."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.made = total, 0, 0
        self.start: float | None = None  # of the first work: looking for what is done already takes no time

    def begin(self, progress: Progress) -> None:
        if self.start is None and progress.phase != "waiting":
            self.start = time.monotonic()

    def count(self, record: Record) -> None:
        self.done += 1
        self.made += record.status == "done"

    def left(self) -> str:
        """In hours, minutes and seconds; empty if nobody knows."""
        if not self.made or self.start is None or self.done == self.total:
            return ""
        return f"{clock((time.monotonic() - self.start) / self.made * (self.total - self.done))} left"


class _Phase:
    """What a worker is at."""

    def __init__(self) -> None:
        self.what: tuple[object, str] = (None, "")
        self.pace = Pace()
        self.told = time.monotonic()

    def left(self, progress: Progress) -> str:
        if (progress.key, progress.phase) != self.what:
            self.what = (progress.key, progress.phase)
            self.pace.restart(progress.done)
        return self.pace.left(progress.done, progress.total)


class _Lines:
    def __init__(self, console: Console, total: int) -> None:
        self.console, self.tally = console, _Tally(total)
        self.phases: dict[int, _Phase] = {}

    def progress(self, item: Item, progress: Progress) -> None:
        self.tally.begin(progress)
        phase = self.phases.setdefault(progress.worker, _Phase())
        left = phase.left(progress)
        if progress.phase == "sampling" and time.monotonic() - phase.told > EVERY:
            phase.told = time.monotonic()
            self.console.say(
                ", ".join(filter(None, [f"{item.title}: sampling {progress.done}/{progress.total}", left]))
            )

    def record(self, item: Item, record: Record, line: str | None) -> None:
        self.tally.count(record)
        words = [f"[{self.tally.done}/{self.tally.total}] {item.title}: {describe(record)}", self.tally.left()]
        self.console.say(", ".join(filter(None, words)))
        if line is not None:
            self.console.result(line)


class _Rows:
    """A row for all items, and one per worker."""

    def __init__(self, console: Console, bars: Bars, total: int) -> None:
        self.console, self.bars, self.tally = console, bars, _Tally(total)
        self.phases: dict[int, _Phase] = {}
        self._show_all()

    def _show_all(self) -> None:
        done, total = self.tally.done, self.tally.total
        self.bars.show("all", "batch", done, total, f"{done}/{total}", self.tally.left())

    def progress(self, item: Item, progress: Progress) -> None:
        self.tally.begin(progress)
        left = self.phases.setdefault(progress.worker, _Phase()).left(progress)
        title = f"{item.title[-30:]} {progress.phase}"
        if len(self.phases) > 1:
            title = f"{progress.worker + 1}: {title}"
        count = f"{progress.done}/{progress.total}"
        self.bars.show(progress.worker, title, progress.done, progress.total, count, left)

    def record(self, item: Item, record: Record, line: str | None) -> None:
        self.tally.count(record)
        self._show_all()
        if record.error:
            self.bars.print(f"{item.title}: {describe(record)}")
        if line is None:
            return
        if sys.stdout.isatty():  # the same terminal, where lines have to go above the bars
            self.bars.print(line, whole=True)
        else:
            self.console.result(line)


def describe(record: Record) -> str:
    """What became of an item, for people."""
    match record.status:
        case "done":
            return f"done in {record.seconds:.1f} s"
        case "skipped":
            return record.error or "done already"
        case "failed":
            return f"failed: {record.error}"
