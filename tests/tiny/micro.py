"""A model so small that a test can train it, and recipes for it on the prepared data."""

from __future__ import annotations

from typing import Any

from training.micro import MICRO, TRAIN

from dcrafter.tiny.recipe import TinyRecipe
from dcrafter.training.recipe import Conditioning, TrainerConfig


def recipe(stage: str, trainer: TrainerConfig = TRAIN, **conditioning: Any) -> TinyRecipe:
    return TinyRecipe(stage, "tiny", "", trainer, config=MICRO, conditioning=Conditioning(**conditioning))
