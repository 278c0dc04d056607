"""The stage that binds words to motions: single later frames, each under a motion of its own.

The sixteen frames of a clip teach the same about its caption as one does, at sixteen times the cost. Here several
motions of one image give a frame each, and the temporal layers are left out, as in the paper's first stage (section
3.3). The image context says which frame it is: each frame of a clip has its own tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from dcrafter.metrics.pixels import as_input, quantize_uint8
from dcrafter.models.tokenizer import tokenize
from dcrafter.sampling.schedule import to_eps_and_x0
from dcrafter.tiny.clips import ClipSampler, Draws
from dcrafter.tiny.recipe import TinyRecipe
from dcrafter.training.denoiser import SHOWN, DenoiserStage
from dcrafter.training.inputs import ConditioningDraw, Inputs
from dcrafter.training.parts import StageParts


class LaterFramesStage(DenoiserStage):
    """Trains the spatial layers and the query transformer; a batch is of images, as `ClipSampler` draws them."""

    only_parts = StageParts(("spatial", "image attention", "embeddings"), detail=True, single_frames=True)

    def __init__(self, recipe: TinyRecipe, data: Path, *, plan_only: bool = False) -> None:
        super().__init__(recipe, data, plan_only=plan_only)
        self.motions = recipe.clips.later_frames

    def draws(self, recipe: Any, data: Path, length: int, *, held_out: bool = False) -> Dataset[Any]:
        sampler = ClipSampler(data, "held-out" if held_out else "train", size=self.config.height,
                        frames=self.config.frames, clips=recipe.clips)  # fmt: skip
        return Draws(sampler.later_frames, recipe.seed, length)

    def activations(self, batch: int, dtype: torch.dtype) -> int:
        return super().activations(batch * self.motions, dtype)

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        loops = torch.zeros(batch["places"].numel(), dtype=torch.bool)
        draw = ConditioningDraw.random(loops, self.config.frames, self.options, generator)
        return {"loss": self._loss(self.moved(batch, draw, generator), generator)}

    def moved(self, batch: dict[str, Any], draw: ConditioningDraw, generator: torch.Generator) -> Inputs:
        """Encode a batch of P images with n motions each: P·n clips of one frame."""
        frames: Tensor = batch["frames"].to(self.inputs.device)  # (P, 1 + n, H, W, 3)
        images, motions = batch["places"].shape
        captions = [caption for of_one in zip(*batch["captions"], strict=True) for caption in of_one]
        kept = [text if keep else "" for text, keep in zip(captions, draw.text, strict=True)]
        text = self.model.encode_text(tokenize(kept, self.config.clip.text.context_length).to(self.inputs.device))
        with torch.no_grad():
            latents = self.inputs.encode_frames(frames, generator)
        moved = rearrange(latents[:, :, 1:], "p c n h w -> (p n) c 1 h w")
        concat = repeat(latents[:, :, 0], "p c h w -> (p n) c 1 h w", n=motions)
        seen = as_input(frames[:, 0])
        no_image = torch.zeros_like(seen[:1])
        context = self.model.encode_image(torch.cat([seen, no_image]))
        context = rearrange(context, "p (t m) d -> p t m d", t=self.config.frames)
        owner = torch.arange(images).repeat_interleave(motions)
        image = context[torch.where(draw.image, owner, images), batch["places"].flatten()]
        self.unet.set_temporal(False)
        return Inputs(moved, text, image, concat, batch["fps"].flatten().to(self.inputs.device))

    def evaluate(self) -> dict[str, float]:
        """The held-out loss at the last timestep, with a frame's own caption and with that of another motion."""
        generator = torch.Generator().manual_seed(0)
        last = self.config.schedule.num_timesteps - 1
        losses: list[Tensor] = []
        for i in range(0, len(self.held_out), SHOWN):
            batch = default_collate(self.held_out[i : i + SHOWN])
            inputs = self.moved(batch, ConditioningDraw.plain(batch["places"].numel()), generator)
            motions = batch["places"].shape[1]
            others = rearrange(inputs.text, "(p n) l d -> p n l d", n=motions).roll(1, dims=1).flatten(0, 1)
            t = torch.full((len(inputs.text),), last)
            x_t, target = self.process.noised(
                inputs.latents, t, torch.randn(inputs.latents.shape, generator=generator).to(inputs.latents)
            )
            made, of_others = (
                given.denoise(self.unet, x_t, t.to(x_t.device)) for given in (inputs, replace(inputs, text=others))
            )
            losses.append(torch.stack([((v - target) ** 2).mean() for v in (made, of_others)]))
            if i == 0:
                alpha = float(self.process.root[last]) ** 2
                _, x0 = to_eps_and_x0(self.config.schedule.prediction, made, x_t, alpha)
                pixels = self.model.decode(x0[:, :, 0] / float(self.process.rescale[last]))
                moved = quantize_uint8(rearrange(pixels, "(p n) c h w -> p n h w c", n=motions)).cpu()
                self.sampled = list(zip(batch["frames"], torch.cat([batch["frames"][:, :1], moved], 1), strict=True))
        own, other = torch.stack(losses).mean(0).tolist()
        return {"held_out_loss": own, "with_other_words": other}
