"""Generate videos block by block with models that are opened once, in this process or in a remote one."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from dcrafter.batch.items import Item
from dcrafter.config import Command
from dcrafter.errors import InputError, UsageError, WeightsError, to_dcrafter_error
from dcrafter.events import Decoding, Done, Event, Loading, Step, Video
from dcrafter.generators import Returning
from dcrafter.media.fetch import public_name
from dcrafter.pipeline import Pipeline, Prepared
from dcrafter.runtime import estimate
from dcrafter.runtime.devices import free_memory
from dcrafter.settings import ModelOptions, Settings

BLOCK = 16  # videos that are encoded together: a few megabytes each
Key = tuple[str, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Models:
    """How models are opened, and how often an item is tried again.

    `command` is what a checkpoint is taken to be made for, where it does not tell.
    """

    options: ModelOptions = ModelOptions()
    command: Command = "animate"
    retries: int = 0


@dataclass(frozen=True)
class Task:
    """An item to generate now. `images` are the contents of its files, `inputs` their SHA-256."""

    item: Item
    settings: Settings
    images: tuple[bytes, ...] = field(repr=False)
    inputs: tuple[str, ...]
    caption: str = ""
    captioner: str = ""

    @property
    def key(self) -> Key:
        return self.item.key


@dataclass(frozen=True)
class Progress:
    """An item is at step `done` of `total` of a phase, on worker number `worker` (from 0)."""

    key: Key
    phase: str  # waiting, encoding, loading, sampling or decoding
    done: int = 0
    total: int = 1
    worker: int = 0


@dataclass(frozen=True, eq=False)
class Result:
    """A task's video, or without one the error."""

    key: Key
    video: Video | None
    seconds: float
    attempts: int
    error: str = ""


WorkerEvent = Progress | Result


def block_size(left: int, workers: int) -> int:
    """How many of the tasks that are left one of several workers takes: few at the end, so that all finish together."""
    return max(1, min(BLOCK, math.ceil(left / (2 * workers))))


class Worker:
    """Opens each model when first needed; only one has its weights in memory at a time."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._pipes: dict[str, tuple[Pipeline, int]] = {}  # with the bytes that were free before any weights
        self._current: Pipeline | None = None

    def run(self, tasks: Iterable[Task | T]) -> Generator[WorkerEvent | T, None, None]:
        """Generate tasks as they come, `BLOCK` at a time. Anything else passes through."""
        block: list[Task] = []
        for each in tasks:
            if isinstance(each, Task):
                block.append(each)
            else:
                yield each
            if len(block) == BLOCK:
                yield from self.make(block)
                block.clear()
        yield from self.make(block)

    def make(self, block: Sequence[Task]) -> Iterator[WorkerEvent]:
        """Generate a block of videos, model by model: progress of each, then its Result.

        Raises:
            WeightsError, UsageError: A model cannot be opened.
        """
        for model, group in itertools.groupby(sorted(block, key=_model), key=_model):
            tasks = list(group)
            pipe, room = self._open(model)
            start = time.monotonic()
            prepared = yield from _prepare(pipe, tasks)
            share = (time.monotonic() - start) / len(tasks)
            for task, ready in zip(tasks, prepared, strict=True):
                yield from self._make(pipe, room, task, ready, share)

    def _open(self, model: str) -> tuple[Pipeline, int]:
        if self._current is not None and self._current is not self._pipes.get(model, (None,))[0]:
            self._current.residency.release()
        if model not in self._pipes:
            pipe = Pipeline.from_pretrained(model, command=self.models.command, **self.models.options.loading())
            self._pipes[model] = pipe, free_memory(pipe.device)
        self._current = self._pipes[model][0]
        return self._pipes[model]

    def _make(
        self, pipe: Pipeline, room: int, task: Task, prepared: Prepared | None, seconds: float
    ) -> Iterator[WorkerEvent]:
        start = time.monotonic() - seconds
        attempt = 1
        _choose_memory(pipe, task.settings, self.models.options.memory, room)

        def generate() -> Generator[Event, None, None]:
            nonlocal prepared
            mine, prepared = prepared, None  # its noise is used up by one attempt
            yield from pipe.generate([*task.images], task.settings, prepared=mine)

        while True:
            try:
                video = yield from _generated(task, pipe.residency.retry_with_less(generate))
            except Exception as error:
                if isinstance(error, InputError | UsageError | WeightsError) or attempt > self.models.retries:
                    yield Result(task.key, None, time.monotonic() - start, attempt, to_dcrafter_error(error).message)
                    return
                attempt += 1
            else:
                yield Result(task.key, video, time.monotonic() - start, attempt)
                return


def _model(task: Task) -> str:
    return task.item.model


def _choose_memory(pipe: Pipeline, settings: Settings, plan: str, room: int) -> None:
    """By what was free before any weights were there: the same for an item whatever came before it."""
    residency = pipe.residency
    residency.choose_plan(settings, plan, room)
    need = estimate.memory(pipe.model, settings, pipe.dtype, residency.plan, pipe.device)
    residency.keep_decoder = residency.plan == "normal" and 2 * need < room


def _prepare(pipe: Pipeline, tasks: list[Task]) -> Generator[WorkerEvent, None, list[Prepared | None]]:
    """Encode for all tasks together. If that fails return None for each, so that each fails or not by itself."""
    key = tasks[0].key
    yield Progress(key, "encoding")
    events = Returning(pipe.prepare([([*task.images], task.settings) for task in tasks]))
    try:
        for event in events:
            yield from _progress(key, event)
    except Exception:
        return [None] * len(tasks)
    return [*events.value]


def _generated(task: Task, events: Iterator[Event]) -> Generator[WorkerEvent, None, Video]:
    for event in events:
        if isinstance(event, Done):
            names = [public_name(image) for image in task.item.images]
            return replace(event.video, settings={**event.video.settings, "images": names})
        yield from _progress(task.key, event)
    raise AssertionError("a generation ends with Done")


def _progress(key: Key, event: Event) -> Iterator[Progress]:
    """The pipeline's event without its tensors, to be sent between processes."""
    match event:
        case Loading():
            if event.done == event.total:
                yield Progress(key, "loading", 1, 1)
        case Step():
            yield Progress(key, "sampling", event.index, event.total)
        case Decoding():
            yield Progress(key, "decoding", event.frame, event.total)
