"""Ray, with two workers of one CPU each on this machine. Each test starts a cluster of its own, which takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from dcrafter.batch.cluster import Cluster
from dcrafter.batch.inputs import Search
from dcrafter.batch.items import Defaults, make_items
from dcrafter.batch.journal import Record, read_journals
from dcrafter.batch.runner import Batch, Weights
from dcrafter.batch.store import Store
from dcrafter.batch.worker import Models, Progress, Task, Worker
from dcrafter.errors import UsageError
from dcrafter.settings import ModelOptions, WriteOptions

pytestmark = pytest.mark.slow


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a name short enough for Ray's sockets."""
    with TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def batch(checkpoint: Path, pictures: Path, tmp_path: Path) -> Batch:
    entries = Search().find([str(pictures)]).entries
    items = make_items(entries, Defaults(format="apng", name="{stem}", options={"steps": 2, "guidance": 1.0}))
    models = Models(ModelOptions(checkpoint=checkpoint, device="cpu", dtype="float32"), retries=1)
    return Batch(items, Store(tmp_path / "here", WriteOptions("apng")), Weights(models))


def test_the_same_videos_though_a_worker_is_killed(
    batch: Batch, tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(batch.run(Worker(batch.weights.models).run))
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    cluster = Cluster(batch.weights.models, "local", 1, len(batch.items))
    killed = []

    def engine(tasks: Iterator[Record | Task]) -> Generator[Any, None, None]:
        for news in cluster.run(tasks):
            yield news
            if isinstance(news, Progress) and news.phase == "sampling" and not killed:
                killed.append(news.key[0])
                cluster.ray.kill(cluster.slots[news.worker].actor)

    there = replace(batch, store=Store(tmp_path / "there", WriteOptions("apng")))
    outcomes = {each.item: each for each in there.run(engine) if isinstance(each, Record)}
    assert {each.status for each in outcomes.values()} == {"done"}
    attempts = {path: each.attempts for path, each in outcomes.items()}
    assert attempts == {item.path: 1 + (item.path in killed) for item in batch.items}
    expected, made = (read_journals(each.store.folder) for each in (batch, there))
    assert {name: r.latents_hash for name, r in made.items()} == {name: r.latents_hash for name, r in expected.items()}
    assert {name: r.output_hash for name, r in made.items()} == {name: r.output_hash for name, r in expected.items()}


def test_an_interrupted_cluster_ends(checkpoint: Path, pictures: Path, tmp_path: Path, short: Path) -> None:
    arguments = [
        "batch", str(pictures), "-n", "20", "--checkpoint", str(checkpoint), "--device", "cpu", "--steps", "4",
        "-f", "apng", "-o", "out", "--ray", "local", "--cpus-per-worker", "1",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DCRAFTER_", "RAY_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "dcrafter", *arguments], cwd=tmp_path, start_new_session=True,
        env={**environment, "RAY_TMPDIR": str(short)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as stdout:
        assert stdout.readline().startswith(b"out/")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        rest = stdout.read()
    assert process.wait() == 130
    assert len(rest.splitlines()) < 159
    assert not list((tmp_path / "out").glob(".*"))
    records = read_journals(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.apng")) == sorted(records)
    for _ in range(600):
        left = [command_line(pid) for pid in Path("/proc").glob("[0-9]*")]
        if not any(str(short) in command for command in left):
            return
        time.sleep(0.1)  # they are ending
    raise AssertionError(left)


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_without_ray_there_is_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs the package ray\. Run `.* ray`"):
        Cluster(Models(), "local", None, 1)
