"""A batch in two processes of this machine, which take seconds to start."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli.running import start

from dcrafter.batch.inputs import Search
from dcrafter.batch.items import Defaults, make_items
from dcrafter.batch.journal import Record, read_journals
from dcrafter.batch.pool import Pool
from dcrafter.batch.runner import Batch, Weights
from dcrafter.batch.store import Store
from dcrafter.batch.worker import Key, Models, Progress, Task, Worker
from dcrafter.errors import WeightsError
from dcrafter.settings import ModelOptions, WriteOptions

pytestmark = pytest.mark.slow


@pytest.fixture
def batch(checkpoint: Path, pictures: Path, tmp_path: Path) -> Batch:
    (tmp_path / "bad.png").write_bytes(b"no")
    entries = Search().find([str(pictures), str(tmp_path / "bad.png")]).entries
    items = make_items(entries, Defaults(format="apng", name="{stem}", options={"steps": 2, "guidance": 1.0}))
    models = Models(ModelOptions(checkpoint=checkpoint, device="cpu", dtype="float32"))
    return Batch(items, Store(tmp_path / "here", WriteOptions("apng")), Weights(models))


def test_the_same_videos_though_a_process_is_killed(batch: Batch, tmp_path: Path) -> None:
    list(batch.run(Worker(batch.weights.models).run))
    killed: list[Key] = []

    def engine(tasks: Iterator[Record | Task]) -> Generator[Any, None, None]:
        for news in Pool(batch.weights.models, 2, 1, len(batch.items)).run(tasks):
            if isinstance(news, Progress) and not killed:  # it has work, and cannot have done any
                killed.append(news.key)
                (process,) = multiprocessing.active_children()
                process.kill()
            yield news

    there = replace(batch, store=Store(tmp_path / "there", WriteOptions("apng")))
    records = [each for each in there.run(engine) if isinstance(each, Record)]
    assert len(records) == len(batch.items)
    errors = {each.item: each.error for each in records if each.status == "failed"}
    assert errors.keys() == {"bad.png", killed[0][0]}
    assert errors[killed[0][0]] == "the worker died"
    expected, made = (
        {name: each.output_hash for name, each in read_journals(folder).items() if each.status == "done"}
        for folder in (batch.store.folder, there.store.folder)
    )
    assert made.items() <= expected.items()
    assert len(made) == len(expected) - 1 == 7
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform == "win32", reason="there a terminal's Ctrl-C reaches all processes")
def test_ctrl_c_in_a_terminal_is_for_the_command_alone(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--device", "cpu", "--steps", "4", "-f", "apng", "-o", "out"]
    command = ("batch", str(pictures), *arguments, "-n", "20", "--workers", "2")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(*command, folder=tmp_path, start_new_session=True, **streams) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"out" + os.sep.encode())
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert stderr.endswith(b"dcrafter: interrupted\n")


def test_what_a_process_cannot_open_is_raised(batch: Batch, tmp_path: Path) -> None:
    task = next(each for each in batch.plan() if isinstance(each, Task))
    models = Models(ModelOptions(checkpoint=tmp_path / "missing.safetensors", device="cpu"))
    with pytest.raises(WeightsError):
        list(Pool(models, 1, 1, 1).run([task]))
    assert not multiprocessing.active_children()
