"""What the denoiser is given in training: the items of a batch, what is drawn for them, and their encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset

from dcrafter.metrics.pixels import as_input, quantize_uint8
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.models.tokenizer import tokenize
from dcrafter.models.unet import UNet3D
from dcrafter.training.recipe import Conditioning, Recipe
from dcrafter.training.videos import motion_condition

PIXELS = 2**22  # that the autoencoder gets at once: seven frames of the 1024 model


class Items(Dataset[dict[str, Any]]):
    """What a denoiser's stage collates: {"frames": (T, H, W, 3) uint8, "caption", "fs", "loop", "skipped"}.

    "fs" is the model's motion condition; a "loop" comes back to its first frame; "skipped" names videos that failed
    (see `Videos`).
    """

    def __init__(self, draw: Callable[..., dict[str, Any]], recipe: Recipe, length: int, *, loops: float) -> None:
        """`draw(index, loop=…)` gives {"frames", "caption", "fps", "stride"}; a share `loops` of items are loops."""
        self.draw, self.seed, self.length, self.loops = draw, recipe.seed, length, loops
        self.motion = recipe.model_config.motion

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        loop = bool(np.random.default_rng([self.seed, index, 1]).random() < self.loops)
        clip = self.draw(index, loop=loop)
        return {
            "frames": clip["frames"],
            "caption": clip["caption"],
            "fs": motion_condition(clip, self.motion),
            "loop": loop,
            "skipped": clip.get("skipped", ""),
        }


@dataclass(frozen=True)
class Inputs:
    """What the denoiser is given for B clips of T frames, and the clean latents."""

    latents: Tensor  # (B, C, T, h, w)
    text: Tensor  # (B, L, D)
    image: Tensor  # (B, M, D)
    concat_latents: Tensor  # (B, C, T, h, w)
    fs: Tensor  # (B,)

    def denoise(self, unet: UNet3D, x_t: Tensor, t: Tensor) -> Tensor:
        return unet(torch.cat([x_t, self.concat_latents], dim=1), t, self.text, self.image, self.fs).float()


@dataclass(frozen=True)
class ConditioningDraw:
    """The random choices for a batch, one value per clip, on the CPU wherever the batch is."""

    condition: Tensor  # the frame that is the image
    text: Tensor  # True where the text is kept
    image: Tensor  # True where the image is kept in the context
    ends: Tensor  # True where the first and last frame are the guidance, and none between

    @staticmethod
    def plain(clips: int, *, ends: bool = False) -> ConditioningDraw:
        """As in inference: everything is kept, and the image is the first frame."""
        yes = torch.ones(clips, dtype=torch.bool)
        return ConditioningDraw(torch.zeros(clips, dtype=torch.long), yes, yes, yes if ends else ~yes)

    @staticmethod
    def random(loops: Tensor, frames: int, options: Conditioning, generator: torch.Generator) -> ConditioningDraw:
        """For clips of `frames` frames; where `loops` (B,) is True both ends are given."""
        clips = len(loops)

        def uniform() -> Tensor:
            return torch.rand(clips, generator=generator)

        anywhere = torch.randint(frames, (clips,), generator=generator)
        condition = anywhere * (uniform() >= options.first_frame)
        dropped, text, image, both = uniform(), options.drop_text, options.drop_image, options.drop_both
        without_text = (dropped < text) | ((dropped >= text + image) & (dropped < text + image + both))
        without_image = (dropped >= text) & (dropped < text + image + both)
        share = options.interpolation * (1 - options.loops) / max(1 - options.loop_share, 1e-6)
        ends = loops | (uniform() < share)
        return ConditioningDraw(condition * ~ends, ~without_text, ~without_image, ends)


class InputEncoder:
    """Encodes batches by a model's frozen parts, and with the image context by its query transformer."""

    def __init__(self, model: DynamiCrafter, *, context: bool, detail: bool) -> None:
        self.model, self.config, self.has_context, self.has_detail = model, model.config, context, detail
        self.frames_at_once = max(PIXELS // (self.config.height * self.config.width), 1)

    @property
    def device(self) -> torch.device:
        return self.model.unet.conv_in.weight.device

    def __call__(
        self, batch: dict[str, Any], draw: ConditioningDraw, generator: torch.Generator, *, single: bool = False
    ) -> Inputs:
        """Encode a batch.

        Args:
            batch: of `Items`.
            draw: the random choices for it.
            generator: of the posterior's noise, on the CPU.
            single: keep one frame per clip, the image itself, for the spatial layers alone.
        """
        frames: Tensor = batch["frames"].to(self.device)  # (B, T, H, W, 3)
        clips, count = frames.shape[:2]
        every = torch.arange(clips)
        images = as_input(frames[every, draw.condition])  # (B, 3, H, W)
        place = draw.condition
        if single:
            frames = frames[every, place][:, None]
            draw = replace(draw, condition=torch.zeros_like(place))
        captions = [text if keep else "" for text, keep in zip(batch["caption"], draw.text, strict=True)]
        tokens = tokenize(captions, self.config.clip.text.context_length).to(self.device)
        text = self.model.encode_text(tokens)
        with torch.no_grad():
            latents = self.encode_frames(frames, generator)
        latents[batch["loop"], :, -1] = latents[batch["loop"], :, 0]  # the same draw of the posterior
        concat = self._guidance(latents, draw) if self.has_detail else torch.zeros_like(latents)
        if self.has_context:
            image = self.model.encode_image(images * draw.image.to(images)[:, None, None, None])
            if single:  # the tokens of the image's own frame
                image = rearrange(image, "b (t m) d -> b t m d", t=count)[every, place]
        else:
            image = text.new_zeros(clips, 1, text.shape[-1])
        self.model.unet.set_temporal(not single)
        return Inputs(latents, text, image, concat, batch["fs"].to(self.device))

    def encode_frames(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """(B, T, H, W, 3) uint8 → latents (B, C, T, h, w), one draw of the posterior."""
        pixels = as_input(rearrange(frames, "b t h w c -> (b t) h w c"))
        factor, channels = self.config.autoencoder.downsampling, self.config.autoencoder.latent_channels
        shape = (len(pixels), channels, pixels.shape[-2] // factor, pixels.shape[-1] // factor)
        noise = torch.randn(shape, generator=generator).to(pixels)
        pairs = zip(*(torch.split(part, self.frames_at_once) for part in (pixels, noise)), strict=True)
        latents = torch.cat([self.model.encode_frames(*pair) for pair in pairs])
        return rearrange(latents, "(b t) c h w -> b c t h w", b=len(frames))

    def _guidance(self, latents: Tensor, draw: ConditioningDraw) -> Tensor:
        """Visual detail guidance (paper, sections 3.2 and 6): the image's latent in every frame, or both ends."""
        image = latents[torch.arange(len(latents)), :, draw.condition][:, :, None].expand_as(latents)
        ends = torch.zeros_like(latents)
        ends[:, :, [0, -1]] = latents[:, :, [0, -1]]
        return torch.where(draw.ends.to(latents.device)[:, None, None, None, None], ends, image)

    def decode_frames(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T, h, w) → frames (B, T, H, W, 3) uint8 on the CPU."""
        codes = torch.split(rearrange(latents, "b c t h w -> (b t) c h w"), self.frames_at_once)
        pixels = torch.cat([quantize_uint8(self.model.decode(some)).cpu() for some in codes])
        return rearrange(pixels, "(b t) c h w -> b t h w c", b=len(latents))
