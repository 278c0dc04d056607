"""A training run as a TOML file says it: which stage, of which model, on what, and how. Unknown keys are errors."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from dcrafter.config import MODELS, ModelConfig
from dcrafter.errors import InputError


@dataclass(frozen=True)
class TrainerConfig:
    """How any stage is trained. Steps are optimiser steps, a batch is what one process sees in one of them."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 200  # steps of linear growth
    cooldown: int = 0  # steps, the last ones, of cosine decay to zero
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0  # the largest norm of the gradient
    accumulate: int = 1  # batches a step
    ema: float = 0.999
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    workers: int = 0  # processes that make data; 0: the training process itself
    save_minutes: float = 5.0
    log_every: int = 50
    evaluate_every: int = 1000


@dataclass(frozen=True)
class AutoencoderLoss:
    """Weights of the terms beside the mean absolute difference of pixels in [-1, 1]."""

    squared: float = 1.0  # mean squared difference
    edges: float = 1.0  # absolute difference of neighbouring pixels' differences, at three scales
    kl: float = 1e-3  # mean over latent elements


@dataclass(frozen=True)
class Recipe:
    """`model` names the registry's configuration; `autoencoder` changes fields of its autoencoder."""

    stage: Literal["autoencoder"]
    model: str
    data: str  # the folder that `dcrafter.training.prepare` made
    train: TrainerConfig
    seed: int = 0
    loss: AutoencoderLoss = AutoencoderLoss()
    autoencoder: dict[str, Any] = field(default_factory=dict)

    @property
    def model_config(self) -> ModelConfig:
        """The registry's configuration with the recipe's changes. Raises TypeError where a field is unknown."""
        values = MODELS[self.model].to_dict()
        return ModelConfig.from_dict({**values, "autoencoder": {**values["autoencoder"], **self.autoencoder}})


T = TypeVar("T")


def _made(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    types = get_type_hints(kind)
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - names):
        raise InputError(f"{where} has no key {', '.join(unknown)}", f"Its keys are {', '.join(sorted(names))}.")
    made: dict[str, Any] = {}
    for name, value in values.items():
        if is_dataclass(types[name]) and isinstance(value, dict):
            value = _made(types[name], value, f"[{name}]")
        made[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**made)
    except TypeError as error:  # a required key is missing
        raise InputError(f"{where}: {error}") from None


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe. Raises InputError where the file is missing, is no TOML or has a key that means nothing."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"The recipe {path} cannot be read: {error}") from error
    recipe = _made(Recipe, values, path.name)
    if recipe.stage not in ("autoencoder",):
        raise InputError(f"{path.name}: there is no stage {recipe.stage}", "The stages are: autoencoder.")
    if recipe.model not in MODELS:
        raise InputError(f"{path.name}: there is no model {recipe.model}", f"The models are {', '.join(MODELS)}.")
    try:
        _ = recipe.model_config
    except (TypeError, ValueError) as error:
        raise InputError(f"{path.name}, [autoencoder]: {error}") from None
    return recipe
