"""The benchmarks of computing, dry: small networks on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from benchmarks import gpu, stages
from golden import relative_error

from dcrafter.models.dynamicrafter import DynamiCrafter

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("task", gpu.TASKS)
def test_every_task_of_the_gpu_benchmark_runs_dry(task: str, tmp_path: Path) -> None:
    gpu.work(task, gpu.Bench(CPU, small=True), gpu.Report(tmp_path))
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["task"] for row in rows} == {task}
    assert [row["left out"] for row in rows if "left out" in row] == []
    table = (tmp_path / "gpu.md").read_text().splitlines()
    assert len([line for line in table if line.startswith("| ")]) == len(rows) + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "tests.benchmarks tiny --stages decoding --forms plain --runs 1 --json",
        "tests.benchmarks.gpu --small --device cpu --only clips --out",
    ],
)
def test_the_commands_run_with_few_packages(command: str, tmp_path: Path) -> None:
    for package in ("av", "ftfy", "huggingface_hub", "platformdirs", "rich", "transformers", "typer"):
        (tmp_path / f"{package}.py").write_text("raise ImportError")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = tmp_path / "gpu.json"
    subprocess.run([sys.executable, "-m", *command.split(), result], cwd=ROOT, env=environment, check=True)
    assert "left out" not in next(path for path in [result / "gpu.json", result] if path.is_file()).read_text()


class Process:
    """Of a task that ends in the given way."""

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode

    def start(self) -> None: ...

    def join(self, seconds: float = 0) -> None:
        assert seconds < 600

    def is_alive(self) -> bool:
        return self.exitcode is None

    def kill(self) -> None:
        self.exitcode = -9


def test_the_gpu_benchmark_keeps_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"machine": 0, "golden": 1, "clips": None}
    monkeypatch.setattr(gpu, "Process", lambda target, args: Process(ends[args[0]]))
    bench, report = gpu.Bench(CPU), gpu.Report(tmp_path)
    gpu.run(["machine", "golden", "clips"], bench, report, seconds=600)
    gpu.run(["frames"], bench, report, seconds=0)
    assert json.loads(report.json.read_text()) == [
        {"task": "golden", "left out": "the rest: the process ended with 1"},
        {"task": "clips", "left out": "the rest: the time was up"},
        {"task": "frames", "left out": "the time was up"},
    ]


@pytest.mark.slow
def test_every_stage_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stages.CONFIGS, "mid", stages.SMALL)
    monkeypatch.setitem(stages.SIDE, "cpu", 128)
    options = Namespace(dtype="float32", size=(32, 64), stages=[*stages.STAGES], branches=2, threads=1, runs=1)
    results = {form: stages.measure("mid", form, options) for form in stages.FORMS}
    assert [each.stage for each in results["fast"]] == [each.stage for each in results["plain"]] == [*stages.STAGES]
    assert [each.stage for each in results["published"]] == ["evaluation"]
    assert all(each.seconds > 0 and each.gflops > 0 for each in results["plain"])


@torch.inference_mode()
def test_the_published_form_is_the_same_function() -> None:
    model, given = DynamiCrafter.on_meta(stages.SMALL), stages.Inputs.make(stages.SMALL, 32, 32, CPU)
    stages.fill(model.unet, CPU, torch.float32)
    run = stages.STAGES["evaluation"].run
    plain = run(model, given)
    stages.as_published(model.unet)
    with stages.published_operators(given) as taken:
        assert relative_error(run(model, taken), plain) < 1e-5
