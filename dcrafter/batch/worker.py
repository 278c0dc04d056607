"""Makes videos, block by block, with models that are opened once. Runs in this process or in a worker elsewhere."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dcrafter import estimate
from dcrafter.batch.items import Item
from dcrafter.config import Command
from dcrafter.errors import DCrafterError, InputError, OutOfMemoryError, UsageError, WeightsError
from dcrafter.media.fetch import public_name
from dcrafter.pipeline import Decoding, Done, Event, Loading, Pipeline, Prepared, Step, Video, free_memory
from dcrafter.settings import Settings

if TYPE_CHECKING:
    from dcrafter.media.image import ImageSource

BLOCK = 16  # videos that are encoded together: a few megabytes each
Key = tuple[str, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Models:
    """How models are opened, and how often an item is tried again. See `Pipeline.from_pretrained`.

    `command` is what a checkpoint is taken to be made for, where it does not tell.
    """

    checkpoint: Path | None = None
    model_config: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    compile: bool = False
    offline: bool = False
    command: Command = "animate"
    retries: int = 0


@dataclass(frozen=True)
class Task:
    """An item that is to be made now. `pictures` are the contents of its files, `inputs` their SHA-256."""

    item: Item
    settings: Settings
    pictures: tuple[bytes, ...] = field(repr=False)
    inputs: tuple[str, ...]
    caption: str = ""
    captioner: str = ""

    @property
    def key(self) -> Key:
        return self.item.key


@dataclass(frozen=True)
class Working:
    """An item is being worked on: `done` of `total` of a phase, on worker number `worker` (from 0)."""

    key: Key
    phase: str  # waiting, encoding, loading, sampling or decoding
    done: int = 0
    total: int = 1
    worker: int = 0


@dataclass(frozen=True, eq=False)
class Made:
    key: Key
    video: Video
    seconds: float
    attempts: int


@dataclass(frozen=True)
class Failed:
    key: Key
    error: str
    seconds: float
    attempts: int


News = Working | Made | Failed


class Maker:
    """Opens each model when it is first needed; only one has weights in memory at a time."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._pipes: dict[str, tuple[Pipeline, int]] = {}  # with the bytes that were free before any weights
        self._current: Pipeline | None = None

    def run(self, tasks: Iterable[Task | T]) -> Generator[News | T, None, None]:
        """Makes tasks as they come, `BLOCK` at a time. What is no task passes through."""
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

    def make(self, block: Sequence[Task]) -> Iterator[News]:
        """Makes the videos of a block, model by model: news of each, up to Made or Failed.

        Raises WeightsError and UsageError where a model cannot be opened.
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
            for _ in self._current.hold():  # gives its memory back
                pass
        if model not in self._pipes:
            m = self.models
            pipe = Pipeline.from_pretrained(
                model,
                checkpoint=m.checkpoint,
                model_config=m.model_config,
                device=m.device,
                dtype=m.dtype,
                compile=m.compile,
                offline=m.offline,
                command=m.command,
            )
            self._pipes[model] = pipe, free_memory(pipe.device)
        self._current = self._pipes[model][0]
        return self._pipes[model]

    def _make(self, pipe: Pipeline, room: int, task: Task, prepared: Prepared | None, seconds: float) -> Iterator[News]:
        start = time.monotonic() - seconds
        attempt = 1
        _choose_memory(pipe, task.settings, self.models.memory, room)
        while True:
            try:
                video = yield from _generated(pipe, task, prepared)
            except Exception as error:
                prepared = None  # its noise is used up
                if OutOfMemoryError.means(error) and pipe.save_memory():
                    continue
                if isinstance(error, InputError | UsageError | WeightsError) or attempt > self.models.retries:
                    yield Failed(task.key, in_a_line(error), time.monotonic() - start, attempt)
                    return
                attempt += 1
            else:
                yield Made(task.key, video, time.monotonic() - start, attempt)
                return


def _model(task: Task) -> str:
    return task.item.model


def in_a_line(error: Exception) -> str:
    """What went wrong, for the journal."""
    if isinstance(error, DCrafterError):
        return " ".join(error.message.split())
    return " ".join(f"{type(error).__name__}: {error}".split())


def _choose_memory(pipe: Pipeline, settings: Settings, plan: str, room: int) -> None:
    """By what was free before any weights were there: the same for an item whatever came before it."""
    pipe.choose_memory(settings, plan, room)
    pipe.keeps_decoder = (
        pipe.memory == "normal" and 2 * estimate.memory(pipe.model, settings, pipe.dtype, pipe.memory) < room
    )


def _sources(task: Task) -> list[ImageSource]:
    return list(task.pictures)


def _prepare(pipe: Pipeline, tasks: list[Task]) -> Generator[News, None, list[Prepared | None]]:
    """Encodes for all tasks together; if that fails, for none: each will then find out for itself."""
    key = tasks[0].key
    yield Working(key, "encoding")
    events = pipe.prepare([(_sources(task), task.settings) for task in tasks])
    try:
        while True:
            yield from _working(key, next(events))
    except StopIteration as done:
        return list(done.value)
    except Exception:
        return [None] * len(tasks)


def _generated(pipe: Pipeline, task: Task, prepared: Prepared | None) -> Generator[News, None, Video]:
    for event in pipe.generate(_sources(task), task.settings, prepared=prepared):
        if isinstance(event, Done):
            names = [public_name(picture) for picture in task.item.pictures]
            return replace(event.video, settings={**event.video.settings, "images": names})
        yield from _working(task.key, event)
    raise AssertionError("a generation ends with Done")


def _working(key: Key, event: Event) -> Iterator[Working]:
    """An event as news that can travel: without its tensors."""
    match event:
        case Loading():
            if event.done == event.total:
                yield Working(key, "loading", 1, 1)
        case Step():
            yield Working(key, "sampling", event.index, event.total)
        case Decoding():
            yield Working(key, "decoding", event.frame, event.total)
