"""A download's progress: one bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from dcrafter.cli.bars import Bars, Pace
from dcrafter.cli.console import Console
from dcrafter.generators import drain
from dcrafter.weights.cache import Progress
from dcrafter.weights.families import PUBLISHED

T = TypeVar("T")
LINES = 10  # per phase, without a terminal
DOWNLOADING = "downloading"


def acquire(model: str, console: Console, *, offline: bool) -> None:
    """Have a model's file on this machine: say what is missing and fetch it. Raises WeightsError if that fails."""
    from dcrafter.weights import hub

    if model in PUBLISHED and hub.find(model) is None and not offline:
        console.say(hub.announcement(model))
    follow(hub.acquire(model, hub.DownloadOptions(offline=offline)), console, model)


def acquire_towers(console: Console) -> None:
    """Download CLIP's towers for a checkpoint without. Raises WeightsError if that fails."""
    from dcrafter.weights import hub, towers

    follow(towers.acquire(hub.DownloadOptions()), console, "CLIP's towers")


def follow(steps: Generator[Progress, None, T], console: Console, what: str = "") -> T:
    """Run `steps` to their end while the user sees how far they are; returns what they return."""
    with _view(console, what) as view:
        try:
            return drain(steps, view.show)
        finally:
            steps.close()


class _View(Protocol):
    def show(self, step: Progress) -> None: ...


@contextmanager
def _view(console: Console, what: str) -> Iterator[_View]:
    if console.quiet or not console.is_terminal:
        yield _Lines(console, what)
        return
    with Bars(transient=True) as bars:
        yield _Bar(bars, what)


class _Lines:
    def __init__(self, console: Console, what: str) -> None:
        self.console, self.what = console, what
        self.last = ("", 0)

    def show(self, step: Progress) -> None:
        line = (step.phase, LINES * step.done // step.total if step.total else 0)
        if line == self.last or (step.phase != DOWNLOADING and step.phase == self.last[0]):
            return
        self.last = line
        amount = _amount(step) if step.phase == DOWNLOADING else ""
        self.console.say(" ".join(filter(None, [f"{self.what}:" if self.what else "", step.phase, amount])))


class _Bar:
    def __init__(self, bars: Bars, what: str) -> None:
        self.bars, self.what = bars, what
        self.phase = ""
        self.pace = Pace()

    def show(self, step: Progress) -> None:
        if step.phase != self.phase:
            self.phase = step.phase
            self.pace.restart(step.done)  # what came in an earlier run is no speed
        title = f"{self.what} {step.phase}".strip()
        count = f"{_amount(step)}, {self.pace.speed(step.done) / 1e6:.1f} MB/s" if step.total else ""
        self.bars.show("transfer", title, step.done, step.total or None, count, self.pace.left(step.done, step.total))


def _amount(step: Progress) -> str:
    return f"{step.done / 1e9:.1f}/{step.total / 1e9:.1f} GB"
