"""The interface of a training stage: a model, data, a loss and metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dcrafter.config import ModelConfig
from dcrafter.errors import InputError
from dcrafter.weights.bases import open_base
from dcrafter.weights.checkpoint import save_checkpoint

Stages = Mapping[str, Callable[..., "TrainingStage"]]
"""Stages by their names in recipes, each made as `stage(recipe, data, plan_only=False)`."""


class TrainingStage(nn.Module):
    """What one stage trains, and on what. Parameters that stay frozen have `requires_grad` off."""

    config: ModelConfig
    model: nn.Module  # its children are components of `DynamiCrafter`, by their names there
    layers: tuple[str, ...] = ()  # classes of modules that hold most weights, for sharding
    needed: tuple[str, ...] = ()  # the components that an earlier run must have trained
    dataset: Dataset[Any]  # map-style: item i of a run is always the same
    about_data: str = ""  # a line about the data, where it is the user's own

    @abstractmethod
    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss of a collated batch; "loss" is the one to minimize.

        The generator is on the CPU wherever the model is, and so is the batch, unless several GPUs share the work:
        `DistributedDataParallel` moves its tensors along.
        """

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Metrics on held-out data."""

    @abstractmethod
    def preview(self) -> Tensor:
        """An image of results on held-out data: (H, W, 3) uint8."""

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def trained_parts(self) -> list[str]:
        """Names of what trains."""
        return sorted({name.split(".")[0] for name in self.trained()})

    def begins_anew(self, name: str) -> bool:
        """True for a parameter that need not have been trained before, though its component must."""
        return False

    def activations(self, batch: int, dtype: torch.dtype) -> int:
        """Bytes that a batch adds to the weights and the optimizer, about; 0 where it is not known."""
        return 0

    def export(self, weights: Mapping[str, Tensor], out: Path) -> Path:
        """Write weights, all of the model's, into a file in the folder `out`, in float16; returns its path."""
        half = {name: value.to("cpu", torch.float16) for name, value in weights.items()}
        path = out / "weights.safetensors"
        save_checkpoint(half, self.config, path)
        return path

    def load_weights(self, paths: Sequence[Path]) -> None:
        """Load weights from checkpoints, published ones or those of earlier runs; later files take precedence.

        See `weights.bases` for what is read.

        Raises InputError where shapes differ or a needed component is in no file, WeightsError where a file cannot
        be read.
        """
        found: dict[str, Tensor] = {}
        for path in paths:
            found |= open_base(path)
        own = {_bare(name): value for name, value in self.model.state_dict().items() if ".lora_" not in name}
        for name, value in own.items():
            if name in found and found[name].shape != value.shape:
                was = tuple(found[name].shape)
                raise InputError(f"size mismatch for {name}: {was} in the file, {tuple(value.shape)} in this recipe")
            if name in found:
                value.copy_(found[name])
        missing = {name.split(".")[0] for name in own.keys() - found.keys() if not self.begins_anew(name)}
        if absent := [name for name in self.needed if name in missing]:
            raise InputError(f"this stage needs a trained {' and '.join(absent)}", "Name its file in `start`")


def _bare(name: str) -> str:
    """A parameter's name without what peft's wrapper adds."""
    return name.replace(".base_layer.", ".")
