"""Distillation into few steps: a model learns to take in one step what it takes in several, guidance included.

Progressive distillation (Salimans and Ho, arXiv 2202.00512, algorithm 2), whose teacher takes any number of steps for
one of the student's, and is guided (arXiv 2210.03142). A step of DDIM without noise leads from x_t to one point for
each clean latent; the student learns the one that leads where the teacher goes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from dcrafter.models.tokenizer import tokenize
from dcrafter.models.unet import UNet3D
from dcrafter.sampling import load_sampler
from dcrafter.sampling.guidance import Guidance
from dcrafter.sampling.schedule import SamplingStep, sampling_steps, to_eps_and_x0
from dcrafter.training.adapters import without_lora
from dcrafter.training.denoiser import DenoiserStage
from dcrafter.training.inputs import Inputs
from dcrafter.training.parts import StageParts
from dcrafter.training.recipe import Recipe


class DistillationStage(DenoiserStage):
    """Trains all of the UNet, or a LoRA, to be sampled by `ddim` in few steps: eta 0, final rescale, guidance 1."""

    only_parts: ClassVar[StageParts | None] = StageParts(
        ("temporal", "spatial", "image attention", "embeddings"), detail=True
    )

    def __init__(self, recipe: Recipe, data: Path, *, plan_only: bool = False) -> None:
        """As `DenoiserStage` does."""
        super().__init__(recipe, data, plan_only=plan_only)
        schedule, options = self.config.schedule, recipe.distillation
        self.teacher_guidance, self.guidance, self.eta = self.guidance, Guidance(1.0), 0.0
        self.steps, finer = (
            sampling_steps(schedule, schedule.spacing, count, final_rescale=True)
            for count in (options.steps, options.steps * options.teacher_steps)
        )
        self.teacher_steps = divide(finer, self.steps)
        self.teacher: UNet3D | None = None

    def load_weights(self, paths: Sequence[Path]) -> None:
        """As any stage does. The teacher is the model as loaded; a LoRA's is the same without it."""
        super().load_weights(paths)
        if not self.lora:
            self.teacher = copy.deepcopy(self.unet).requires_grad_(False)

    def _loss(self, inputs: Inputs, generator: torch.Generator) -> Tensor:
        """The squared error of x₀ by 1 + SNR, at one of the student's steps."""
        place = int(torch.randint(len(self.steps), (), generator=generator))
        step = self.steps[place]
        t = torch.full((len(inputs.latents),), step.t, device=inputs.latents.device)
        eps = torch.randn(inputs.latents.shape, generator=generator).to(inputs.latents)
        x_t, _ = self.process.noised(inputs.latents, t, eps)
        x0 = clean_latents(x_t, self._taught(inputs, x_t, self.teacher_steps[place]), step)
        with self._kernel():
            predicted = inputs.denoise(self.unet, x_t, t)
        _, guess = to_eps_and_x0(self.config.schedule.prediction, predicted, x_t, step.alpha)
        return ((guess - x0) ** 2).mean() / (1 - step.alpha)

    @torch.no_grad()
    def _taught(self, inputs: Inputs, x_t: Tensor, steps: Sequence[SamplingStep]) -> Tensor:
        """Where some steps of the teacher lead from x_t."""
        unconditional = self._without_conditions(inputs)
        with self._teaching() as unet:

            def denoiser(x: Tensor, t: int) -> Tensor:
                times = torch.full((len(x),), t, device=x.device)
                return self.teacher_guidance(
                    lambda text, _: (inputs if text else unconditional).denoise(unet, x, times)
                )

            sampler, prediction = load_sampler(self.config.sampler), self.config.schedule.prediction
            for sampled in sampler(denoiser, x_t, steps, lambda: x_t, prediction=prediction, eta=0.0):
                x = sampled.x
        return x

    def _without_conditions(self, inputs: Inputs) -> Inputs:
        """The same clips without text and without the image's context."""
        if self.teacher_guidance.evaluations == 1:
            return inputs
        tokens = tokenize([""], self.config.clip.text.context_length).to(inputs.text.device)
        blank = inputs.text.new_zeros(1, 3, self.config.height, self.config.width)
        text, image = self.model.encode_text(tokens), self.model.encode_image(blank)
        return replace(inputs, text=text.expand_as(inputs.text), image=image.expand_as(inputs.image))

    @contextmanager
    def _teaching(self) -> Iterator[UNet3D]:
        """Context in which the UNet it gives is the teacher."""
        if self.teacher is not None:
            yield self.teacher
            return
        with without_lora(self.unet):
            yield self.unet


def divide(finer: Sequence[SamplingStep], steps: Sequence[SamplingStep]) -> list[list[SamplingStep]]:
    """The finer steps within each of a sampler's steps, both from the highest timestep on."""
    below = [*(step.t for step in steps[1:]), -1]
    return [[each for each in finer if step.t >= each.t > least] for step, least in zip(steps, below, strict=True)]


def clean_latents(x_t: Tensor, x_next: Tensor, step: SamplingStep) -> Tensor:
    """The x₀ from which a step of DDIM with eta 0 leads from x_t to x_next, all of one shape."""
    share = ((1 - step.alpha_prev) / (1 - step.alpha)) ** 0.5
    return (x_next - share * x_t) / (step.alpha_prev**0.5 * step.rescale - share * step.alpha**0.5)
