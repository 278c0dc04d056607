from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny.micro import recipe
from torch.utils.data import default_collate
from training.micro import TRAIN, awake

from dcrafter.tiny.later_frames import LaterFramesStage
from dcrafter.training import denoiser
from dcrafter.training.inputs import ConditioningDraw


@pytest.fixture
def stage(data: Path, monkeypatch: pytest.MonkeyPatch) -> LaterFramesStage:
    monkeypatch.setattr(denoiser, "EVALUATION_CLIPS", 2)
    return awake(LaterFramesStage(recipe("later frames", replace(TRAIN, batch=2)), data))


def test_each_frame_is_told_of_alone(stage: LaterFramesStage) -> None:
    """Its own words, picture, place and rate: what another frame is told changes nothing."""
    batch = default_collate([stage.dataset[i] for i in range(2)])

    def made(**changed: object) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        inputs = stage.moved({**batch, **changed}, ConditioningDraw.plain(8), generator)
        return inputs.denoise(stage.unet, torch.ones_like(inputs.latents), torch.full((8,), 999))

    before = made()
    assert before.shape == (8, 4, 1, 8, 8)
    for name in ("fps", "places"):
        values = batch[name].clone()
        values[1, 2] = values[1, 2] % 15 + 1  # the seventh of the eight
        assert moved_rows(before, made(**{name: values})) == [6], name
    captions = [list(of_one) for of_one in batch["captions"]]
    captions[2][1] = "something else"
    assert moved_rows(before, made(captions=captions)) == [6]
    frames = batch["frames"].clone()
    frames[1, 0] = 255 - frames[1, 0]
    assert moved_rows(before, made(frames=frames)) == [4, 5, 6, 7]


def moved_rows(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    return (before != after).flatten(1).any(1).nonzero().flatten().tolist()


def test_what_is_dropped_of_a_frame(stage: LaterFramesStage) -> None:
    batch = default_collate([stage.dataset[i] for i in range(2)])
    yes = torch.ones(8, dtype=torch.bool)
    last = yes & (torch.arange(8) == 7)

    def inputs(drawn: ConditioningDraw) -> tuple[torch.Tensor, torch.Tensor]:
        made = stage.moved(batch, drawn, torch.Generator().manual_seed(0))
        return made.text, made.image

    text, image = inputs(ConditioningDraw.plain(8))
    without_text, without_image = inputs(replace(ConditioningDraw.plain(8), text=yes ^ last, image=yes ^ last))
    assert moved_rows(text, without_text) == [7]
    assert moved_rows(image, without_image) == [7]


def test_the_figures_and_the_picture(stage: LaterFramesStage) -> None:
    with torch.no_grad():
        figures = stage.evaluate()
    assert figures.keys() == {"held_out_loss", "with_other_words"}
    assert 0 < figures["held_out_loss"] != figures["with_other_words"]
    assert stage.preview().shape == (2 * 2 * 32, 5 * 32, 3)
