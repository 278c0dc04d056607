from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from training import micro

from dcrafter import training
from dcrafter.errors import InputError, WeightsError
from dcrafter.training.__main__ import main
from dcrafter.training.autoencoder import AutoencoderStage
from dcrafter.training.denoiser import DenoiserStage
from dcrafter.training.recipe import load_recipe
from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint

RECIPES = Path(training.__file__).parent / "recipes"
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


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_dry_run_of_each_recipe_wants_no_data_and_writes_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, recipe, "--dry-run")
    said = capsys.readouterr().err
    assert re.search(r" of \S+: [\d.]*[1-9]\d* M parameters trained, [\d.]+ M frozen, [1-9]\d* steps of [1-9]", said)
    assert not any(tmp_path.iterdir())


def test_a_recipe_that_trains_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "nothing.toml"
    text = RECIPE.replace('"autoencoder"', '"context"', 1).split("[config")[0] + RECIPE[RECIPE.index("[train]") :]
    recipe.write_text(f"{text}[conditioning]\ncontext = false\n")
    with pytest.raises(SystemExit):
        run(monkeypatch, recipe, "--dry-run")
    assert "nothing.toml trains nothing" in capsys.readouterr().err


def test_a_manifest_that_is_not_there_is_not_taken_for_a_prepared_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*webvid\.csv"):
        DenoiserStage(micro.recipe("detail"), tmp_path / "webvid.csv")


def test_a_recipe_of_the_package_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "tiny-motion", "--dry-run")
    assert capsys.readouterr().err.startswith("motion of tiny: ")
    with pytest.raises(SystemExit):
        run(monkeypatch, "finetune-512")  # whose start is not here: said before the model is built
    assert re.search(r"no model\.ckpt to begin from.*--start.*dcrafter download", capsys.readouterr().err)


def test_training_without_its_extra_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(SystemExit):
        run(monkeypatch, "tiny-motion", "--dry-run")
    assert "pip install 'dcrafter[train]'" in capsys.readouterr().err


def test_a_changed_recipe_is_said_when_it_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    monkeypatch.setattr("dcrafter.training.autoencoder.HELD_OUT", 2)
    for steps, rate in ((1, "1e-3"), (2, "1e-3"), (2, "1e-4")):
        recipe.write_text(RECIPE.replace("steps = 10", f"steps = {steps}").replace("1e-3", rate))
        run(monkeypatch, recipe, "--data", data, "--out", tmp_path / "out")
        said = capsys.readouterr().err
        assert ("train.learning_rate was 0.001 until step 2 and is 0.0001 from here on" in said) == (rate == "1e-4")
    assert said.rstrip().endswith(f"done at step 2: {tmp_path / 'out' / 'weights.safetensors'}")


def test_a_bad_recipe_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, recipe)
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
    save_checkpoint({"autoencoder.encoder.conv_in.bias": torch.zeros(3)}, stage.config, other)
    with pytest.raises(InputError, match=r"autoencoder.encoder.conv_in.bias is \(3,\) where"):
        stage.begin_from([other])
    stage.needed = ("autoencoder",)
    with pytest.raises(InputError, match="needs a trained autoencoder"):
        stage.begin_from([])
    for name in ("small.toml", "nothing"):
        with pytest.raises(WeightsError):
            stage.begin_from([tmp_path / name])
