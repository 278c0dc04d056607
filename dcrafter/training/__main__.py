"""`python -m dcrafter.training RECIPE`: train a model on videos, or resume, as a recipe says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcrafter.training.command import TrainingCommand
from dcrafter.training.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from dcrafter.training.stage import Stages


def load_stages() -> Stages:
    """The paper's stages, and the text-to-video one before them."""
    from dcrafter.training.denoiser import DenoiserStage
    from dcrafter.training.parts import STAGES

    return dict.fromkeys(STAGES, DenoiserStage)


COMMAND = TrainingCommand("dcrafter.training", RECIPES, Recipe, load_stages)

if __name__ == "__main__":
    COMMAND.main()
