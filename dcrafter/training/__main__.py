"""`python -m dcrafter.training RECIPE`: train a model on videos, or resume, as a recipe says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcrafter.training.command import TrainingCommand
from dcrafter.training.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from dcrafter.training.stage import Stages


def load_stages() -> Stages:
    """The paper's stages, the text-to-video one before them, and distillation."""
    from dcrafter.training.denoiser import DenoiserStage
    from dcrafter.training.distillation import DistillationStage
    from dcrafter.training.parts import STAGES

    return {**dict.fromkeys(STAGES, DenoiserStage), "distillation": DistillationStage}


COMMAND = TrainingCommand("dcrafter.training", RECIPES, Recipe, load_stages)

if __name__ == "__main__":
    COMMAND.main()
