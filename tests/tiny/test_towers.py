from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny.micro import recipe
from torch.utils.data import Dataset, default_collate
from training.micro import TRAIN, run

from dcrafter.tiny import towers
from dcrafter.tiny.towers import TowersStage


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "EVALUATION_STILLS", 4)


class Four(Dataset[Any]):
    """Four images of one color each, and what they are called."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.zeros(32, 32, 3, dtype=torch.uint8)
        if index % 4:
            image[..., index % 4 - 1] = 255
        return {"image": image, "caption": ("night", "fire", "grass", "sea")[index % 4]}


@pytest.mark.slow
def test_pictures_and_captions_find_each_other(data: Path, tmp_path: Path) -> None:
    train = replace(TRAIN, steps=60, batch=4, learning_rate=3e-3, evaluate_every=1000)
    stage = TowersStage(recipe("towers", train), data)
    stage.dataset = Four()
    before = {name: value.clone() for name, value in stage.model.named_parameters()}
    batch = default_collate([stage.dataset[i] for i in range(4)])
    with torch.no_grad():
        first = float(stage(batch, torch.Generator())["loss"])
    run(stage, tmp_path, train)
    with torch.no_grad():
        terms = stage(batch, torch.Generator())
    assert float(terms["loss"]) < 0.3 * first
    assert float(terms["found"]) == 1
    unchanged = {name for name, value in stage.model.named_parameters() if torch.equal(value, before[name])}
    assert not unchanged
    stage.held_out = [stage.dataset[i] for i in range(4)]
    assert stage.evaluate() == {"top1": 1.0, "top5": 1.0}
    assert stage.preview().shape == (2 * 32, 2 * 32, 3)
    others = stage.held_out[1:] + stage.held_out[:1]
    pairs = zip(stage.held_out, others, strict=True)
    stage.held_out = [{**item, "caption": other["caption"]} for item, other in pairs]
    assert stage.evaluate()["top1"] == 0


def test_the_temperature_has_an_end(data: Path) -> None:
    stage = TowersStage(recipe("towers"), data)
    with torch.no_grad():
        stage.text_encoder.logit_scale.fill_(9)
        stage(default_collate([stage.dataset[i] for i in range(2)]), torch.Generator())
    assert float(stage.text_encoder.logit_scale.detach().exp()) == pytest.approx(100)
    assert math.log(100) == pytest.approx(towers.MAX_LOGIT_SCALE)


def test_a_kill_and_a_resume_give_the_weights_of_no_kill(data: Path, tmp_path: Path) -> None:
    whole = run(TowersStage(recipe("towers"), data), tmp_path / "whole")
    half = replace(TRAIN, steps=2, warmup=1)
    run(TowersStage(recipe("towers", half), data), tmp_path / "parts", half)
    resumed = run(TowersStage(recipe("towers"), data), tmp_path / "parts")
    assert resumed.step == 4
    for name, value in whole.average.values.items():
        assert torch.equal(value, resumed.average.values[name]), name
