"""Signals that ask a process to end: Ctrl-C, and what schedulers, containers and closing terminals send."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Handler = Callable[[int, FrameType | None], object]


def install() -> None:
    """From now on each of `SIGNALS` raises KeyboardInterrupt, unless it is ignored (as with nohup)."""
    _set(signal.default_int_handler)


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Inside, `handler` is called for each of `SIGNALS` that is not ignored. In a thread nothing changes."""
    before = _set(handler) if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _set(handler: Handler) -> dict[int, Any]:
    """Set a handler for all signals that are not ignored, or handled outside of Python; returns the earlier ones."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: earlier for number, earlier in before.items() if earlier not in (signal.SIG_IGN, None)}
    terminals = {file for file in (1, 2) if os.isatty(file)}

    def handle(number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            _let_go(terminals)
        handler(number, frame)

    for number in before:
        signal.signal(number, handle)
    return before


def _let_go(terminals: set[int]) -> None:
    """Write nothing more to terminals, which are closed: each write would raise an error."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for file in terminals:
        os.dup2(nothing, file)
    os.close(nothing)
