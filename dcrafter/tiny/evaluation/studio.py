"""Makes the videos that are measured; what several measures look at is made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dcrafter.config import Command
from dcrafter.generators import drain
from dcrafter.media.image import to_frames
from dcrafter.metrics.motion import Similarity, similarity
from dcrafter.metrics.pixels import as_input
from dcrafter.pipeline import Conditions, Event, Pipeline, Step, kept_frames, seeded_noise
from dcrafter.settings import Options, Settings, resolve
from dcrafter.tiny.data import Source
from dcrafter.tiny.evaluation import cases
from dcrafter.tiny.evaluation.cases import Case

Report = Callable[[str, float, int], None]
"""Told of progress: the name of a set of videos, how many of it are done (in parts, too), and of how many."""


@dataclass(frozen=True)
class Set:
    """A set of videos: which cases, and what the model is given."""

    cases: Callable[[Source, int, int], list[Case]]
    command: Command = "animate"
    context_scale: float = 1.0
    detail: bool = True  # the picture's latent beside the noisy one (visual detail guidance)


SETS = {
    "pictures": Set(cases.pictures),
    "paraphrases": Set(cases.paraphrases),
    "emoji": Set(cases.emoji),
    "loops": Set(cases.loops, command="loop"),
    "between": Set(cases.between, command="interpolate"),
    "context scale 0.5": Set(cases.pictures, context_scale=0.5),
    "context scale 1.5": Set(cases.pictures, context_scale=1.5),
    "no detail": Set(cases.pictures, detail=False),
}


KEYFRAMES: dict[Command, list[int]] = {"animate": [0], "loop": [0, 0], "interpolate": [0, -1]}  # of a case's clip


class Studio:
    """A model, held-out data, and the videos made so far.

    Video `number` of every set has the seed `seed + number`, so that sets of the same cases differ by nothing else.
    """

    def __init__(
        self, pipe: Pipeline, data: Path, *, seed: int = 0, batch: int = 8, options: Options, report: Report
    ) -> None:
        """`options`: steps and guidance. Raises InputError where there is no data."""
        self.pipe, self.data, self.seed, self.batch, self.report = pipe, data, seed, batch, report
        size = pipe.config.height  # the data is square
        self.options: Options = {**options, "width": size, "height": size, "motion": cases.FPS}
        self.source = Source(data, "held-out", size=size, frames=pipe.config.frames)
        self.made: dict[str, list[Tensor]] = {}
        self._cases: dict[tuple[str, int], list[Case]] = {}
        self._motions: dict[str, list[Similarity]] = {}

    def settings(self, name: str, caption: str = "", number: int = 0) -> Settings:
        """Of a video of a set. Raises UsageError where the model cannot make such."""
        options: Options = {**self.options, "context_scale": SETS[name].context_scale}
        return resolve(self.pipe.config, SETS[name].command, caption, self.seed + number, options)

    def cases(self, name: str, count: int) -> list[Case]:
        """The first `count` cases of a set."""
        if (name, count) not in self._cases:
            self._cases[name, count] = SETS[name].cases(self.source, self.seed, count)
        return self._cases[name, count]

    def videos(self, name: str, count: int) -> Tensor:
        """The first `count` videos of a set: (count, T, S, S, 3) uint8; a loop's T is one less."""
        done = self.made.setdefault(name, [])
        while len(done) < count:
            start = len(done)
            some = self.cases(name, count)[start : start + self.batch]
            done += self._film(name, some, start, count)
        return torch.stack(done[:count])

    @torch.inference_mode()
    def coded(self, pictures: Tensor) -> Tensor:
        """What the autoencoder leaves of pictures (n, 3, S, S) in [-1, 1], without posterior noise."""
        pipe, config = self.pipe, self.pipe.config.autoencoder
        for _ in pipe.hold("autoencoder"):
            pass
        made = []
        for some in torch.split(pictures, self.batch):
            height, width = (extent // config.downsampling for extent in some.shape[-2:])
            no_noise = torch.zeros(len(some), config.latent_channels, height, width)
            latents = pipe.model.encode_frames(some.to(pipe.device), no_noise.to(pipe.device))
            made.append(pipe.model.decode(latents).cpu())
        return torch.cat(made)

    def motions(self, name: str, count: int) -> list[Similarity]:
        """How the content of each of the first `count` videos moves."""
        done = self._motions.setdefault(name, [])
        done += [similarity(video) for video in self.videos(name, count)[len(done) :]]
        return done[:count]

    def _film(self, name: str, some: list[Case], start: int, count: int) -> list[Tensor]:
        """Videos of these cases, numbered from `start`, in one batch. Each draws noise of its own."""
        pipe, kind = self.pipe, SETS[name]
        settings = [self.settings(name, case.caption, start + i) for i, case in enumerate(some)]
        draws = [seeded_noise(each.seed) for each in settings]
        singly = []
        for case, each, draw in zip(some, settings, draws, strict=True):
            keyframes = as_input(case.frames[KEYFRAMES[kind.command]])
            singly.append(drain(pipe.encode(keyframes, each, draw)))
        conditions = Conditions.together(singly)
        if not kind.detail:
            conditions = replace(conditions, concat_latents=torch.zeros_like(conditions.concat_latents))

        def noise(shape: tuple[int, ...]) -> Tensor:
            return torch.cat([draw((1, *shape[1:])) for draw in draws])

        def follow(event: Event) -> None:
            if isinstance(event, Step):
                self.report(name, start + len(some) * event.index / event.total, count)

        latents = drain(pipe.sample(conditions, settings[0], noise), follow)
        pixels = drain(pipe.decode(latents[:, :, kept_frames(pipe.config.frames, settings[0])]))
        return [torch.from_numpy(to_frames(video)) for video in pixels]
