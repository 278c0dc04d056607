"""Runs batches in processes that start at once, being forked from one that has imported all, and stops them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from dcrafter import interrupts
from dcrafter.batch.journal import Record, read_journals
from dcrafter.batch.store import hash_output
from dcrafter.media.video import read_video

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["dcrafter.batch.runner", "dcrafter.cli.app"])
FURTHER, LONGEST = 4, 0.3  # items and seconds, before a signal is sent
Arguments = list[str | Path]


def start(arguments: Arguments, folder: Path, room: int | None = None) -> ForkServerProcess:
    """A command line in a process that hears signals. No file in it grows beyond `room` bytes."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=([*map(str, arguments)], folder, there, room))
    process.start()
    here.recv()
    here.close()
    return process


def _run(arguments: list[str], folder: Path, started: Connection, room: int | None) -> None:
    from dcrafter.__main__ import main  # which hears a signal before the command does, too

    sys.argv = ["dcrafter", *arguments]
    os.chdir(folder)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    install = interrupts.install

    def install_and_report() -> None:
        install()
        with contextlib.closing(started):
            started.send(None)

    interrupts.install = install_and_report  # a signal before the handlers are there would end Python, not the tool
    main()


def finish(arguments: Arguments, folder: Path) -> dict[str, Record]:
    """The journal of a batch run to its end, behind which there is nothing but the outputs, each as recorded."""
    process = start(arguments, folder)
    process.join()
    assert process.exitcode == 0
    out = folder / "out"
    records = read_journals(out)
    assert sorted(path.name for path in out.iterdir()) == sorted([*records, "batch.jsonl"])
    for name, record in records.items():
        assert hash_output(out / name) == record.output_hash
        assert read_video(out / name)[0].ndim == 4
    return records


def stop(arguments: Arguments, folder: Path, by: signal.Signals, moments: random.Random) -> dict[str, Record]:
    """The journal of a batch that was sent a signal a moment behind one of its next items, and left what it may.

    SIGSTOP is followed by SIGCONT, behind which the batch runs to its end.
    """
    out = folder / "out"
    behind = len(read_journals(out)) + moments.randrange(FURTHER)
    process = start(arguments, folder)
    while process.is_alive() and len(read_journals(out)) < behind:
        process.join(0.01)
    process.join(moments.uniform(0, LONGEST))
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(process.pid or 0, by)
            if by == signal.SIGSTOP:
                time.sleep(moments.uniform(0, LONGEST))
                os.kill(process.pid or 0, signal.SIGCONT)
    process.join()
    ends = (0,) if by == signal.SIGSTOP else (-by, 0) if by == signal.SIGKILL else (130, 0)
    assert process.exitcode in ends, process.exitcode
    hidden = [path.name for path in out.glob(".*")]
    assert hidden in ([], [".batch.part"]) if by == signal.SIGKILL else not hidden
    return read_journals(out)


def fill(arguments: Arguments, folder: Path, moments: random.Random, least: int) -> dict[str, Record]:
    """The journal of a batch whose disk was full a few items on, and that left nothing else.

    There is room for `least` bytes, so that videos fit.
    """
    out = folder / "out"
    journal = out / "batch.jsonl"
    size = journal.stat().st_size if journal.exists() else 0
    process = start(arguments, folder, max(size, least) + moments.randrange(4000))
    process.join()
    assert process.exitcode in (0, 1)
    assert not list(out.glob(".*"))
    return read_journals(out)


def largest(out: Path) -> int:
    """Bytes of the largest video in a folder."""
    return max(path.stat().st_size for path in out.iterdir() if path.name != "batch.jsonl")


def same(made: dict[str, Record], expected: dict[str, Record]) -> bool:
    """Whether all that was made is what it is to be."""
    return all(
        (record.latents_hash, record.output_hash) == (expected[name].latents_hash, expected[name].output_hash)
        for name, record in made.items()
    )
