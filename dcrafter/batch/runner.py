"""Run a batch: decide item by item what is left to do, have it generated, save the results."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from dcrafter.batch.items import Item
from dcrafter.batch.journal import Record
from dcrafter.batch.manifest import raise_errors
from dcrafter.batch.store import Store, failure
from dcrafter.batch.worker import Key, Models, Progress, Result, Task, WorkerEvent
from dcrafter.captioner import Captioner
from dcrafter.config import ModelConfig
from dcrafter.errors import InputError, UsageError
from dcrafter.media.fetch import fetch, is_url
from dcrafter.media.image import describe_crop, open_image
from dcrafter.settings import Settings, resolve
from dcrafter.text import format_size
from dcrafter.weights import hub
from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint
from dcrafter.weights.lora import with_loras

MAX_BYTES = 1_000_000_000  # of an image file
KEPT = "kept, since it is not what a batch wrote; --overwrite replaces it"
WRITING = 2  # videos that may wait to be written

logger = logging.getLogger(__name__)


Engine = Callable[[Iterator[Record | Task]], Generator[Record | WorkerEvent, None, None]]
"""Generates the videos of tasks, which it takes as it has room for them. Records pass through."""


class Weights:
    """Configurations and fingerprints of models, before they are loaded."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._opened: dict[str, Checkpoint | None] = {}

    def config(self, model: str) -> ModelConfig:
        opened = self._open(model) if self.models.options.checkpoint else None
        return opened.config if opened else hub.config(model)

    def fingerprint(self, model: str) -> str:
        """Empty for a model that is not downloaded yet."""
        opened = self._open(model)
        return opened.fingerprint if opened else ""

    def awaits_towers(self) -> bool:
        """Whether a model goes without CLIP's towers until they are downloaded. All are opened anew after this."""
        awaiting = any(opened and opened.awaits_towers for opened in self._opened.values())
        self._opened.clear()
        return awaiting

    @property
    def _downloading(self) -> hub.DownloadOptions:
        return hub.DownloadOptions(offline=self.models.options.offline, towers=self.models.options.towers)

    def _open(self, model: str) -> Checkpoint | None:
        if model not in self._opened:
            given = self.models.options.checkpoint
            path = given or hub.find(model)
            self._opened[model] = None
            if path:
                opened = open_checkpoint(
                    path,
                    model=None if given and model == "auto" else model,
                    model_config=self.models.options.model_config,
                    command=self.models.command,
                )
                opened = hub.with_towers(opened, self._downloading, plan_only=True)
                self._opened[model] = with_loras(opened, self.models.options.lora)
        return self._opened[model]


@dataclass(frozen=True, eq=False)
class Batch:
    """Items whose models are chosen, how to generate them, and where to save them."""

    items: Sequence[Item]
    store: Store
    weights: Weights
    resume: bool = True
    fail_fast: bool = False
    turned: bool = True  # the model's size follows the image's shape
    captioner: Captioner | None = None

    def check(self) -> list[Settings]:
        """The settings of items, as far as they are known before their images are read.

        What is wrong with a row of a manifest costs that row only, unless there is something wrong with each.

        Raises:
            UsageError: Items ask for what their model cannot do.
            OutputError: Outputs cannot be written.
        """
        settings, errors, fatal = [], [], False
        for item in self.items:
            if item.problem:
                errors += [f"{item.where}: {item.problem}"] if item.where else []
                continue
            try:
                settings.append(self._settings(item))
            except UsageError as error:
                errors.append(f"{item.where or item.title}: {error.message}")
                fatal |= not item.where
        if fatal or len(errors) == len(self.items):
            raise_errors(errors)
        self.store.check(self.items)
        return settings

    def plan(self) -> Iterator[Record | Task]:
        """Each item as a task, or if there is nothing to do as its record. Writes nothing."""
        for item in self.items:
            yield self._plan_item(item)

    def run(self, engine: Engine) -> Generator[Record | Progress, None, None]:
        """Generate what is left to do; yields progress, and a record of each item.

        Closing the generator ends the work; finished videos are kept.
        """
        with self.store, closing(self._run(engine)) as events:
            for each in events:
                yield each
                if self.fail_fast and isinstance(each, Record) and each.status == "failed":
                    return

    def _run(self, engine: Engine) -> Generator[Record | Progress, None, None]:
        tasks: dict[Key, Task] = {}  # in progress
        writing: deque[Future[Record]] = deque()  # while the next video is generated
        with ThreadPoolExecutor(1, "writer") as writer, closing(engine(self._planned(tasks))) as events:
            for each in events:
                match each:
                    case Result():
                        writing.append(writer.submit(self.store.save, tasks.pop(each.key), each))
                    case Record(status="failed"):
                        self.store.append(each)
                        yield each
                    case _:
                        yield each
                del each  # a video is large
                while writing and (writing[0].done() or len(writing) > WRITING):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()

    def _planned(self, tasks: dict[Key, Task]) -> Iterator[Record | Task]:
        for each in self.plan():
            if isinstance(each, Task):
                tasks[each.key] = each
            yield each

    def _plan_item(self, item: Item) -> Record | Task:
        """Read an item's images and compare it with the journal."""
        inputs: list[str] = []
        try:
            if item.problem:
                raise InputError(item.problem)
            contents = tuple(_read(image, self.weights.models.options.offline) for image in item.images)
            inputs += [hashlib.sha256(content).hexdigest() for content in contents]
            images = [open_image(content) for content in contents]
            caption = self._caption(images[0], inputs)
            prompt = ", ".join(filter(None, [caption, item.prompt]))
            settings = self._settings(item, prompt, images[0].size if self.turned else None)
            weights = self.weights.fingerprint(item.model)
        except (InputError, UsageError) as error:
            where = f"{item.where}: " if item.where not in ("", item.path) else ""
            return failure(item, where + error.message, inputs=inputs)
        task = Task(item, settings, contents, tuple(inputs), caption, self.captioner.name if self.captioner else "")
        done = self.store.find_done(task, weights, self.weights.models.options.dtype) if self.resume else None
        if done is not None:
            return replace(done, status="skipped")
        if not self.store.overwrite and self.store.is_changed(item.output):
            return replace(failure(item, KEPT, inputs=inputs), status="skipped")
        for image in images:
            if crop := describe_crop(image.size, settings.width, settings.height, settings.fit):
                logger.warning("%s: %s", item.title, crop)
        return task

    def _settings(self, item: Item, prompt: str = "", image_size: tuple[int, int] | None = None) -> Settings:
        config = self.weights.config(item.model)
        return resolve(config, item.command, prompt, item.seed, item.options, image_size=image_size)

    def _caption(self, image: Image.Image, inputs: list[str]) -> str:
        """Empty without --auto-prompt. What the journal knows is not asked again."""
        if self.captioner is None:
            return ""
        known = self.store.caption(inputs, self.captioner.name)
        return self.captioner(image) if known is None else known


def _read(image: str, offline: bool) -> bytes:
    """Read an image file. Raises InputError, for a pipe too: it could block for ever."""
    if is_url(image):
        return fetch(image, offline=offline)
    try:
        status = os.stat(image)
        if not stat.S_ISREG(status.st_mode):
            raise InputError("not a file")
        if status.st_size > MAX_BYTES:
            raise InputError(f"the file has more than {format_size(MAX_BYTES)}")
        return Path(image).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}") from error
    except ValueError as error:  # NUL, or broken Unicode
        raise InputError("no file has such a name") from error
