"""Generators that yield events and return a result."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, TypeVar

Event = TypeVar("Event")
Result = TypeVar("Result")
Item = TypeVar("Item")


class Returning(Generic[Event, Result]):
    """Iterates over a generator; afterwards `value` is what it returned."""

    value: Result

    def __init__(self, events: Generator[Event, Any, Result]) -> None:
        self.events = events

    def __iter__(self) -> Iterator[Event]:
        self.value = yield from self.events


def drain(events: Generator[Event, Any, Result], follow: Callable[[Event], object] = lambda _: None) -> Result:
    """Run a generator to its end, calling `follow` with each event; returns what it returns."""
    returning = Returning(events)
    for event in returning:
        follow(event)
    return returning.value


def lag(items: Iterable[Item], count: int) -> Iterator[Item]:
    """The same items, each after `count` more have been taken from where they come."""
    taken: deque[Item] = deque()
    for item in items:
        taken.append(item)
        if len(taken) > count:
            yield taken.popleft()
    yield from taken
