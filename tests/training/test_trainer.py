from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from training.line import CONFIG, Broken, Halves, Line, one_of_two, shard_of_two, train

from dcrafter.errors import NumericalError
from dcrafter.training.trainer import learning_rate


@pytest.fixture(autouse=True)
def _forgets_precision() -> Iterator[None]:
    """accelerate keeps one precision a process."""
    yield
    AcceleratorState._reset_state()


def test_only_what_has_gradients_changes_and_the_loss_falls(tmp_path: Path) -> None:
    before = Line()
    _, stage = train(tmp_path, config=replace(CONFIG, steps=60))
    assert torch.equal(stage.frozen.weight, before.frozen.weight)
    assert not torch.equal(stage.learns.weight, before.learns.weight)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.3 * losses[0]
    assert {"loss", "half", "gradient", "seconds", "step"} == rows[0].keys()


@pytest.mark.parametrize(
    ("optimizer", "accumulate", "precision"),
    [("adamw", 1, "no"), ("adamw", 2, "no"), ("muon", 1, "no"), ("adamw", 1, "bf16")],
)
def test_a_stop_and_a_resume_give_the_same_as_no_stop(
    tmp_path: Path, optimizer: Literal["adamw", "muon"], accumulate: int, precision: Literal["no", "bf16"]
) -> None:
    config = replace(CONFIG, accumulate=accumulate, optimizer=optimizer, precision=precision)
    handler = signal.getsignal(signal.SIGTERM)  # the default one, or that of a library another test has used
    whole, whole_stage = train(tmp_path / "whole", config=config)
    stopped, _ = train(tmp_path / "parts", Line(interrupt_at=5 * accumulate), config)
    assert stopped.step == 5  # a signal ends the run behind the step it falls in
    resumed, resumed_stage = train(tmp_path / "parts", config=config)
    assert resumed.step == whole.step == 12
    assert torch.equal(whole_stage.learns.weight, resumed_stage.learns.weight)
    for name, value in whole.average.values.items():
        assert torch.equal(value, resumed.average.values[name])
    assert resumed_stage.dataset.asked == list(range(5 * 2 * accumulate, 12 * 2 * accumulate))
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_kill_goes_on_from_what_the_clock_had_saved(tmp_path: Path) -> None:
    config = replace(CONFIG, save_minutes=0)
    whole, _ = train(tmp_path / "whole", config=config)
    killed = Line()
    killed.dataset = Broken(after=2 * 8)
    with pytest.raises(OSError, match="gone"):
        train(tmp_path / "parts", killed, config)
    resumed, stage = train(tmp_path / "parts", config=config)
    assert stage.dataset.asked[0] == 2 * 7  # a batch is fetched ahead, so step 6 was the last
    for name, value in whole.average.values.items():
        assert torch.equal(value, resumed.average.values[name])


def test_the_logged_gradient_is_that_of_a_step(tmp_path: Path) -> None:
    norms = []
    for accumulate in (1, 4):
        out = tmp_path / str(accumulate)
        train(out, config=replace(CONFIG, steps=1, log_every=1, batch=4 // accumulate * 5, accumulate=accumulate))
        norms.append(json.loads((out / "log.jsonl").read_text().splitlines()[0])["gradient"])
    assert norms[1] == pytest.approx(norms[0], rel=0.1)  # the mean over the same twenty numbers, with other noise


@pytest.mark.slow
def test_two_processes_train_one_model_and_stop_together(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(one_of_two, (port, tmp_path), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["step"] == second["step"] == 7
    begun = dict(Halves().model.named_parameters())
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
        assert not torch.equal(value, begun[name]), name
    assert not set(first["asked"]) & set(second["asked"])  # each has clips of its own
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 6]  # written once
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 7


@pytest.mark.slow
def test_two_processes_share_the_weights_of_one_model(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / "shared"
    out.mkdir()
    torch.multiprocessing.start_processes(shard_of_two, (port, out), nprocs=2, start_method="spawn")
    first, second = (torch.load(out / f"{rank}.pt") for rank in (0, 1))
    assert first["stopped"] == second["stopped"] == 7
    whole = sum(value.numel() for value in Line().trained().values())
    assert first["own"] + second["own"] == whole > max(first["own"], second["own"])
    for name, value in first["average"].items():
        assert torch.equal(value, second["average"][name])
    undivided, _ = train(out)  # its checkpoint is that of any run
    assert undivided.step == 12
    for name, value in first["average"].items():
        assert torch.equal(value, undivided.average.values[name])
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "bias" in row] == [6, 12]
    assert sorted(path.name for path in out.glob("*.png")) == ["step-0000006.png", "step-0000012.png"]


def test_pictures_and_metrics_are_of_the_average(tmp_path: Path) -> None:
    trainer, stage = train(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    metrics = [row for row in rows if "bias" in row]
    assert [row["step"] for row in metrics] == [6, 12]
    assert metrics[-1]["bias"] == pytest.approx(float(trainer.average.values["learns.bias"].sum()))
    assert metrics[-1]["bias"] != pytest.approx(float(stage.learns.bias.sum().detach()))
    with Image.open(tmp_path / "step-0000012.png") as image:
        assert image.size == (6, 4)


def test_the_learning_rate_grows_stays_and_falls() -> None:
    config = replace(CONFIG, steps=100, warmup=10, cooldown=20, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.01


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    stage = Line()
    with torch.no_grad():
        stage.learns.weight[0, 0] = float("nan")
    with pytest.raises(NumericalError, match="at step 0"):
        train(tmp_path, stage)


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, config=replace(CONFIG, tensorboard=True))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("loss", "gradient", "bias"):
        logged = [(row["step"], pytest.approx(row[name], rel=1e-5)) for row in rows if name in row]
        assert [(event.step, event.value) for event in events.Scalars(name)] == logged
