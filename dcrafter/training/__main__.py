"""`python -m dcrafter.training RECIPE.toml`: runs, or goes on with, the training that a recipe describes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.errors import DCrafterError, InputError

if TYPE_CHECKING:
    from dcrafter.training.recipe import Recipe
    from dcrafter.training.trainer import Stage


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dcrafter.training", description="Train what a recipe says.")
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="a file, or the name of one in the package")
    parser.add_argument("--out", type=Path, help="folder for checkpoints, log and pictures (default: runs/RECIPE)")
    parser.add_argument("--data", type=Path, help="the data set, in place of the recipe's")
    parser.add_argument(
        "--start", type=Path, nargs="+", help="checkpoints or weights.safetensors to begin from, not the recipe's"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and leave")
    arguments = parser.parse_args()
    try:
        train(arguments.recipe, arguments.out, arguments.data, arguments.start, arguments.dry_run)
    except DCrafterError as error:
        say(f"error: {error}")
        sys.exit(error.exit_status)


def make_stage(recipe: Recipe, data: Path, *, plan_only: bool = False) -> Stage:
    """The stage with its model and data. With `plan_only` no data is looked at."""
    from dcrafter.training.autoencoder import AutoencoderStage
    from dcrafter.training.denoiser import DenoiserStage
    from dcrafter.training.motion import MotionStage
    from dcrafter.training.towers import TowersStage

    stages: dict[str, type[AutoencoderStage | DenoiserStage | TowersStage]] = {
        "autoencoder": AutoencoderStage, "motion": MotionStage, "towers": TowersStage,
    }  # fmt: skip
    return stages.get(recipe.stage, DenoiserStage)(recipe, data, plan_only=plan_only)


def train(recipe_path: Path, out: Path | None, data: Path | None, start: list[Path] | None, dry_run: bool) -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise InputError("training needs accelerate", "pip install 'dcrafter[train]'") from None
    import torch

    from dcrafter.training.denoiser import DenoiserStage
    from dcrafter.training.recipe import load_recipe
    from dcrafter.training.trainer import Trainer

    recipe = load_recipe(recipe_path)
    start = start or [Path(path) for path in recipe.start]
    if not dry_run and (absent := [str(path) for path in start if not path.exists()]):
        raise InputError(
            f"there is no {' and no '.join(absent)} to begin from",
            "Name the files with --start; `dcrafter download MODEL --path` says where a published one lies",
        )
    data = data or Path(recipe.data)
    stage = make_stage(recipe, data, plan_only=dry_run)
    if not stage.trained():
        raise InputError(f"{recipe_path.name} trains nothing", "It leaves out all that its stage trains")
    _say_plan(recipe, stage)
    if dry_run:
        if isinstance(stage, DenoiserStage):
            dtype = torch.float32 if recipe.train.precision == "no" else torch.bfloat16
            update = 4 * sum(value.numel() for value in stage.trained().values())  # the optimiser's, for a moment
            gigabytes = max(stage.activations(recipe.train.batch, dtype), update) / 1e9
            say(f"about {gigabytes:.2f} GB more for a step with batches of {recipe.train.batch}")
        return
    if about := stage.about_data():
        say(about)
    stage.begin_from(start)
    out = out or Path("runs") / recipe_path.stem
    out.mkdir(parents=True, exist_ok=True)
    told = flat(asdict(recipe)) | {"data": str(data), "start": [str(path) for path in start]}
    Trainer(stage, recipe.train, out, seed=recipe.seed, say=say, told=told).run()


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with names like "train.steps"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _say_plan(recipe: Recipe, stage: Stage) -> None:
    """What trains, how much of it, and the memory it takes whatever the batch."""
    trained = sum(value.numel() for value in stage.trained().values())
    frozen = sum(value.numel() for value in stage.model.parameters()) - trained
    # float32 weights, gradients, moving average and the optimiser's two moments
    gigabytes = (trained * 5 + frozen) * 4 / 1e9
    say(
        f"{recipe.stage} of {recipe.model}: {trained / 1e6:.2f} M parameters trained, {frozen / 1e6:.2f} M frozen, "
        f"{recipe.train.steps} steps of {recipe.train.batch * recipe.train.accumulate}; "
        f"{gigabytes:.2f} GB besides activations"
    )
    say(f"trains the {', '.join(stage.trained_parts())}; its checkpoint.pt takes {trained * 16 / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
