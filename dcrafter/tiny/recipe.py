"""What a recipe of the built-in model says beyond a general one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dcrafter.training.recipe import Recipe

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class AutoencoderLoss:
    """Weights of the terms beside the mean absolute difference of pixels in [-1, 1], and what trains."""

    squared: float = 1.0  # mean squared difference
    edges: float = 1.0  # absolute difference of neighboring pixels' differences, at three scales
    kl: float = 1e-3  # mean over latent elements
    encoder: bool = True  # train it too; without it latents stay those that a trained denoiser knows


@dataclass(frozen=True)
class Clips:
    """What kinds of clip `ClipSampler` draws, as shares."""

    animations: float = 0.4  # of emoji's own animations
    cutouts: float = 0.0  # of cut-outs over photographs under a motion of their own
    scenes: float = 0.25  # of emoji scenes under a motion; what is left are pictures under one
    directed: float = 0.7  # of motions that go one way, beyond their share of all
    panned: float = 0.0  # of those that are pans and turns, beyond their share of them
    local: float = 0.0  # of images that move as a subject would, such as "{x} runs"
    spread: float = 1.0  # of paces and sizes of motion about the middle of what their word means; 0: one a word
    speed: float = 1.0  # of all motions
    later_frames: int = 4  # of one image in the stage "later frames"


@dataclass(frozen=True)
class TinyRecipe(Recipe):
    """A recipe whose `data` is the folder that `dcrafter.tiny.prepare` made."""

    loss: AutoencoderLoss = AutoencoderLoss()
    clips: Clips = Clips()
