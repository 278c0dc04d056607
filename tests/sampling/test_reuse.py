"""What steps leave out, and what they keep for others."""

from __future__ import annotations

import torch
from torch import Tensor

from dcrafter.config import ScheduleConfig
from dcrafter.sampling.reuse import Distances, Work, plan_work
from dcrafter.sampling.schedule import sampling_steps

STEPS = sampling_steps(ScheduleConfig(), "uniform_trailing", 5)  # at 999, 799, 599, 399 and 199


def test_nothing_is_left_out_unless_asked_for() -> None:
    assert plan_work(STEPS, 1000) == [Work(True, True, True)] * 5


def test_each_saving_counts_its_own_steps() -> None:
    works = plan_work(STEPS, 1000, guidance_interval=(0.4, 0.8), guidance_every=2, deep_every=3)
    assert [work.guided for work in works] == [False, True, True, True, False]
    assert [work.unconditional for work in works] == [False, True, False, True, False]
    assert [work.deep for work in works] == [True, False, False, True, False]


def test_a_kept_output_stays_as_far_from_the_conditional_one() -> None:
    evaluated: list[tuple[bool, bool]] = []

    def predict(with_text: bool, with_image: bool) -> Tensor:
        evaluated.append((with_text, with_image))
        return torch.tensor([10.0 * len(evaluated) + 2 * with_text + with_image])

    distances = Distances()
    first, then = distances.keep(predict, anew=True), distances.keep(predict, anew=False)
    assert [first(True, True).item(), first(False, True).item(), first(False, False).item()] == [13, 21, 30]
    assert [then(True, True).item(), then(False, False).item(), then(False, True).item()] == [43, 60, 51]
    assert evaluated == [(True, True), (False, True), (False, False), (True, True)]
