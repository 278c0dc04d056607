from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from training.micro import recipe_file

from dcrafter.errors import InputError, WeightsError
from dcrafter.training.__main__ import COMMAND
from dcrafter.training.denoiser import DenoiserStage
from dcrafter.training.recipe import RECIPES, Recipe, load_recipe
from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVALUATION_CLIPS", "SHOWN", "STEPS"):
        monkeypatch.setattr(f"dcrafter.training.denoiser.{name}", 1)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["training", *map(str, arguments)])
    COMMAND.main()


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem == "detail" else pytest.mark.slow)
        for path in sorted(RECIPES.glob("*.toml"))
    ],
)
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
    recipe = recipe_file(tmp_path / "nothing.toml", "context", conditioning={"context": False})
    with pytest.raises(SystemExit):
        run(monkeypatch, recipe, "--dry-run")
    assert "nothing.toml trains nothing" in capsys.readouterr().err


def test_an_error_is_one_line_as_the_main_command_prints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage, data, said in (
        ("text-to-video", "webvid.csv", r"there is no webvid\.csv\. Give a folder of videos, or .*"),
        ("autoencoder", "videos", "there is no stage 'autoencoder'\\. The stages are text-to-video, context, .*"),
    ):
        recipe = recipe_file(tmp_path / "recipe.toml", stage, data=data)
        with pytest.raises(SystemExit) as left:
            run(monkeypatch, recipe)
        assert left.value.code == 2
        assert re.fullmatch(f"dcrafter.training: {said}\n", capsys.readouterr().err.splitlines(keepends=True)[-1])


def test_a_recipe_of_the_package_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dcrafter.weights.hub.find", lambda _: None)
    with pytest.raises(SystemExit):
        run(monkeypatch, "finetune-512")  # whose start is not here: said before the model is built
    assert re.search(r"no 512 to start from.*dcrafter download 512.*--start", capsys.readouterr().err)


def test_training_without_its_extra_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(SystemExit):
        run(monkeypatch, "context", "--dry-run")
    assert "install accelerate" in capsys.readouterr().err


@pytest.mark.slow
def test_a_changed_recipe_is_said_when_it_goes_on(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps, rate in ((1, 1e-3), (2, 1e-3), (2, 1e-4)):
        recipe = recipe_file(tmp_path / "small.toml", "text-to-video", train={"steps": steps, "learning_rate": rate})
        monkeypatch.setattr(DenoiserStage, "load_weights", lambda *_: None)
        run(monkeypatch, recipe, "--data", videos, "--out", tmp_path / "out")
        said = capsys.readouterr().err
        assert ("train.learning_rate was 0.001 until step 2 and is 0.0001 from now on" in said) == (rate == 1e-4)
    assert said.rstrip().endswith(f"done at step 2: {tmp_path / 'out' / 'weights.safetensors'}")


def test_a_run_begins_from_the_weights_of_another(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe_file(tmp_path / "small.toml", "text-to-video", train={"steps": 1})
    start = tmp_path / "start.safetensors"
    first = DenoiserStage(load_recipe(path, Recipe), videos)
    save_checkpoint(first.model.state_dict(), first.config, start)
    run(monkeypatch, path, "--data", videos, "--out", tmp_path / "out", "--start", start)
    made = tmp_path / "out" / "weights.safetensors"
    weights = open_checkpoint(made).tensors
    stage = DenoiserStage(load_recipe(path, Recipe), videos)
    assert not all(torch.equal(p, weights[name].float()) for name, p in stage.trained().items())
    stage.load_weights([made])
    assert all(torch.equal(p, weights[name].float()) for name, p in stage.trained().items())


def test_what_a_run_cannot_load_weights(videos: Path, tmp_path: Path) -> None:
    path = recipe_file(tmp_path / "small.toml", "text-to-video")
    stage = DenoiserStage(load_recipe(path, Recipe), videos)
    other = tmp_path / "other.safetensors"
    save_checkpoint({"autoencoder.encoder.conv_in.bias": torch.zeros(3)}, stage.config, other)
    with pytest.raises(InputError, match=r"size mismatch for autoencoder.encoder.conv_in.bias: \(3,\) in the file"):
        stage.load_weights([other])
    with pytest.raises(InputError, match="needs a trained text_encoder and autoencoder"):
        stage.load_weights([])
    for name in ("small.toml", "nothing"):
        with pytest.raises(WeightsError):
            stage.load_weights([tmp_path / name])
