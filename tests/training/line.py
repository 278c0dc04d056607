"""A stage that needs no data and no time. A module of its own, so that new processes can import it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Dataset

import dcrafter.training.trainer
from dcrafter.config import MODELS
from dcrafter.training.recipe import TrainerConfig
from dcrafter.training.sharding import whole
from dcrafter.training.stage import TrainingStage
from dcrafter.training.trainer import Trainer

CONFIG = TrainerConfig(
    steps=12, batch=2, learning_rate=0.05, warmup=2, ema=0.9, precision="no", log_every=4, evaluate_every=6
)
WIDTH = 16  # of a layer that Muon takes for a matrix


class Numbers(Dataset[Tensor]):
    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Tensor:
        self.asked.append(index)
        return torch.full((WIDTH,), float(index % 5))


class Broken(Numbers):
    """Gives so many items, and no more."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.after:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


class Line(TrainingStage):
    """Learns y = 2x through a noisy linear layer; a second layer is frozen. Optionally interrupts itself."""

    layers = ("Linear",)

    def __init__(self, interrupt_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.learns = nn.Linear(WIDTH, WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.model = nn.ModuleDict({"learns": self.learns, "frozen": self.frozen})
        self.config = MODELS["tiny"]
        self.dataset = Numbers()
        self.calls = 0
        self.interrupt_at = interrupt_at

    def forward(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = batch + 0.1 * torch.randn(batch.shape, generator=generator)
        loss = ((self.learns(x) - 2 * batch) ** 2).mean()
        return {"loss": loss, "half": loss / 2}

    def evaluate(self) -> dict[str, float]:
        return {"bias": float(self.learns.bias.sum())}

    def preview(self) -> Tensor:
        return torch.zeros(4, 6, 3, dtype=torch.uint8)


def train(out: Path, stage: Line | None = None, config: TrainerConfig = CONFIG) -> tuple[Trainer, Line]:
    out.mkdir(exist_ok=True)
    stage = stage or Line()
    trainer = Trainer(stage, config, out, seed=3, say=lambda _: None)
    trainer.run()
    return trainer, stage


class Halves(Line):
    """Has two layers to learn, of which a batch uses one or the other."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        super().__init__(interrupt_at)
        self.model["other"] = nn.Linear(WIDTH, WIDTH)

    def forward(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        terms = super().forward(batch, generator)
        if torch.rand((), generator=generator) < 0.5:
            return {"loss": self.model["other"](batch).square().mean(), "half": terms["half"]}
        return terms


def join(rank: int, port: int) -> None:
    """Be one of two processes."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port), ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")  # fmt: skip


class OnCPU(Accelerator):
    """accelerate divides models over accelerators alone; PyTorch can over processes on a CPU, too."""

    def __init__(self, *, fsdp_plugin: Any, **options: Any) -> None:
        super().__init__(**options)
        self.state.distributed_type, self.state.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


def shard_of_two(rank: int, port: int, out: Path) -> None:
    """A process of two that share a model's weights. It stops in its seventh step and goes on."""
    join(rank, port)
    dcrafter.training.trainer.Accelerator = OnCPU
    config = replace(CONFIG, shard=True)
    first, _ = train(out, Line(interrupt_at=7 if rank else None), config)
    own = sum(value.to_local().numel() for value in first.average.parameters.values())
    second, _ = train(out, config=config)
    torch.save({"stopped": first.step, "own": own, "average": whole(second.average.values)}, out / f"{rank}.pt")


def one_of_two(rank: int, port: int, out: Path) -> None:
    """A process of two; the second is told to stop in its seventh step."""
    join(rank, port)
    trainer, stage = train(out, Halves(interrupt_at=7 if rank else None), replace(CONFIG, save_minutes=0))
    weights = {name: value.detach() for name, value in trainer.average.parameters.items()}
    torch.save({"step": trainer.step, "weights": weights, "asked": stage.dataset.asked}, out / f"{rank}.pt")
