from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from dcrafter.tiny.__main__ import COMMAND
from dcrafter.tiny.autoencoder import AutoencoderStage
from dcrafter.tiny.recipe import RECIPES, TinyRecipe
from dcrafter.training.recipe import load_recipe
from dcrafter.weights.checkpoint import open_checkpoint

RECIPE = """
stage = "autoencoder"
model = "tiny"
data = "nowhere"
[config.autoencoder]
channels = 32
decoder_channels = 32
channel_mult = [1]
[train]
steps = 1
batch = 2
learning_rate = 1e-3
precision = "no"
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["tiny", *map(str, arguments)])
    COMMAND.main()


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem == "tiny" else pytest.mark.slow)
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


def test_a_recipe_of_the_package_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "tiny-motion", "--dry-run")
    assert capsys.readouterr().err.startswith("later frames of tiny: ")


def test_data_that_is_not_prepared_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, recipe)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"dcrafter\.tiny: nowhere holds no prepared data set\. .*dcrafter\.tiny\.prepare.*\n", said)


def test_a_run_trains_on_prepared_data(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    monkeypatch.setattr("dcrafter.tiny.autoencoder.EVALUATION_STILLS", 2)
    run(monkeypatch, recipe, "--data", data, "--out", tmp_path / "out")
    weights = open_checkpoint(tmp_path / "out" / "weights.safetensors").tensors
    stage = AutoencoderStage(load_recipe(recipe, TinyRecipe), data)
    assert not all(torch.equal(p, weights[name].float()) for name, p in stage.trained().items())
