"""`python -m dcrafter.tiny RECIPE`: train the built-in model on its own data, or resume, as a recipe says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcrafter.tiny.recipe import RECIPES, TinyRecipe
from dcrafter.training.command import TrainingCommand

if TYPE_CHECKING:
    from dcrafter.training.stage import Stages


def load_stages() -> Stages:
    """The stages that the built-in model goes through, by their names in recipes."""
    from dcrafter.tiny.autoencoder import AutoencoderStage
    from dcrafter.tiny.denoiser import TinyDenoiserStage, TinyDistillationStage
    from dcrafter.tiny.later_frames import LaterFramesStage
    from dcrafter.tiny.towers import TowersStage
    from dcrafter.training.parts import STAGES

    return {
        "autoencoder": AutoencoderStage,
        "towers": TowersStage,
        **dict.fromkeys(STAGES, TinyDenoiserStage),
        "distillation": TinyDistillationStage,
        "later frames": LaterFramesStage,
    }


COMMAND = TrainingCommand("dcrafter.tiny", RECIPES, TinyRecipe, load_stages)

if __name__ == "__main__":
    COMMAND.main()
