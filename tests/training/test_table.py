"""The table of every recipe's numbers in the documentation says what the recipes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcrafter.training.recipe import RECIPES, Recipe, load_recipe

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "training.md"
TRAINS = {"context": "query transformer, image attention"}


def row(name: str) -> str:
    """A recipe's row."""
    recipe = load_recipe(RECIPES / f"{name}.toml", Recipe)
    train, given = recipe.train, recipe.conditioning
    trains = TRAINS.get(recipe.stage, "query transformer, spatial")
    if given.train == "everything":
        trains = "everything"
    if recipe.lora:
        trains = f"LoRA of rank {recipe.lora.rank}, {' and '.join(recipe.lora.parts)}"
    image = "both ends" if given.interpolation == 1 else "first frame" if given.first_frame == 1 else "any frame"
    low, high = recipe.videos.strides
    rate = f"{train.learning_rate:.0e}".replace("e-0", "e-")
    cells = [
        f"`{name}`", recipe.model, train.steps, f"{train.batch}·{train.accumulate}", rate, train.betas[1],
        train.warmup, train.clip, train.ema or "none", "float32" if train.precision == "no" else train.precision,
        given.dropout or "none", trains, image, f"{low}–{high}" if low < high else low,
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_each_recipe_is_in_the_table(path: Path) -> None:
    assert row(path.stem) in PAGE.read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", ["512", "512-interp", "1024"])
def test_released_recipes_are_the_released_code(name: str) -> None:
    """Its configs/training_*/config*.yaml, run by its run*.sh on eight GPUs."""
    recipe = load_recipe(RECIPES / f"released-{name}.toml", Recipe)
    train, given = recipe.train, recipe.conditioning
    assert train.batch * train.accumulate == (16 if name == "1024" else 32)
    assert (train.learning_rate, train.clip, train.warmup, train.ema) == (1e-5, 0.5, 0, 0)
    assert (train.betas, train.weight_decay, train.precision, train.steps) == ((0.9, 0.999), 0.01, "fp16", 100_000)
    assert (given.dropout, given.drop_text, given.drop_image, given.drop_both) == (0.1, 0.05, 0.05, 0.05)
    assert (given.train, given.time_noise, recipe.videos.strides) == ("everything", 0, (1, 6))
