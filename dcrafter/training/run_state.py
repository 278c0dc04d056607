"""What a run goes on from beside its model: the moving average, the optimizer, the step and the settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dcrafter.errors import InputError
from dcrafter.training.sharding import divide_state, divided_like, whole

CHECKPOINT = "checkpoint.pt"  # in a run's folder
Say = Callable[[str], None]


class MovingAverage:
    """Exponential moving average of parameters, faster at the start of a run."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.values = {name: value.detach().clone().float() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), list(self.parameters.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the parameters hold the average."""
        kept = {name: value.detach().clone() for name, value in self.parameters.items()}
        try:
            self._fill(self.values)
            yield
        finally:
            self._fill(kept)

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])


@dataclass(frozen=True)
class RunState:
    """What `checkpoint.pt` holds. `settings` are all of the run's as plain values."""

    accelerator: Accelerator
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    settings: Mapping[str, Any]
    is_divided: bool  # over processes

    def save(self, path: Path, step: int) -> None:
        """Write the file. The main process does; only where weights are divided the others take part."""
        if not (self.accelerator.is_main_process or self.is_divided):
            return
        state = {
            "step": step,
            "weights": whole({name: value.detach() for name, value in self.average.parameters.items()}),
            "average": whole(self.average.values),
            "optimizer": whole(self.optimizer.state_dict()),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "settings": self.settings,
        }
        if not self.accelerator.is_main_process:
            return
        part = path.with_name(f"{path.name}.part")
        torch.save(state, part)
        os.replace(part, path)  # a half-written one is never left

    def load(self, path: Path, say: Say) -> int:
        """Go on from the file, if there is one: its step, else 0. Settings that changed since are said.

        Raises InputError where it is of other parameters.
        """
        if not path.exists():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if state["weights"].keys() != self.average.parameters.keys():
            raise InputError(f"{path} was trained with other parameters", "Choose another --out folder")
        with torch.no_grad():
            for name, parameter in self.average.parameters.items():
                parameter.copy_(divided_like(state["weights"][name], parameter))
                self.average.values[name].copy_(divided_like(state["average"][name], parameter))
        self.optimizer.load_state_dict(divide_state(state["optimizer"], self.optimizer))
        if self.accelerator.scaler and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        step = int(state["step"])
        before = state.get("settings", self.settings)
        for name in sorted(before.keys() | self.settings.keys()):
            was, now = before.get(name), self.settings.get(name)
            if was != now:
                say(f"{name} was {was} until step {step} and is {now} from now on")
        return step
