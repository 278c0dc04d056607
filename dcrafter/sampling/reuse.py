"""Fewer evaluations: what changes little from one step to the next is kept, or left out.

Three things a step may save: guidance outside an interval (arXiv 2404.07724); the outputs without conditions, whose
distance from the conditional one is kept (as in FasterCache, arXiv 2410.19355); and the deep layers of the UNet, whose
features are kept (DeepCache, arXiv 2312.00858).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from dcrafter.sampling.guidance import Predict
from dcrafter.sampling.schedule import SamplingStep


class Work(NamedTuple):
    """What a step evaluates, beside the shallow blocks of the UNet under the conditions."""

    guided: bool
    unconditional: bool  # the outputs without conditions; if guided without them, what was kept serves
    deep: bool  # the deep blocks, for each output


def plan_work(
    steps: Sequence[SamplingStep],
    num_timesteps: int,
    *,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    guidance_every: int = 1,
    deep_every: int = 1,
) -> list[Work]:
    """What each step of a sampler evaluates.

    Args:
        steps: the sampler's.
        num_timesteps: of the schedule.
        guidance_interval: where guidance is, as shares of the timesteps, the lower first.
        guidance_every: of so many guided steps the first evaluates what is without conditions.
        deep_every: of so many steps the first evaluates the whole UNet.
    """
    low, high = guidance_interval
    works: list[Work] = []
    guided = 0
    for index, step in enumerate(steps):
        inside = low <= (step.t + 1) / num_timesteps <= high
        works.append(Work(inside, inside and guided % guidance_every == 0, index % deep_every == 0))
        guided += inside
    return works


class Distances:
    """How far from the conditional output those without conditions were, kept from one step for others."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bool, bool], Tensor] = {}

    def keep(self, predict: Predict, *, anew: bool) -> Predict:
        """`predict`, to be asked for the conditional output first; the others are evaluated if `anew`, else kept."""
        conditional: Tensor

        def predicted(with_text: bool, with_image: bool) -> Tensor:
            nonlocal conditional
            branch = with_text, with_image
            if all(branch):
                conditional = predict(*branch)
                return conditional
            if not anew:
                return conditional + self._kept[branch]
            out = predict(*branch)
            self._kept[branch] = out - conditional
            return out

        return predicted
