"""A transfer's progress: one bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from dcrafter.cli.console import Console
from dcrafter.generators import drain
from dcrafter.weights.cache import Progress
from dcrafter.weights.families import PUBLISHED

T = TypeVar("T")
LINES = 10  # a phase, without a terminal


def acquire(model: str, console: Console, *, offline: bool) -> None:
    """Has a model's file on this machine: tells what is missing and fetches it. Raises WeightsError if it cannot be."""
    from dcrafter.weights import hub

    if model in PUBLISHED and hub.find(model) is None and not offline:
        console.say(hub.announcement(model))
    follow(hub.acquire(model, hub.DownloadOptions(offline=offline)), console, model)


def follow(steps: Generator[Progress, None, T], console: Console, what: str = "") -> T:
    """Run `steps` to their end while the user sees how far they are; returns what they return."""
    show, stop = _lines(console, what) if console.quiet or not console.is_terminal else _bar(what)
    try:
        return drain(steps, show)
    finally:
        steps.close()
        stop()


_View = tuple[Callable[[Progress], None], Callable[[], None]]


def _lines(console: Console, what: str) -> _View:
    last = ("", 0)

    def show(step: Progress) -> None:
        nonlocal last
        line = (step.phase, LINES * step.done // step.total if step.total else 0)
        if line == last or (line[0] != "downloading" and line[0] == last[0]):
            return
        last = line
        amount = f" {step.done / 1e9:.1f}/{step.total / 1e9:.1f} GB" if line[0] == "downloading" else ""
        console.say(" ".join(filter(None, [f"{what}:" if what else "", step.phase])) + amount)

    return show, lambda: None


def _bar(what: str) -> _View:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=RichConsole(stderr=True),
        redirect_stdout=False,
        transient=True,
    )
    task = bars.add_task(what, total=None)
    phase = ""

    def show(step: Progress) -> None:
        nonlocal phase
        total = step.total or None
        if step.phase != phase:  # what came in an earlier run is no speed
            phase = step.phase
            bars.reset(task, description=f"{what} {phase}".strip(), total=total, completed=step.done)
        bars.update(task, completed=step.done, total=total)

    bars.start()
    return show, bars.stop
