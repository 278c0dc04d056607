"""The paper's stages on the built-in model's own data."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from dcrafter.tiny.clips import ClipSampler
from dcrafter.training.denoiser import DenoiserStage
from dcrafter.training.distillation import DistillationStage
from dcrafter.training.inputs import Items


class TinyDenoiserStage(DenoiserStage):
    """Trains the denoiser on emoji and images of a prepared data set."""

    def draws(self, recipe: Any, data: Path, length: int, *, held_out: bool = False) -> Dataset[Any]:
        """What a run trains on, or with `held_out` is evaluated on."""
        sampler = ClipSampler(data, "held-out" if held_out else "train", size=self.config.height,
                        frames=self.config.frames, clips=recipe.clips)  # fmt: skip
        loops = 0.0 if held_out else recipe.conditioning.loop_share
        return Items(partial(sampler.clip, recipe.seed), recipe, length, loops=loops)


class TinyDistillationStage(DistillationStage, TinyDenoiserStage):
    """Distills the denoiser on the same data."""
