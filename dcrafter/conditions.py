"""From prompts and images to what the denoiser is given beside the noisy latents, and to the denoiser that has it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from dcrafter.config import Command, ModelConfig
from dcrafter.events import Encoding, Event
from dcrafter.media.image import ImageSource, fit_image, fit_reference, open_image, to_tensor
from dcrafter.models.dynamicrafter import References, detail_guidance
from dcrafter.models.tokenizer import is_cut, tokenize
from dcrafter.models.unet import DeepFeatures
from dcrafter.runtime.residency import Residency
from dcrafter.sampling.ddim import Denoiser
from dcrafter.sampling.guidance import Guidance
from dcrafter.sampling.reuse import Distances, plan_work
from dcrafter.sampling.schedule import SamplingStep
from dcrafter.sampling.windows import fuse, windows
from dcrafter.settings import Settings

logger = logging.getLogger(__name__)

REMEMBERED = 64  # prompts, a few hundred kilobytes each

Noise = Callable[[tuple[int, ...]], Tensor]
"""Draws standard normal noise of a shape, on the CPU. The order of draws is a promise: the posterior of each
keyframe together, the noise on their latents where it is asked for, then x_T, then one a step."""


def seeded_noise(seed: int) -> Noise:
    """Noise from one generator on the CPU: the same seed is the same noise on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class Keyframes:
    """The given images in [-1, 1], at both sizes that matter: the same tensor where these are one."""

    input: Tensor  # (n, 3, H, W), the size of the settings: what the model sees
    output: Tensor  # (n, 3, sH, sW), the size of decoded frames: what they are compared with
    closeup: (
        Tensor  # (n, 3, 2·sH, 2·sW) where frames are larger than the input, for what is zoomed in on; else as output
    )
    size: tuple[int, int]  # width and height of the first image as it was given

    @staticmethod
    def open(images: Sequence[ImageSource], settings: Settings, config: ModelConfig) -> Keyframes:
        """Fit images into the frame. Raises InputError for one that cannot be read."""
        opened = [open_image(image) for image in images]

        def fitted(fit: Callable[..., Image], width: int, height: int) -> Tensor:
            return torch.stack([to_tensor(fit(image, width, height, settings.fit)) for image in opened])

        size = settings.width, settings.height
        given, output = fitted(fit_image, *size), config.output_size(*size)
        if output == size:
            return Keyframes(given, given, given, opened[0].size)
        larger = fitted(fit_reference, 2 * output[0], 2 * output[1])
        return Keyframes(given, fitted(fit_reference, *output), larger, opened[0].size)

    def given(self, command: Command, part: int = 0) -> Tensor:
        """What a part of a video is made from, (1 or 2, 3, H, W): a first image, or a first and a last."""
        return self.input.expand(2, -1, -1, -1) if command == "loop" else self.input[part : part + 2]

    def references(self, command: Command, part: int, last: Tensor | None, length: int) -> References:
        """What a clip of so many frames is decoded beside.

        To animate: the given frame; where a clip goes on from the last of another, the original image over it, for it
        is sharper. To interpolate: first and last. To loop: the one image, which is also the frame after the last.
        """
        images, closeups = self.output, self.closeup
        if last is not None:
            larger = F.interpolate(last, closeups.shape[-2:], mode="bicubic")
            return References(torch.cat([last, images])[None], (0, None), torch.cat([larger, closeups])[None])
        if command == "animate":
            return References(images[None], (0,), closeups[None])
        if command == "interpolate":
            these = slice(part, part + min(2, length))
            return References(images[None, these], (0, length - 1)[:length], closeups[None, these])
        twice = (2, -1, -1, -1)
        return References(images.expand(twice)[None], (0, length), closeups.expand(twice)[None])


@dataclass(frozen=True, eq=False)
class Still:
    """What stays as it is given."""

    latents: Tensor  # (B, C, T, h, w)
    mask: Tensor  # (B, 1, 1, h, w): 0 where it does, 1 where the video may move


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the denoiser is given beside the noisy latents of B videos (one, as the encoder makes them)."""

    text: Tensor  # (B, L, D)
    uncond_text: Tensor  # of the negative prompt
    image: Tensor  # (B, queries, D)
    uncond_image: Tensor  # of a mid-grey image
    concat_latents: Tensor  # (B, C, T, h, w)
    still: Still | None = None
    sketch: Tensor | None = None  # (B, 1, T, H, W), lines 1 on paper 0

    @staticmethod
    def together(conditions: Sequence[Conditions]) -> Conditions:
        """Those of several videos without masks and sketches, to be sampled at once."""
        names = [each.name for each in fields(Conditions) if each.name not in ("still", "sketch")]
        joined: dict[str, Any] = {name: torch.cat([getattr(c, name) for c in conditions]) for name in names}
        return Conditions(**joined)


class ConditionEncoder:
    """Encodes prompts and keyframes, each component loaded once for all videos."""

    def __init__(self, residency: Residency) -> None:
        self.residency, self.model = residency, residency.model
        self._texts: dict[tuple[str, str], Tensor] = {}  # encoded prompts, the latest

    @torch.inference_mode()
    def encode(self, videos: Sequence[tuple[Tensor, Settings, Noise]]) -> Generator[Event, None, list[Conditions]]:
        """Keyframes (1 or 2, 3, H, W) in [-1, 1], settings and noise of each video → Conditions."""
        texts, images, latents, stills = [], [], [], []
        for _, settings, _ in videos:
            texts.append((yield from self._encode_text(settings.prompt, settings.negative_prompt)))
        for keyframes, settings, _ in videos:
            images.append((yield from self._encode_image(keyframes, settings.first_image_weight)))
        for keyframes, settings, noise in videos:
            latents.append((yield from self._encode_frames(keyframes, noise)))
            stills.append(self._still(latents[-1], settings) if settings.mask else None)
            if settings.image_noise:  # as TimeNoise trains with (arXiv 2406.15735, section 4.2)
                drawn = noise(tuple(latents[-1].shape)).to(latents[-1])
                latents[-1] = latents[-1] + settings.image_noise * drawn
        sketches = [self._sketch(settings) if settings.sketch else None for _, settings, _ in videos]
        return [
            Conditions(
                text[:1], text[1:], image[:1], image[1:], detail_guidance(encoded, each.sampled_frames), still, sketch
            )
            for text, image, encoded, still, sketch, (_, each, _) in zip(
                texts, images, latents, stills, sketches, videos, strict=True
            )
        ]

    def _encode_text(self, prompt: str, negative_prompt: str) -> Generator[Event, None, Tensor]:
        """Prompt and negative prompt → (2, L, D). The latest are remembered."""
        prompts = (prompt, negative_prompt)
        if prompts not in self._texts:
            yield Encoding("prompt")
            yield from self.residency.ensure_loaded("text_encoder")
            length = self.model.config.clip.text.context_length
            for name, text in zip(("prompt", "negative prompt"), prompts, strict=True):
                if is_cut(text, length):
                    logger.warning("the %s is longer than the %d tokens the model reads; it is cut", name, length - 2)
            tokens = tokenize([*prompts], length).to(self.residency.device)
            if len(self._texts) == REMEMBERED:
                self._texts.pop(next(iter(self._texts)))
            self._texts[prompts] = self.residency.run_finite(lambda: self.model.encode_text(tokens), "text_encoder")
        return self._texts[prompts]

    def _encode_image(self, keyframes: Tensor, first_weight: float) -> Generator[Event, None, Tensor]:
        """The first of keyframes (n, 3, H, W), or with a weight below 1 a mixture of first and last, and a mid-grey
        image → (2, queries, D)."""
        yield Encoding("picture")
        yield from self.residency.ensure_loaded("image_encoder", "projector")
        first = keyframes[:1].to(self.residency.device)
        last = keyframes[1:].to(first) if first_weight < 1 else first[:0]
        seen = torch.cat([first, last, torch.zeros_like(first)])
        encoded = self.residency.run_finite(lambda: self.model.encode_image(seen), "image_encoder", "projector")
        if len(last):  # mixed as contexts: a mixture of pixels would be a third image
            encoded = torch.cat([torch.lerp(encoded[1:2], encoded[:1], first_weight), encoded[2:]])
        return encoded

    def _encode_frames(self, keyframes: Tensor, noise: Noise) -> Generator[Event, None, Tensor]:
        """Keyframes (n, 3, H, W) → latents as `encode_frames` gives them."""
        yield Encoding("frames")
        yield from self.residency.ensure_loaded("autoencoder")
        config, device = self.model.config.autoencoder, self.residency.device
        n, _, height, width = keyframes.shape
        shape = (n, config.latent_channels, height // config.downsampling, width // config.downsampling)
        drawn = noise(shape).to(device)
        return self.residency.run_finite(lambda: self.model.encode_frames(keyframes.to(device), drawn), "autoencoder")

    def _still(self, latents: Tensor, settings: Settings) -> Still:
        """Latents (1 or 2, C, h, w) of keyframes, one fading into the other over the frames, and the mask's image."""
        assert settings.mask is not None
        share = torch.linspace(0, 1, settings.sampled_frames, device=latents.device)[:, None, None]
        image = fit_image(open_image(settings.mask), settings.width, settings.height, settings.fit)
        white = (to_tensor(image).mean(dim=0)[None, None, None] + 1) / 2  # (1, 1, 1, H, W)
        mask = F.adaptive_avg_pool3d(white, (1, *latents.shape[2:]))
        return Still(torch.lerp(latents[0][:, None], latents[-1][:, None], share)[None], mask.to(latents))

    def _sketch(self, settings: Settings) -> Tensor:
        """The line drawings, dark on white, as the encoder takes them; frames without one are empty."""
        from dcrafter.media.video import read_drawings  # imports PyAV, which nothing else here needs

        assert settings.sketch is not None
        sketch = torch.zeros(1, 1, settings.sampled_frames, settings.height, settings.width)
        for t, drawing in read_drawings(settings.sketch, settings.sampled_frames).items():
            fitted = fit_image(drawing, settings.width, settings.height, settings.fit).convert("L")
            sketch[0, 0, t] = 1 - torch.from_numpy(np.array(fitted)) / 255
        return sketch.to(self.residency.device)


def guided_denoiser(
    residency: Residency, conditions: Conditions, settings: Settings, steps: Sequence[SamplingStep]
) -> Denoiser:
    """The UNet, which must be loaded, with its conditions and guidance in place, over as many frames as there are.

    It is for these steps, in their order: it keeps what they save.
    """
    c, model, device = conditions, residency.model, residency.device
    dtype = model.unet.conv_in.weight.dtype
    texts = {True: c.text.to(dtype), False: c.uncond_text.to(dtype)}
    images = {True: c.image.to(dtype), False: c.uncond_image.to(dtype)}
    fs = torch.full((len(c.text),), settings.motion, device=device)
    guidance = Guidance(settings.guidance, settings.image_guidance, settings.guidance_rescale, settings.last_guidance)
    length = c.concat_latents.shape[2]
    place = torch.linspace(0, 1, length, device=device)
    works = plan_work(steps, model.config.schedule.num_timesteps, **settings.savings())
    work_at = dict(zip((step.t for step in steps), works, strict=True))
    distances: defaultdict[int, Distances] = defaultdict(Distances)  # of each window
    features: defaultdict[tuple[int, bool, bool], DeepFeatures] = defaultdict(DeepFeatures)  # and each branch

    def denoise(x: Tensor, t: int, frames: slice) -> Tensor:
        time, work = torch.full((len(x),), t, device=device), work_at[t]
        given = c.concat_latents[:, :, frames]

        def predict(with_text: bool, with_image: bool) -> Tensor:
            text, image = texts[with_text], images[with_image]
            residuals: Sequence[Tensor] = ()
            if c.sketch is not None:
                drawn = c.sketch[:, :, frames]
                residuals = model.follow_sketch(x, time, text, image, drawn, settings.sketch_scale)
            deep = None
            if settings.deep_every > 1:
                deep = features[frames.start, with_text, with_image]
                deep.anew = work.deep
            return model.denoise(x, time, text, image, given, fs, residuals, deep)

        if not work.guided:
            return predict(True, True)
        return guidance(distances[frames.start].keep(predict, anew=work.unconditional), place[frames])

    return fuse(denoise, windows(length, settings.window, settings.overlap))
