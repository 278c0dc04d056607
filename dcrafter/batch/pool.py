"""A batch in several processes of this machine, for models too small to keep all cores busy together."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from dcrafter.batch.worker import Key, Models, Progress, Result, Task, Worker, WorkerEvent, block_size

T = TypeVar("T")


@dataclass
class Slot:
    """A worker's process, the tasks that it has not finished, and the one that it is at."""

    number: int
    process: BaseProcess
    connection: Connection
    tasks: dict[Key, Task] = field(default_factory=dict)
    at: Key | None = None


class Pool:
    """Makes `total` tasks in so many processes, each with so many threads.

    They start when there is work for them. A process that dies costs the video it was at; another takes its place.
    """

    def __init__(self, models: Models, workers: int, threads: int, total: int) -> None:
        self.models, self.workers, self.threads, self.total = models, workers, threads, total

    def run(self, tasks: Iterable[Task | T]) -> Generator[WorkerEvent | T, None, None]:
        """See `Worker.run`. The processes end with the generator."""
        slots: list[Slot] = []
        try:
            yield from self._run(iter(tasks), slots)
        finally:
            for slot in slots:
                slot.process.kill()
                slot.process.join()

    def _run(self, tasks: Iterator[Task | T], slots: list[Slot]) -> Generator[WorkerEvent | T, None, None]:
        left = self.total
        again: deque[Task] = deque()  # of processes that died
        free = deque(range(self.workers))  # numbers of those to start
        while True:
            for idle in [*(slot for slot in slots if not slot.tasks), *([None] * len(free))]:
                block: dict[Key, Task] = {}
                size = block_size(left, self.workers)
                while len(block) < size and (each := again.popleft() if again else next(tasks, None)) is not None:
                    if isinstance(each, Task):
                        block[each.key] = each
                    else:
                        left -= 1
                        yield each
                if block:
                    if idle is None:
                        slots.append(idle := self._start(free.popleft()))
                    idle.tasks, idle.at = block, next(iter(block))
                    with suppress(ConnectionError):  # of a process that died idle: told below
                        idle.connection.send_bytes(pickle.dumps([*block.values()]))
                    yield Progress(idle.at, "waiting", worker=idle.number)
            busy = {slot.connection: slot for slot in slots if slot.tasks}
            if not busy:
                return
            for ready in wait([*busy]):
                slot = busy[ready]  # type: ignore[index]
                try:
                    news = pickle.loads(slot.connection.recv_bytes())
                except (EOFError, ConnectionError):
                    slots.remove(slot)
                    free.append(slot.number)
                    slot.process.join()
                    dead = slot.at or next(iter(slot.tasks))
                    again.extend(task for key, task in slot.tasks.items() if key != dead)
                    slot.tasks = {dead: slot.tasks[dead]}
                    news = Result(dead, None, 0.0, 1, "the worker died")
                match news:
                    case Exception():
                        raise news
                    case Progress():
                        slot.at = news.key
                        yield replace(news, worker=slot.number)
                    case Result():
                        left -= 1
                        del slot.tasks[news.key]
                        slot.at = None
                        yield news
                del news  # a video is large

    def _start(self, number: int) -> Slot:
        context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self.models, self.threads), daemon=True)
        with _without_interrupts():
            process.start()
        there.close()  # so that the process' end is the connection's
        return Slot(number, process, here)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What starts inside never gets SIGINT, which a terminal sends to it too: its parent decides. (Not on Windows.)"""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else the first process starts it inside, which ends the blocking
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, models: Models, threads: int) -> None:
    """Make blocks of tasks as they come, until nobody sends any."""
    import torch

    logging.disable()  # the parent's lines are about the whole batch
    torch.set_num_threads(threads)
    worker = Worker(models)
    try:
        while True:
            for news in _made(worker, pickle.loads(connection.recv_bytes())):
                connection.send_bytes(pickle.dumps(news))
    except (EOFError, BrokenPipeError):
        pass


def _made(worker: Worker, block: Sequence[Task]) -> Iterator[Any]:
    """What a worker says, and last what it raises."""
    try:
        yield from worker.make(block)
    except Exception as error:
        yield error
