"""How a batch's progress is shown: a bar for all and one a worker on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from dcrafter.cli.console import Console, clock

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
    bars = _Bars(console, total)
    with bars.bars:
        yield bars


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
        self.since = self.told = time.monotonic()

    def left(self, progress: Progress) -> str:
        if (progress.key, progress.phase) != self.what:
            self.what, self.since = (progress.key, progress.phase), time.monotonic()
        if not 0 < progress.done < progress.total:
            return ""
        return f"{clock((time.monotonic() - self.since) / progress.done * (progress.total - progress.done))} left"


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


class _Bars:
    def __init__(self, console: Console, total: int) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, TaskID, TextColumn
        from rich.progress import Progress as Bars

        self.console, self.tally = console, _Tally(total)
        self.phases: dict[int, _Phase] = {}
        self.workers: dict[int, TaskID] = {}
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
            console=RichConsole(stderr=True),
            redirect_stdout=False,
        )
        self.all = self.bars.add_task("batch", total=total, left="")

    def progress(self, item: Item, progress: Progress) -> None:
        from rich.markup import escape

        self.tally.begin(progress)
        left = self.phases.setdefault(progress.worker, _Phase()).left(progress)
        if progress.worker not in self.workers:
            self.workers[progress.worker] = self.bars.add_task("", total=1, left="")
        words = f"{item.title[-30:]} {progress.phase}"
        if len(self.workers) > 1:
            words = f"{progress.worker + 1}: {words}"
        task = self.workers[progress.worker]
        self.bars.update(task, description=escape(words), completed=progress.done, total=progress.total, left=left)

    def record(self, item: Item, record: Record, line: str | None) -> None:
        self.tally.count(record)
        self.bars.update(self.all, completed=self.tally.done, left=self.tally.left())
        if record.error:
            self._print(f"{item.title}: {describe(record)}")
        if line is None:
            return
        if sys.stdout.isatty():  # the same terminal, where lines have to go above the bars
            self._print(line)
        else:
            self.console.result(line)

    def _print(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


def describe(record: Record) -> str:
    """What became of an item, for people."""
    match record.status:
        case "done":
            return f"done in {record.seconds:.1f} s"
        case "skipped":
            return record.error or "done already"
        case "failed":
            return f"failed: {record.error}"
