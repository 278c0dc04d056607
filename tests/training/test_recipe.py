from __future__ import annotations

from pathlib import Path

import pytest

from dcrafter.errors import InputError
from dcrafter.tiny.recipe import RECIPES as TINY_RECIPES
from dcrafter.tiny.recipe import TinyRecipe
from dcrafter.training.recipe import RECIPES, Recipe, load_recipe

GOOD = """
stage = "autoencoder"
model = "tiny"
data = "data"
[config.autoencoder]
channels = 32
channel_mult = [1, 2]
[train]
steps = 10
batch = 2
learning_rate = 1e-3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_becomes_configuration(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), Recipe)
    assert recipe.train.steps == 10
    assert recipe.train.learning_rate == 1e-3
    assert recipe.model_config.autoencoder.channel_mult == (1, 2)
    assert recipe.model_config.autoencoder.fold == 4  # the registry's


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch = 2", "batch = 2\nspeed = 3", "train has no field speed"),
        ('data = "data"', 'data = "data"\nsize = 3', "Recipe has no field size"),
        ("channels = 32", "chanels = 32", "no field chanels"),
        ("steps = 10", "", "steps"),
        ('"tiny"', '"huge"', "no model huge"),
        ("steps = 10", "steps = = 10", "cannot be read"),
        ('data = "data"', "", "Recipe needs data"),
        ('data = "data"', 'data = "data"\nstart = "model.ckpt"', "start must be a list, not 'model.ckpt'"),
        ("steps = 10", "steps = 2e4", "train.steps must be a whole number, not 20000.0"),
        ("batch = 2", "batch = 0", "batch must be at least 1"),
        ("batch = 2", 'batch = "2"', "train.batch must be a whole number, not '2'"),
        ("batch = 2", "batch = 2\nbetas = [0.9]", "train.betas has too few values"),
        ("batch = 2", "batch = 2\nbetas = [0.9, 1.5]", r"betas must be in \[0, 1\)"),
        ("batch = 2", "batch = 2\nclip = 0", "clip must be above 0"),
        ("1e-3", '"1e-3"', "train.learning_rate must be a number, not '1e-3'"),
        ("1e-3", "1e-3\n[conditioning]\ndrop_text = 5", r"drop_text must be in \[0, 1\]"),
        ("1e-3", "1e-3\n[conditioning]\ndrop_text = 0.6\ndrop_image = 0.6", r"drop_text \+ drop_image"),
        ("1e-3", "1e-3\n[videos]\nstrides = 6", "videos.strides must be a list, not 6"),
        ("[config.autoencoder]", "[config]\nheight = 300\n[config.autoencoder]", "needs multiples of"),
    ],
)
def test_what_a_recipe_must_not_be(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(write(tmp_path, GOOD.replace(old, new)), Recipe)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml", Recipe)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_package_load(path: Path) -> None:
    recipe = load_recipe(path, Recipe)
    assert recipe.train.steps > recipe.train.warmup + recipe.train.cooldown


@pytest.mark.parametrize("path", sorted(TINY_RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_built_in_model_load(path: Path) -> None:
    recipe = load_recipe(path, TinyRecipe)
    assert recipe.model == "tiny"
    assert recipe.train.steps > recipe.train.warmup + recipe.train.cooldown


def test_a_command_line_changes_fields(tmp_path: Path) -> None:
    changes = ["train.steps=7", "stage=detail", "config.autoencoder.channels=64", 'conditioning.train="everything"']
    recipe = load_recipe(write(tmp_path, GOOD), Recipe, changes=changes)
    assert (recipe.train.steps, recipe.train.batch, recipe.stage) == (7, 2, "detail")
    assert recipe.model_config.autoencoder.channels == 64
    assert recipe.model_config.autoencoder.channel_mult == (1, 2)  # the recipe's
    assert recipe.conditioning.train == "everything"
    for change, message in (("steps", "is no change"), ("train.stepps=3", "no field stepps"), ("=3", "is no change")):
        with pytest.raises(InputError, match=message):
            load_recipe(write(tmp_path, GOOD), Recipe, changes=[change])
