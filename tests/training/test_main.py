from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcrafter.errors import InputError, WeightsError
from dcrafter.training.__main__ import main
from dcrafter.training.autoencoder import AutoencoderStage
from dcrafter.training.recipe import load_recipe
from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint

RECIPE = """
stage = "autoencoder"
model = "tiny"
data = "nowhere"
[config.autoencoder]
channels = 32
decoder_channels = 32
channel_mult = [1]
[train]
steps = 10
batch = 2
learning_rate = 1e-3
precision = "no"
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["training", *map(str, arguments)])
    main()


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    monkeypatch.setattr("dcrafter.training.autoencoder.HELD_OUT", 2)
    run(monkeypatch, recipe, "--data", data, "--out", tmp_path / "out", "--dry-run")
    assert "M parameters trained, 0.00 M frozen, 10 steps of 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bad_recipe_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, recipe, "--dry-run")
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: nowhere holds no prepared data set")


def test_a_run_begins_from_the_weights_of_another(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE.replace("steps = 10", "steps = 1"))
    monkeypatch.setattr("dcrafter.training.autoencoder.HELD_OUT", 2)
    run(monkeypatch, recipe, "--data", data, "--out", tmp_path / "out")
    made = tmp_path / "out" / "weights.safetensors"
    weights = open_checkpoint(made).tensors
    stage = AutoencoderStage(load_recipe(recipe), data)
    assert not all(torch.equal(p, weights[name].float()) for name, p in stage.trained().items())
    stage.begin_from([made])
    assert all(torch.equal(p, weights[name].float()) for name, p in stage.trained().items())


def test_what_a_run_cannot_begin_from(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    monkeypatch.setattr("dcrafter.training.autoencoder.HELD_OUT", 2)
    stage = AutoencoderStage(load_recipe(recipe), data)
    other = tmp_path / "other.safetensors"
    save_checkpoint({"autoencoder.encoder.conv_in.weight": torch.zeros(3)}, stage.config, other)
    with pytest.raises(InputError, match=r"autoencoder.encoder.conv_in.weight is \(3,\) where"):
        stage.begin_from([other])
    stage.needed = ("autoencoder",)
    with pytest.raises(InputError, match="needs a trained autoencoder"):
        stage.begin_from([])
    for name in ("small.toml", "nothing"):
        with pytest.raises(WeightsError):
            stage.begin_from([tmp_path / name])
