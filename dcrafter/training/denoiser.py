"""The denoiser's stages: a text-to-video base, then the paper's three (section 3.3)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, default_collate

from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.sampling.guidance import Guidance
from dcrafter.sampling.schedule import sampling_steps
from dcrafter.training.adapters import add_lora, export_lora
from dcrafter.training.held_out import figures, sample, sheet
from dcrafter.training.inputs import ConditioningDraw, InputEncoder, Inputs, Items
from dcrafter.training.memory import activation_bytes, unet_stages
from dcrafter.training.parts import STAGES, StageParts, add_dropout, freeze, initialize, parameter_groups, silence
from dcrafter.training.process import Process
from dcrafter.training.recipe import Conditioning, Recipe
from dcrafter.training.stage import TrainingStage
from dcrafter.training.videos import Videos

logger = logging.getLogger(__name__)

EVALUATION_CLIPS = 32  # that the loss is measured on
SHOWN = 6  # of them sampled, for metrics and to look at
STEPS = 20  # of DDIM


class DenoiserStage(TrainingStage):
    """Trains the parts that `STAGES` names; all else stays as it was found."""

    model: DynamiCrafter
    layers = ("UNetStage", "Block")
    only_parts: ClassVar[StageParts | None] = None  # of a subclass for one stage, whatever its name

    def __init__(self, recipe: Recipe, data: Path, *, plan_only: bool = False) -> None:
        """Build the model, initialized, and open the data.

        Args:
            recipe: what to train, and how.
            data: a folder or manifest of videos.
            plan_only: give the model no memory and look at no data: enough for `activations`.

        Raises:
            InputError: the data cannot be used.
        """
        super().__init__()
        self.config, self.options = recipe.model_config, recipe.conditioning
        self.parts = self.only_parts or STAGES[recipe.stage]
        torch.manual_seed(recipe.seed)
        with torch.device("meta" if plan_only else "cpu"):
            self.model = DynamiCrafter(self.config)
        self.unet = self.model.unet
        initialize(self.unet)
        self.groups = parameter_groups(self.unet)
        self.has_context = self.parts.context and self.options.context
        without = () if self.has_context else ("image_encoder", "projector")
        self.needed = tuple(name for name in self.parts.needed if name not in without)
        freeze(self.model, self.parts, self.options)
        self.lora = recipe.lora
        if self.lora:
            add_lora(self.model, self.lora)
        self._scale_context(float(self.has_context))
        if self.options.dropout and not plan_only:
            add_dropout(self.unet, self.options.dropout)
        if self.options.checkpointing and not plan_only:
            self._checkpoint_activations()
        schedule = self.config.schedule
        self.process = Process(schedule)
        self.guidance = Guidance(self.config.guidance, rescale=self.config.guidance_rescale)
        self.steps, self.eta = sampling_steps(schedule, schedule.spacing, STEPS), 1.0
        has_detail = self.parts.detail and self.options.detail
        self.inputs = InputEncoder(self.model, context=self.has_context, detail=has_detail)
        self.only_ends = "animate" not in self.config.commands or self.options.interpolation == 1
        self.sampled: list[tuple[Tensor, Tensor]] = []  # true and generated frames of the clips shown
        self.skipped: set[str] = set()  # videos that failed, each with its reason
        self.at_once = min(recipe.train.batch, SHOWN)  # clips
        if plan_only:
            return
        items = recipe.train.steps * recipe.train.batch * recipe.train.accumulate
        held_out = self.draws(replace(recipe, seed=recipe.seed + 1), data, EVALUATION_CLIPS, held_out=True)
        self.held_out = [held_out[i] for i in range(EVALUATION_CLIPS)]
        self.dataset = self.draws(recipe, data, items)

    def draws(self, recipe: Any, data: Path, length: int, *, held_out: bool = False) -> Dataset[Any]:
        """What a run trains on, or with `held_out` is evaluated on."""
        config = self.config
        videos = Videos(
            data, recipe.videos, recipe.seed, length,
            height=config.height, width=config.width, frames=config.frames, held_out=held_out,
        )  # fmt: skip
        self.about_data = videos.about()
        return Items(videos.clip, recipe, length, loops=0.0 if held_out else recipe.conditioning.loop_share)

    def trained_parts(self) -> list[str]:
        if self.lora:
            return [f"LoRA of rank {self.lora.rank} in the unet's {part} layers" for part in self.lora.parts]
        of_unet = {self.groups[name] for name, value in self.unet.named_parameters() if value.requires_grad}
        others = [name for name in super().trained_parts() if name != "unet"]
        return [*(f"unet's {group}" for group in sorted(of_unet)), *others]

    def begins_anew(self, name: str) -> bool:
        return self.groups.get(name.removeprefix("unet.")) in self.parts.fresh

    def activations(self, batch: int, dtype: torch.dtype) -> int:
        single, checkpointing = self.parts.single_frames, self.options.checkpointing
        return activation_bytes(
            self.model, batch, dtype, context=self.has_context, single=single, checkpointing=checkpointing
        )

    def load_weights(self, paths: Sequence[Path]) -> None:
        """As any stage does. What the recipe leaves out is silenced, so that the model does without it too."""
        super().load_weights(paths)
        silence(self.unet, self.options)

    def export(self, weights: Mapping[str, Tensor], out: Path) -> Path:
        """As any stage does; of a LoRA its factors alone."""
        if not self.lora:
            return super().export(weights, out)
        path = out / "lora.safetensors"
        export_lora(weights, self.lora, path, model=self.config.name)
        return path

    # Training

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """A batch of `Items`."""
        self._warn_of_skipped(batch["skipped"])
        draw = ConditioningDraw.random(batch["loop"].cpu(), batch["frames"].shape[1], self.options, generator)
        single = self.parts.single_frames or bool(torch.rand((), generator=generator) < self.options.single_frames)
        inputs = self.inputs(batch, draw, generator, single=single)
        if self.has_context and self.options.scales:
            inputs = self._at_some_scale(inputs, draw, generator)
        return {"loss": self._loss(inputs, generator)}

    def _warn_of_skipped(self, lines: Sequence[str]) -> None:
        """Name each video that failed once, whichever worker met it."""
        for line in filter(None, "\n".join(lines).split("\n")):
            if line not in self.skipped:
                self.skipped.add(line)
                logger.warning("skipped %s (%d so far)", line, len(self.skipped))

    def _at_some_scale(self, inputs: Inputs, draw: ConditioningDraw, generator: torch.Generator) -> Inputs:
        """The batch at a context scale s, given a motion condition that usually moves s times as much as it does."""
        exponent, share = torch.rand(2, generator=generator).tolist()
        scale = 2 ** (2 * exponent - 1) if share < self.options.scales else 1.0
        self._scale_context(scale)
        slower = 1 / scale if self.config.motion.unit == "FPS" else scale  # FPS falls with motion, a stride grows
        ends = draw.ends.to(self.inputs.device)  # the motion between given frames is given too
        return replace(inputs, fs=torch.where(ends, inputs.fs, inputs.fs * slower))

    def _scale_context(self, scale: float) -> None:
        self.unet.set_context_scale([scale] * self.config.unet.dual_attention_layers)

    def _loss(self, inputs: Inputs, generator: torch.Generator) -> Tensor:
        x0, clean, last = inputs.latents, inputs.concat_latents, self.config.schedule.num_timesteps - 1
        t = torch.randint(last + 1, (len(x0),), generator=generator)
        if self.training and self.options.noisiest:
            noisiest = torch.rand(len(x0), generator=generator) < self.options.noisiest
            t = torch.where(noisiest, last, t)
        if self.training and self.options.time_noise:
            noisy = self.process.time_noise(inputs.concat_latents, t, self.options.time_noise, generator)
            inputs = replace(inputs, concat_latents=noisy)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        x_t, target = self.process.noised(x0, t, eps)
        with self._kernel():
            predicted = inputs.denoise(self.unet, x_t, t.to(x0.device))
        errors = ((predicted - target) ** 2).mean(dim=(1, 3, 4))  # (B, T)
        if not self.training:
            return errors.mean()
        weights = frame_weights(x0, clean, self.options)
        return (errors * weights).sum() / weights.sum()

    def _kernel(self) -> AbstractContextManager[None]:
        # On a CPU the fused attention's backward pass takes longer than all the rest of a step.
        return sdpa_kernel(SDPBackend.MATH) if self.inputs.device.type == "cpu" else nullcontext()

    def _checkpoint_activations(self) -> None:
        """Recompute each stage of the UNet in the backward pass."""
        again = functools.partial(checkpoint, use_reentrant=False, context_fn=lambda: (self._kernel(), self._kernel()))
        for module in unet_stages(self.unet):
            module.forward = functools.partial(again, module.forward)  # type: ignore[method-assign]

    # Metrics

    def evaluate(self) -> dict[str, float]:
        """The loss on held-out clips, and figures of some that are sampled.

        Their first frame is the image; where a model only interpolates, the last one is given too.
        """
        generator = torch.Generator().manual_seed(0)
        self._scale_context(float(self.has_context))
        losses = []
        for i in range(0, EVALUATION_CLIPS, self.at_once):
            batch = default_collate(self.held_out[i : i + self.at_once])
            draw = ConditioningDraw.plain(len(batch["frames"]), ends=self.only_ends)
            inputs = self.inputs(batch, draw, generator, single=self.parts.single_frames)
            losses.append(self._loss(inputs, generator) * len(batch["frames"]))
        shown = self.held_out[:SHOWN]
        parts = [self._sample(shown[i : i + self.at_once], generator) for i in range(0, SHOWN, self.at_once)]
        true, generated = (torch.cat(frames) for frames in zip(*parts, strict=True))
        self.sampled = list(zip(true, generated, strict=True))
        loss = float(torch.stack(losses).sum() / EVALUATION_CLIPS)
        return {"held_out_loss": loss, **figures(true, generated, both_ends=self.only_ends)}

    def _sample(self, items: list[dict[str, Any]], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """True and generated frames (n, T, H, W, 3) uint8 of n held-out clips."""
        batch, clips, single = default_collate(items), len(items), self.parts.single_frames
        plain = ConditioningDraw.plain(clips, ends=self.only_ends)
        inputs = self.inputs(batch, plain, generator, single=single)
        nothing = replace(plain, text=~plain.text, image=~plain.image)
        without = replace(self.inputs(batch, nothing, generator, single=single), concat_latents=inputs.concat_latents)

        def denoiser(x: Tensor, t: int) -> Tensor:
            times = torch.full((clips,), t, device=x.device)
            return self.guidance(lambda text, image: (inputs if text else without).denoise(self.unet, x, times))

        prediction = self.config.schedule.prediction
        latents = sample(denoiser, inputs.latents, self.steps, generator, prediction=prediction, eta=self.eta)
        generated = self.inputs.decode_frames(latents)
        return batch["frames"][:, : generated.shape[1]], generated

    def preview(self) -> Tensor:
        """Each sampled clip below the one it should resemble."""
        return sheet(self.sampled)


def frame_weights(x0: Tensor, clean: Tensor, options: Conditioning) -> Tensor:
    """How much each frame of latents counts beside the guidance, both (B, C, T, h, w): (B, T)."""
    given = (x0 == clean).all(dim=4).all(dim=3).all(dim=1)
    weights = 1 + (options.given - 1) * 0.5 ** distance_to_given(given)
    return weights * torch.linspace(1, options.later, x0.shape[2], device=x0.device)


def distance_to_given(given: Tensor) -> Tensor:
    """How far each frame is from the nearest one that is given: (B, T) bool → (B, T), infinite where none is."""
    place = torch.arange(given.shape[1], device=given.device)
    apart = (place[:, None] - place).abs().float()
    return torch.where(given[:, None], apart, torch.inf).amin(dim=2)
