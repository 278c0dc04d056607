"""A studio whose videos are already there. A module of its own, for general measures and the built-in model's."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dcrafter.evaluation.measures import Measure, Row
from dcrafter.evaluation.studio import Case
from dcrafter.metrics.similarity import Similarity

COUNT = 16


def clip(*greys: int) -> Tensor:
    return torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 4, 3)


@dataclass
class ReadyStudio:
    """Stands for a `Studio`; what a measure does not declare to look at, it cannot have."""

    ready: dict[str, Tensor] = field(default_factory=dict)
    true: Tensor = field(default_factory=lambda: clip(0, 10, 20, 30))
    measured: list[Similarity] = field(default_factory=list)
    directions: tuple[str, ...] = ("",)
    seed: int = 0

    def cases(self, name: str, count: int) -> list[Case]:
        return [Case("", self.true, 12, self.directions[i % len(self.directions)]) for i in range(count)]

    def videos(self, name: str, count: int) -> Tensor:
        return self.ready[name].expand(count, *self.ready[name].shape)

    def reconstruct(self, images: Tensor) -> Tensor:
        return images + 0.1

    def similarities(self, name: str, count: int) -> list[Similarity]:
        return [self.measured[i % len(self.measured)] for i in range(count)]


def run(measure: Measure, studio: ReadyStudio, count: int = COUNT) -> list[Row]:
    assert studio.ready.keys() <= {*measure.sets}
    return measure.run(studio, count)  # type: ignore[arg-type]
