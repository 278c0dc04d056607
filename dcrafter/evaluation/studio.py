"""Generates the videos that are measured; what several measures look at is generated once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dcrafter.conditions import Conditions, seeded_noise
from dcrafter.config import Command
from dcrafter.events import Event, Step
from dcrafter.generators import drain
from dcrafter.media.image import to_frames
from dcrafter.metrics.pixels import as_input
from dcrafter.metrics.similarity import Similarity, similarity
from dcrafter.pipeline import Pipeline, kept_frames
from dcrafter.settings import Options, Settings, resolve

Report = Callable[[str, float, int], None]
"""Called with progress: the name of a set of videos, how many of it are done (in parts, too), and of how many."""


@dataclass(frozen=True, eq=False)
class Case:
    """A caption and the data's own clip at the model's size; its first frame is the image to animate."""

    caption: str
    frames: Tensor  # (T, H, W, 3) uint8; T may be 1 where nothing but the image is needed
    fs: int  # the motion condition: frame stride or FPS, as the model has it
    direction: str | None = None  # the motion that the caption asks for, such as "pan left"


@dataclass(frozen=True)
class VideoSet:
    """Videos of one kind: which cases, and what the model is given."""

    cases: Callable[[int, int], list[Case]]  # of a seed and a count; the first of many are the same as of few
    command: Command = "animate"
    context_scale: float = 1.0
    without: Literal["detail", "context", "text", ""] = ""  # what the model is not given (paper, table 4)


KEYFRAMES: dict[Command, list[int]] = {"animate": [0], "loop": [0, 0], "interpolate": [0, -1]}  # of a case's clip


class Studio:
    """A model, sets of cases, and the videos generated so far.

    Video `number` of every set has the seed `seed + number`, so that sets of the same cases differ by nothing else.
    Frames are the autoencoder's own: no detail of the image is laid over them.
    """

    def __init__(
        self,
        pipe: Pipeline,
        sets: Mapping[str, VideoSet],
        *,
        seed: int = 0,
        batch: int = 8,
        options: Options,
        report: Report,
    ) -> None:
        """Prepare to generate; nothing is generated yet.

        Args:
            pipe: the model.
            sets: the sets of videos by name.
            seed: of the cases and of the first video of each set.
            batch: how many videos are sampled at once.
            options: steps and guidance.
            report: called with progress.
        """
        self.pipe, self.sets, self.seed, self.batch, self.report = pipe, sets, seed, batch, report
        self.options: Options = {**options, "width": pipe.config.width, "height": pipe.config.height}
        self.generated: dict[str, dict[int, Tensor]] = {}  # by set and number
        self._cases: dict[tuple[str, int], list[Case]] = {}
        self._similarities: dict[str, list[Similarity]] = {}

    def settings(self, name: str, caption: str = "", number: int = 0, fs: int | None = None) -> Settings:
        """The settings of video `number` of a set. Raises UsageError where the model cannot generate such."""
        options: Options = {**self.options, "context_scale": self.sets[name].context_scale}
        if fs is not None:
            options["motion"] = fs
        return resolve(self.pipe.config, self.sets[name].command, caption, self.seed + number, options)

    def cases(self, name: str, count: int) -> list[Case]:
        """The first `count` cases of a set."""
        if (name, count) not in self._cases:
            self._cases[name, count] = self.sets[name].cases(self.seed, count)
        return self._cases[name, count]

    def videos(self, name: str, count: int) -> Tensor:
        """The first `count` videos of a set: (count, T, H, W, 3) uint8; a loop's T is one less."""
        done, cases = self.generated.setdefault(name, {}), self.cases(name, count)
        while missing := [number for number in range(count) if number not in done]:
            alike = [number for number in missing if cases[number].fs == cases[missing[0]].fs][: self.batch]
            videos = self._generate(name, [(number, cases[number]) for number in alike], len(missing), count)
            done |= dict(zip(alike, videos, strict=True))
        return torch.stack([done[number] for number in range(count)])

    @torch.inference_mode()
    def reconstruct(self, images: Tensor) -> Tensor:
        """What the autoencoder makes of images (n, 3, H, W) in [-1, 1], without posterior noise."""
        pipe, config = self.pipe, self.pipe.config.autoencoder
        drain(pipe.residency.ensure_loaded("autoencoder"))
        reconstructed = []
        for some in torch.split(images, self.batch):
            height, width = (extent // config.downsampling for extent in some.shape[-2:])
            no_noise = torch.zeros(len(some), config.latent_channels, height, width)
            latents = pipe.model.encode_frames(some.to(pipe.device), no_noise.to(pipe.device))
            reconstructed.append(pipe.model.decode(latents).cpu())
        return torch.cat(reconstructed)

    def similarities(self, name: str, count: int) -> list[Similarity]:
        """How the content of each of the first `count` videos moves as a whole."""
        done = self._similarities.setdefault(name, [])
        done += [similarity(video) for video in self.videos(name, count)[len(done) :]]
        return done[:count]

    def _generate(self, name: str, some: list[tuple[int, Case]], missing: int, count: int) -> list[Tensor]:
        """Videos of these numbered cases in one batch. Each draws noise of its own."""
        pipe, kind = self.pipe, self.sets[name]
        settings = [self.settings(name, case.caption, number, case.fs) for number, case in some]
        draws = [seeded_noise(each.seed) for each in settings]
        singly = []
        for (_, case), each, draw in zip(some, settings, draws, strict=True):
            keyframes = as_input(case.frames[KEYFRAMES[kind.command]])
            singly.append(drain(pipe.encode(keyframes, each, draw)))
        conditions = _without(kind.without, Conditions.together(singly))

        def noise(shape: tuple[int, ...]) -> Tensor:
            return torch.cat([draw((1, *shape[1:])) for draw in draws])

        def follow(event: Event) -> None:
            if isinstance(event, Step):
                self.report(name, count - missing + len(some) * event.index / event.total, count)

        latents = drain(pipe.sample(conditions, settings[0], noise), follow)
        pixels = drain(pipe.decode(latents, kept_frames(settings[0])))
        return [torch.from_numpy(to_frames(video)) for video in pixels]


def _without(part: str, conditions: Conditions) -> Conditions:
    """Conditions that lack a part: the image's latent (visual detail guidance), its context, or the text."""
    match part:
        case "detail":
            return replace(conditions, concat_latents=torch.zeros_like(conditions.concat_latents))
        case "context":
            return replace(conditions, image=conditions.uncond_image)
        case "text":
            return replace(conditions, text=conditions.uncond_text)
    return conditions
