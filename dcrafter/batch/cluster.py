"""A batch on Ray: one worker per GPU, or per so many CPUs, on this machine or many. The driver keeps all results.

Pictures travel with their tasks and videos back; only the weights have to be on each machine. A worker that dies costs
the item it was at a try; what it had not begun goes to others.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from dcrafter.batch.worker import Key, Models, Progress, Result, Task, Worker, WorkerEvent, block_size
from dcrafter.errors import DCrafterError, UsageError
from dcrafter.install import install_hint

LOCAL = "local"  # a cluster of our own, though there may be another
AUTO = "auto"  # join one that runs here or that $RAY_ADDRESS names, else start one
AHEAD = 8  # news that a worker may be ahead of the driver: then it waits
TICK = 1.0  # seconds, after which the driver looks up
T = TypeVar("T")


class RemoteWorker:
    """Lives in a process of its own."""

    def __init__(self, models: Models, cpus: int) -> None:
        import torch

        if cpus:
            torch.set_num_threads(cpus)
        self.worker = Worker(models)

    def make(self, block: Sequence[Task]) -> Iterator[WorkerEvent]:
        yield from self.worker.make(block)


@dataclass
class Slot:
    """A place for a worker: the one that is there now, the tasks it has not finished, and its stream of news."""

    number: int
    actor: Any
    tasks: dict[Key, Task] = field(default_factory=dict)
    stream: Any = None
    last: Any = None  # of its news, if it is Progress


class Cluster:
    """Makes `total` tasks on a Ray cluster."""

    def __init__(self, models: Models, address: str, cpus_per_worker: int | None, total: int) -> None:
        """Raises UsageError where Ray is not installed."""
        try:
            import ray
        except ImportError:
            raise UsageError("--ray needs the package ray", f"Run `{install_hint('ray')}`") from None
        self.ray: Any = ray
        files = {"checkpoint": models.options.checkpoint, "model_config": models.options.model_config}
        absolute: dict[str, Any] = {name: path.absolute() for name, path in files.items() if path}
        absolute["lora"] = tuple(os.path.abspath(text) for text in models.options.lora)
        self.models = replace(models, options=replace(models.options, **absolute))
        self.address, self.cpus_per_worker, self.total = address, cpus_per_worker, total
        self.slots: list[Slot] = []

    def run(self, tasks: Iterable[Task | T]) -> Generator[WorkerEvent | T, None, None]:
        """See `Worker.run`. The cluster is left, and if it was started here it ends, with the generator.

        Raises UsageError where there is no cluster of that address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray else warns of
        terminating = signal.getsignal(signal.SIGTERM)
        try:
            self.ray.init(
                address=None if self.address == AUTO else self.address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"there is no Ray cluster at {self.address} ({error})", "Leave the address out") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminating)  # Ray would exit on the spot
        try:
            yield from self._run(iter(tasks))
        finally:
            for slot in self.slots:
                self.ray.kill(slot.actor)
            self.ray.shutdown()

    def _run(self, tasks: Iterator[Task | T]) -> Generator[WorkerEvent | T, None, None]:
        cpus, gpus, workers = self._share()
        actor = self.ray.remote(num_cpus=cpus, num_gpus=gpus)(RemoteWorker)
        self.slots = [Slot(number, actor.remote(self.models, cpus)) for number in range(workers)]
        left = self.total
        again: deque[Task] = deque()  # of workers that died
        deaths: Counter[Key] = Counter()
        while True:
            for slot in self.slots:
                if slot.stream is not None:
                    continue
                size = block_size(left, workers)
                while len(slot.tasks) < size:
                    each = again.popleft() if again else next(tasks, None)
                    if isinstance(each, Task):
                        slot.tasks[each.key] = each
                    elif each is not None:
                        left -= 1
                        yield each
                    else:
                        break
                if slot.tasks:
                    yield self._start(slot)
            busy = [slot for slot in self.slots if slot.stream is not None]
            if not busy:
                return
            ready, _ = self.ray.wait([slot.stream for slot in busy], timeout=TICK, fetch_local=False)
            for slot in busy:
                if slot.stream not in ready:
                    if not ready and slot.last is not None:
                        yield slot.last  # so that whoever follows can look up too
                    continue
                try:
                    news = self._next(slot)
                except (self.ray.exceptions.RayActorError, self.ray.exceptions.ObjectLostError):
                    slot.actor, slot.stream = actor.remote(self.models, cpus), None
                    dead = slot.tasks.pop(slot.last.key if slot.last.key in slot.tasks else next(iter(slot.tasks)))
                    again.extend(slot.tasks.values())
                    slot.tasks.clear()
                    deaths[dead.key] += 1
                    if deaths[dead.key] <= self.models.retries:
                        again.appendleft(dead)
                        continue
                    news = Result(dead.key, None, 0.0, deaths[dead.key], "the worker died")
                if isinstance(news, Progress):
                    slot.last = news
                elif news is not None:
                    left -= 1
                    if deaths[news.key] and isinstance(news, Result) and news.video is not None:
                        news = replace(news, attempts=news.attempts + deaths[news.key])
                if news is not None:
                    yield news
                    del news  # a video is large

    def _share(self) -> tuple[int, int, int]:
        """What each worker gets: CPUs and GPUs; and how many there are."""
        resources = self.ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        if gpus and self.cpus_per_worker is None:
            return 0, 1, max(1, min(gpus, self.total))
        nodes = [int(node["Resources"].get("CPU", 0)) for node in self.ray.nodes() if node["Alive"]]
        each = self.cpus_per_worker or max(1, min(filter(None, nodes), default=1))
        if each > max(nodes, default=1):
            raise UsageError(f"no machine has {each} CPUs", "Lower --cpus-per-worker")
        return each, 0, max(1, min(cpus // each, self.total))

    def _start(self, slot: Slot) -> Progress:
        method = slot.actor.make.options(num_returns="streaming", _generator_backpressure_num_objects=AHEAD)
        slot.stream = method.remote(list(slot.tasks.values()))
        slot.last = Progress(next(iter(slot.tasks)), "waiting", worker=slot.number)
        return slot.last

    def _next(self, slot: Slot) -> WorkerEvent | None:
        """What a worker says next; None at the end of its block."""
        try:
            news = self.ray.get(next(slot.stream))
        except StopIteration:
            slot.stream = None
            return None
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DCrafterError):  # no weights there, for one
                raise error.cause from None
            raise
        if isinstance(news, Progress):
            return replace(news, worker=slot.number)
        assert isinstance(news, Result)
        del slot.tasks[news.key]
        return news
