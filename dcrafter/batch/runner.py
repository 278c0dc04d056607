"""Runs a batch: decides item by item what is left to do, has it made, and keeps the results."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from dcrafter.batch.items import Item
from dcrafter.batch.journal import Record
from dcrafter.batch.maker import Failed, Key, Made, Models, News, Task, Working, in_a_line
from dcrafter.batch.manifest import fail
from dcrafter.batch.store import Store
from dcrafter.captioner import Captioner
from dcrafter.config import ModelConfig
from dcrafter.errors import InputError, UsageError
from dcrafter.media.fetch import fetch, is_url
from dcrafter.media.image import open_image
from dcrafter.settings import Settings, resolve
from dcrafter.weights import hub
from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint

MAX_BYTES = 1_000_000_000  # of a picture's file
WRITING = 2  # videos that may wait to be written


@dataclass(frozen=True)
class Outcome:
    """What became of an item in this run; its record says the rest."""

    item: Item
    status: Literal["done", "failed", "skipped"]
    record: Record


Engine = Callable[[Iterator[Outcome | Task]], Generator[Outcome | News, None, None]]
"""Makes tasks, which it takes as it has room for them, and tells of each until it is Made or Failed. Outcomes among
them pass through."""


class Weights:
    """What can be known of models before they are used: their configuration, and a name for their content."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._opened: dict[str, Checkpoint | None] = {}

    def config(self, model: str) -> ModelConfig:
        opened = self._open(model) if self.models.checkpoint else None
        return opened.config if opened else hub.config(model)

    def fingerprint(self, model: str) -> str:
        """Empty for a model that is not here yet."""
        opened = self._open(model)
        return opened.fingerprint if opened else ""

    def _open(self, model: str) -> Checkpoint | None:
        if model not in self._opened:
            given = self.models.checkpoint
            path = given or hub.find(model)
            self._opened[model] = None
            if path:
                self._opened[model] = open_checkpoint(
                    path,
                    model=None if given and model == "auto" else model,
                    model_config=self.models.model_config,
                    command=self.models.command,
                )
        return self._opened[model]


@dataclass(frozen=True, eq=False)
class Batch:
    """Items, each with its model named, how they are made, and where they go."""

    items: Sequence[Item]
    store: Store
    weights: Weights
    resume: bool = True
    fail_fast: bool = False
    turned: bool = True  # portraits turn the model's size
    captioner: Captioner | None = None

    def check(self) -> list[Settings]:
        """Each item's settings, as far as they are known before its pictures are read.

        Raises UsageError where items ask for what their model cannot do, OutputError where outputs cannot be.
        """
        settings, errors = [], []
        for item in self.items:
            try:
                settings.append(self._settings(item))
            except UsageError as error:
                errors.append(f"{item.where or item.title}: {error.message}")
        fail(errors)
        self.store.check(self.items)
        return settings

    def plan(self) -> Iterator[Outcome | Task]:
        """Each item as what there is to do for it, or as what became of it already. Writes nothing."""
        for item in self.items:
            yield self._look_at(item)

    def run(self, engine: Engine) -> Generator[Outcome | Working, None, None]:
        """Has everything made that is left to do: news, and an Outcome for each item.

        Closing the generator ends the work; what is made by then is kept.
        """
        with self.store, closing(self._run(engine)) as news:
            for each in news:
                yield each
                if self.fail_fast and isinstance(each, Outcome) and each.status == "failed":
                    return

    def _run(self, engine: Engine) -> Generator[Outcome | Working, None, None]:
        under_way: dict[Key, Task] = {}
        writing: deque[tuple[Item, Future[Record]]] = deque()  # while the next video is made
        with ThreadPoolExecutor(1, "writer") as writer, closing(engine(self._planned(under_way))) as news:
            for each in news:
                match each:
                    case Made():
                        task = under_way.pop(each.key)
                        writing.append((task.item, writer.submit(self.store.keep, task, each)))
                    case Failed():
                        task = under_way.pop(each.key)
                        record = self.store.failed(
                            task.item, each.error, seconds=each.seconds, attempts=each.attempts, inputs=task.inputs
                        )
                        self.store.journal.append(record)
                        yield Outcome(task.item, "failed", record)
                    case Outcome(status="failed"):
                        self.store.journal.append(each.record)
                        yield each
                    case _:
                        yield each
                del each  # a video is large
                while writing and (writing[0][1].done() or len(writing) > WRITING):
                    yield _written(*writing.popleft())
            while writing:
                yield _written(*writing.popleft())

    def _planned(self, under_way: dict[Key, Task]) -> Iterator[Outcome | Task]:
        for each in self.plan():
            if isinstance(each, Task):
                under_way[each.key] = each
            yield each

    def _look_at(self, item: Item) -> Outcome | Task:
        """Reads an item's pictures, and compares it with the journal."""
        inputs: list[str] = []
        try:
            if item.problem:
                raise InputError(item.problem)
            contents = tuple(_read(picture, self.weights.models.offline) for picture in item.pictures)
            inputs += [hashlib.sha256(content).hexdigest() for content in contents]
            pictures = [open_image(content) for content in contents]
            caption = self._caption(pictures[0], inputs)
            prompt = ", ".join(filter(None, [caption, item.prompt]))
            portrait = self.turned and pictures[0].height > pictures[0].width
            settings = self._settings(item, prompt, portrait)
            weights = self.weights.fingerprint(item.model)
        except (InputError, UsageError) as error:
            return Outcome(item, "failed", self.store.failed(item, in_a_line(error), inputs=inputs))
        if self.resume and self.store.is_done(item, settings, inputs, weights, self.weights.models.dtype):
            return Outcome(item, "skipped", self.store.records[item.output])
        return Task(item, settings, contents, tuple(inputs), caption, self.captioner.name if self.captioner else "")

    def _settings(self, item: Item, prompt: str = "", portrait: bool = False) -> Settings:
        return resolve(
            self.weights.config(item.model), item.command, prompt, item.seed, item.options, portrait=portrait
        )

    def _caption(self, picture: Image.Image, inputs: list[str]) -> str:
        """Empty without --auto-prompt. What the journal knows is not asked again."""
        if self.captioner is None:
            return ""
        known = self.store.caption(inputs, self.captioner.name)
        return self.captioner(picture) if known is None else known


def _written(item: Item, writing: Future[Record]) -> Outcome:
    record = writing.result()
    return Outcome(item, record.status, record)


def _read(picture: str, offline: bool) -> bytes:
    """A picture's file. Raises InputError; a pipe, which could wait for ever, is refused too."""
    if is_url(picture):
        return fetch(picture, offline=offline)
    try:
        status = os.stat(picture)
        if not stat.S_ISREG(status.st_mode):
            raise InputError("not a file")
        if status.st_size > MAX_BYTES:
            raise InputError(f"the file has more than {MAX_BYTES / 1e9:g} GB")
        return Path(picture).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}") from error
