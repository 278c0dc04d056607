"""The measures of the built-in model, on motions whose figures are known."""

from __future__ import annotations

import pytest
import torch
from evaluation.ready import ReadyStudio, clip, run

from dcrafter.evaluation.measures import FEW
from dcrafter.metrics.similarity import Similarity
from dcrafter.tiny.evaluation.measures import MEASURES, motion_of_parts
from dcrafter.tiny.motions import DIRECTED

AS_ASKED = {
    "pan left": Similarity(0.3, 0, 0, 0),
    "pan right": Similarity(-0.3, 0, 0, 0),
    "pan up": Similarity(0, 0.3, 0, 0),
    "pan down": Similarity(0, -0.3, 0, 0),
    "zoom in": Similarity(0, 0, 0.2, 0),
    "zoom out": Similarity(0, 0, -0.2, 0),
    "rotate clockwise": Similarity(0, 0, 0, 0.4),
    "rotate counterclockwise": Similarity(0, 0, 0, -0.4),
}


def measured(similarities: list[Similarity]) -> ReadyStudio:
    return ReadyStudio(measured=similarities, directions=DIRECTED)


@pytest.mark.parametrize("name", ["motion", "paraphrases"])
def test_motion_counts_those_that_go_as_asked(name: str) -> None:
    all_right = [AS_ASKED[direction] for direction in DIRECTED]
    assert run(MEASURES[name], measured(all_right))[0].value == 1
    wrong_zooms = [AS_ASKED["zoom out" if d == "zoom in" else d] for d in DIRECTED]
    row = run(MEASURES[name], measured(wrong_zooms))[0]
    assert row.value == 7 / 8
    assert row.figure == "88 %"
    assert row.details["shares"] == {direction: float(direction != "zoom in") for direction in DIRECTED}
    assert row.details["videos"][0]["scored as"] == DIRECTED[0]


def test_shuffled_prompts_give_one_half() -> None:
    """With noise about what is asked, as a measured video has it."""
    generator = torch.Generator().manual_seed(0)
    noisy = []
    for i in range(800):
        asked = AS_ASKED[DIRECTED[i % 8]]
        noise = torch.randn(4, generator=generator) * 0.02
        noisy.append(Similarity(*(a + float(n) for a, n in zip(vars(asked).values(), noise, strict=True))))
    prompted, shuffled = run(MEASURES["motion"], measured(noisy), 800)
    assert prompted.value == 1
    assert shuffled.value == pytest.approx(0.5, abs=0.06)


def test_few_emoji_and_all_images() -> None:
    shown = ReadyStudio({"emoji": clip(0, 5), "pictures": clip(0, 5)})
    assert [row.count for row in run(MEASURES["first_frame"], shown, 100)] == [100, FEW]
    assert run(MEASURES["motion"], measured([*AS_ASKED.values()]), 100)[0].count == 100


def blob(x: float) -> torch.Tensor:
    """A soft spot before a pattern of large waves: (3, 64, 64) in [-1, 1]."""
    line = (torch.arange(64) + 0.5) / 32 - 1
    down, right = torch.meshgrid(line, line, indexing="ij")
    ground = 0.3 * torch.sin(9 * right) * torch.sin(7 * down)
    return (ground + 0.9 * torch.exp(-((right - x) ** 2 + down**2) / 0.04)).expand(3, -1, -1)


def test_the_motion_of_parts_is_that_of_a_spot_and_not_of_the_whole() -> None:
    spot = motion_of_parts(torch.stack([blob(x) for x in (0.0, 0.05, 0.1)]))
    assert spot.shape == (2, 3, 128, 128)
    assert spot[1, 0, 64, 76] > 0.05 > -0.05 > spot[1, 0, 64, 56]  # to the right
    assert spot[:, :, :24].abs().max() < 0.02
    assert spot[1].abs().mean() > 1.5 * spot[0].abs().mean()
    whole = motion_of_parts(torch.stack([torch.roll(blob(0.0), by, dims=2) for by in (0, 1, 2)]))
    assert whole[..., 16:-16, 16:-16].abs().mean() < 0.2 * spot.abs().mean()
