"""The command that trains what a recipe says, for any table of stages: `python -m dcrafter.training` and others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.config import MODELS
from dcrafter.errors import InputError, exit_on_error
from dcrafter.install import install_hint
from dcrafter.training.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from dcrafter.training.stage import Stages, TrainingStage


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class TrainingCommand:
    """A command line of its own for recipes of one type and the stages they name."""

    program: str  # the module, as in `python -m PROGRAM`
    recipes: Path  # folder of the recipes that go by their names
    recipe_type: type[Recipe]
    load_stages: Callable[[], Stages]  # called late: it imports torch and accelerate

    def main(self) -> None:
        """Run the process's command line, and exit with its status."""
        arguments = self._parser().parse_intermixed_args()
        with exit_on_error(self.program):
            self.run(arguments)

    def run(self, arguments: argparse.Namespace) -> None:
        """Train as the arguments say, or with `--dry-run` say what would be trained.

        Raises:
            InputError: the recipe, the weights to start from or the data cannot be used.
        """
        require_accelerate()
        recipe = load_recipe(arguments.recipe, self.recipe_type, self.recipes, arguments.changes)
        start = arguments.start or [Path(path) for path in recipe.start]
        if not arguments.dry_run:
            start = [find_start(path) for path in start]
        if recipe.train.tensorboard and find_spec("tensorboard") is None:
            raise InputError("train.tensorboard needs tensorboard", f"Run `{install_hint('tensorboard')}`")
        data = arguments.data or Path(recipe.data)
        stage = self.make_stage(recipe, data, plan_only=arguments.dry_run)
        if not stage.trained():
            raise InputError(f"{arguments.recipe.name} trains nothing", "It leaves out all that the stage trains")
        say_plan(recipe, stage, activations=arguments.dry_run)
        if not arguments.dry_run:
            out = arguments.out or Path("runs") / arguments.recipe.stem
            train(recipe, stage, data, start, out)

    def make_stage(self, recipe: Recipe, data: Path, *, plan_only: bool = False) -> TrainingStage:
        """The recipe's stage with its model and data.

        Args:
            recipe: what to train.
            data: the data set, in place of the recipe's own.
            plan_only: do not look at the data.

        Raises:
            InputError: there is no such stage, or the data cannot be used.
        """
        stages = self.load_stages()
        if recipe.stage not in stages:
            raise InputError(f"there is no stage {recipe.stage!r}", f"The stages are {', '.join(stages)}")
        return stages[recipe.stage](recipe, data, plan_only=plan_only)

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=f"python -m {self.program}", description="Train what a recipe says.")
        parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a TOML file, or the name of a built-in recipe")
        changes = 'fields of it to change, such as train.steps=100 or conditioning.train="everything"'
        parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help=changes)
        parser.add_argument("--out", type=Path, help="folder for checkpoints, log and images (default: runs/RECIPE)")
        parser.add_argument("--data", type=Path, help="the data set, in place of the recipe's")
        parser.add_argument(
            "--start", type=Path, nargs="+", metavar="FILE", help="checkpoints to start from, in place of the recipe's"
        )
        parser.add_argument("--dry-run", action="store_true", help="show what would be trained, and stop")
        return parser


def find_start(path: Path) -> Path:
    """A checkpoint to start from: a file, or by its name a model that is on this machine. Raises InputError."""
    if path.exists():
        return path
    found = None
    if str(path) in MODELS:
        from dcrafter.weights import hub

        found = hub.find(str(path))
    if found is None:
        fetch = f"Run `dcrafter download {path}`, or name" if str(path) in MODELS else "Name"
        raise InputError(f"there is no {path} to start from", f"{fetch} the file with --start")
    return found


def require_accelerate() -> None:
    """Raises InputError where accelerate is not installed."""
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise InputError("training needs accelerate", f"Run `{install_hint('accelerate')}`") from None


def train(recipe: Recipe, stage: TrainingStage, data: Path, start: list[Path], out: Path) -> bool:
    """Train a stage in the folder `out`, from the weights in `start` or from the folder's own checkpoint.

    Returns False where a signal stopped it before its last step.
    """
    from dcrafter.training.trainer import Trainer

    if about := stage.about_data:
        say(about)
    stage.load_weights(start)
    out.mkdir(parents=True, exist_ok=True)
    settings = flatten(asdict(recipe)) | {"data": str(data), "start": [str(path) for path in start]}
    trainer = Trainer(stage, recipe.train, out, seed=recipe.seed, say=say, settings=settings)
    trainer.run()
    return not trainer.stopping


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with names like "train.steps"."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def say_plan(recipe: Recipe, stage: TrainingStage, *, activations: bool) -> None:
    """Say what trains and what memory that takes; with `activations` also what a batch adds to it."""
    import torch

    trained = sum(value.numel() for value in stage.trained().values())
    frozen = sum(value.numel() for value in stage.model.parameters()) - trained
    # float32 weights, gradients, moving average and the optimizer's two moments
    gigabytes = (trained * 5 + frozen) * 4 / 1e9
    say(
        f"{recipe.stage} of {recipe.model}: {trained / 1e6:.2f} M parameters trained, {frozen / 1e6:.2f} M frozen, "
        f"{recipe.train.steps} steps of {recipe.train.batch * recipe.train.accumulate}; "
        f"{gigabytes:.2f} GB besides activations"
    )
    say(f"trains the {', '.join(stage.trained_parts())}; its checkpoint.pt takes {trained * 16 / 1e9:.2f} GB")
    if not activations:
        return
    dtype = torch.float32 if recipe.train.precision == "no" else torch.bfloat16
    if kept := stage.activations(recipe.train.batch, dtype):
        gigabytes = max(kept, 4 * trained) / 1e9  # the optimizer's update, for a moment
        say(f"about {gigabytes:.2f} GB more for a step with batches of {recipe.train.batch}")
