"""The measures, on videos whose figures are known: those of the cases themselves, or made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from dcrafter.metrics.motion import Similarity
from dcrafter.tiny.data import DIRECTED
from dcrafter.tiny.evaluation import measures
from dcrafter.tiny.evaluation.cases import Case

COUNT = 16
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


def clip(*greys: int) -> Tensor:
    return torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 4, 3)


@dataclass
class Shown:
    """Stands for a studio, with videos already made."""

    made: dict[str, Tensor] = field(default_factory=dict)
    true: Tensor = field(default_factory=lambda: clip(0, 10, 20, 30))
    measured: list[Similarity] = field(default_factory=list)
    seed: int = 0

    def cases(self, name: str, count: int) -> list[Case]:
        return [Case("", self.true, DIRECTED[i % 8]) for i in range(count)]

    def videos(self, name: str, count: int) -> Tensor:
        return self.made[name].expand(count, *self.made[name].shape)

    def coded(self, pictures: Tensor) -> Tensor:
        return pictures + 0.1

    def motions(self, name: str, count: int) -> list[Similarity]:
        return [self.measured[i % len(self.measured)] for i in range(count)]


def run(name: str, studio: Shown, count: int = COUNT) -> list[measures.Row]:
    return measures.MEASURES[name](studio, count)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["motion", "paraphrases"])
def test_motion_counts_those_that_go_as_asked(name: str) -> None:
    all_right = [AS_ASKED[direction] for direction in DIRECTED]
    assert run(name, Shown(measured=all_right))[0].value == 1
    wrong_zooms = [AS_ASKED["zoom out" if d == "zoom in" else d] for d in DIRECTED]
    row = run(name, Shown(measured=wrong_zooms))[0]
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
    prompted, shuffled = run("motion", Shown(measured=noisy), count=800)
    assert prompted.value == 1
    assert shuffled.value == pytest.approx(0.5, abs=0.06)


def test_first_frames_are_held_against_their_pictures() -> None:
    made = {"pictures": clip(0, 99), "emoji": clip(51, 0), "no detail": clip(51, 0)}
    pictures, emoji = run("first_frame", Shown(made))
    assert pictures.value == 100
    assert emoji.value == pytest.approx(20 * torch.log10(torch.tensor(5.0)).item(), abs=1e-3)  # a fifth of the range
    (row,) = run("detail", Shown(made))
    assert row.value == pytest.approx(emoji.value - pictures.value)


def test_emoji_move_in_units_of_the_data() -> None:
    (row,) = run("emoji", Shown({"emoji": clip(0, 5, 10, 15)}))
    assert row.value == pytest.approx(0.5)


def test_an_interpolation_is_held_against_what_the_autoencoder_can() -> None:
    true = Shown().true.clone()
    row = run("interpolation", Shown({"between": true}))[0]
    assert row.details["autoencoder"] == pytest.approx(26.02, abs=0.01)  # a tenth of a range of two
    assert row.value > 40
    true[1:3] = 255  # what is between does not count
    assert run("interpolation", Shown({"between": true}))[0] == row
    true[[0, -1]] = 255
    assert run("interpolation", Shown({"between": true}))[0].value < 0


def test_loops_close() -> None:
    median, share = run("loop", Shown({"loops": clip(0, 10, 20, 10)}))
    assert (median.value, share.value) == (pytest.approx(1), 1)
    median, share = run("loop", Shown({"loops": clip(0, 10, 20, 30)}))
    assert (median.value, share.value) == (pytest.approx(3), 0)


def test_context_scales_are_compared_with_the_usual() -> None:
    made = {"pictures": clip(0, 10), "context scale 0.5": clip(0, 20), "context scale 1.5": clip(0, 5)}
    assert [row.value for row in run("context_scale", Shown(made))] == [2, 0.5]


def test_means_take_few_videos_and_motion_takes_all() -> None:
    shown = Shown({"emoji": clip(0, 5), "pictures": clip(0, 5)}, measured=[*AS_ASKED.values()])
    assert [row.count for row in run("first_frame", shown, 100)] == [100, measures.FEWER]
    assert run("motion", shown, 100)[0].count == 100
