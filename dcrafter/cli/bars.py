"""Rows of progress on a terminal, and how long what is going on will take."""

from __future__ import annotations

import time
from collections.abc import Hashable
from types import TracebackType
from typing import TYPE_CHECKING

from dcrafter.text import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

WIDTH = 30  # of a bar, in characters


class Pace:
    """How fast something goes on, counted from `restart`."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.restart()

    def restart(self, done: float = 0) -> None:
        """Count from here: what was done before says nothing about the pace."""
        self.since, self.done = time.monotonic(), done

    def speed(self, done: float) -> float:
        """How much is done per second; 0 if nobody knows yet."""
        seconds = time.monotonic() - self.since
        return (done - self.done) / seconds if seconds > 0 else 0.0

    def left(self, done: float, total: float) -> str:
        """The time that is left, such as "0:01:30 left"; empty if nobody knows."""
        speed = self.speed(done)
        return f"{clock((total - done) / speed)} left" if speed > 0 and done < total else ""

    def elapsed(self) -> str:
        return clock(time.monotonic() - self.started)


class Bars:
    """Rows of a title, a bar, how much is done, and the time that is left or, at the end of a row, was taken."""

    def __init__(self, *, transient: bool = False) -> None:
        """`transient` rows vanish at the end."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=WIDTH),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            console=Console(stderr=True),
            redirect_stdout=False,
            transient=transient,
        )
        self.rows: dict[Hashable, TaskID] = {}

    def show(self, row: Hashable, title: str, done: float, total: float | None, count: str, left: str = "") -> None:
        """Draw a row, at the end if it is new. Without a total the bar only moves."""
        if row not in self.rows:
            self.rows[row] = self.progress.add_task("", count="", left="")
        self.progress.update(
            self.rows[row], description=printable(title), completed=done, total=total, count=printable(count), left=left
        )

    def clear(self) -> None:
        """Remove all rows."""
        for task in self.rows.values():
            self.progress.remove_task(task)
        self.rows.clear()

    def print(self, text: str, *, whole: bool = False) -> None:
        """A line above the rows, wrapped at words unless it is to stay `whole`."""
        self.progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=whole)

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
