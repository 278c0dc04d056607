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
    from dcrafter.batch.maker import Working
    from dcrafter.batch.runner import Outcome

EVERY = 10.0  # seconds between lines on one item


class View(Protocol):
    def working(self, item: Item, news: Working) -> None: ...

    def outcome(self, outcome: Outcome, path: str | None) -> None:
        """An item's end, and what is to go to stdout of it."""


@contextmanager
def view(console: Console, total: int) -> Iterator[View]:
    """How `total` items are shown while the block runs."""
    if console.quiet or not console.is_terminal:
        yield _Lines(console, total)
        return
    bars = _Bars(console, total)
    with bars.progress:
        yield bars


class _Tally:
    """How many items are behind us, and how long the rest may take."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.made = total, 0, 0
        self.start: float | None = None  # of the first work: looking for what is done already takes no time

    def begin(self, news: Working) -> None:
        if self.start is None and news.phase != "waiting":
            self.start = time.monotonic()

    def count(self, outcome: Outcome) -> None:
        self.done += 1
        self.made += outcome.status == "done"

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

    def left(self, news: Working) -> str:
        if (news.key, news.phase) != self.what:
            self.what, self.since = (news.key, news.phase), time.monotonic()
        if not 0 < news.done < news.total:
            return ""
        return f"{clock((time.monotonic() - self.since) / news.done * (news.total - news.done))} left"


class _Lines:
    def __init__(self, console: Console, total: int) -> None:
        self.console, self.tally = console, _Tally(total)
        self.phases: dict[int, _Phase] = {}

    def working(self, item: Item, news: Working) -> None:
        self.tally.begin(news)
        phase = self.phases.setdefault(news.worker, _Phase())
        left = phase.left(news)
        if news.phase == "sampling" and time.monotonic() - phase.told > EVERY:
            phase.told = time.monotonic()
            self.console.say(", ".join(filter(None, [f"{item.title}: sampling {news.done}/{news.total}", left])))

    def outcome(self, outcome: Outcome, path: str | None) -> None:
        self.tally.count(outcome)
        words = [f"[{self.tally.done}/{self.tally.total}] {outcome.item.title}: {said(outcome)}", self.tally.left()]
        self.console.say(", ".join(filter(None, words)))
        if path is not None:
            self.console.result(path)


class _Bars:
    def __init__(self, console: Console, total: int) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TaskID, TextColumn

        self.console, self.tally = console, _Tally(total)
        self.phases: dict[int, _Phase] = {}
        self.workers: dict[int, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
            console=RichConsole(stderr=True),
            redirect_stdout=False,
        )
        self.all = self.progress.add_task("batch", total=total, left="")

    def working(self, item: Item, news: Working) -> None:
        from rich.markup import escape

        self.tally.begin(news)
        left = self.phases.setdefault(news.worker, _Phase()).left(news)
        if news.worker not in self.workers:
            self.workers[news.worker] = self.progress.add_task("", total=1, left="")
        words = f"{item.title[-30:]} {news.phase}"
        if len(self.workers) > 1:
            words = f"{news.worker + 1}: {words}"
        task = self.workers[news.worker]
        self.progress.update(task, description=escape(words), completed=news.done, total=news.total, left=left)

    def outcome(self, outcome: Outcome, path: str | None) -> None:
        self.tally.count(outcome)
        self.progress.update(self.all, completed=self.tally.done, left=self.tally.left())
        if outcome.status == "failed":
            self._print(f"{outcome.item.title}: {said(outcome)}")
        if path is None:
            return
        if sys.stdout.isatty():  # the same terminal, where lines have to go above the bars
            self._print(path)
        else:
            self.console.result(path)

    def _print(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def said(outcome: Outcome) -> str:
    """An outcome in words."""
    match outcome.status:
        case "done":
            return f"done in {outcome.record.seconds:.1f} s"
        case "skipped":
            return "done already"
        case "failed":
            return f"failed: {outcome.record.error}"
