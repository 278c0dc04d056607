"""`python -m dcrafter.tiny.ablation`: the paper's ablations (table 4, figure 5b) in a short form, and their table.

The built-in model without what it sees of the image learns to do without it, as a text-to-video base, and then the
paper's stages give it back, in each variant with the same data, seed and steps over clips. Run again, it goes on where
it was left.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dcrafter.errors import exit_on_error
from dcrafter.tiny.__main__ import COMMAND
from dcrafter.tiny.recipe import RECIPES, TinyRecipe
from dcrafter.training.command import find_start, say, train
from dcrafter.training.recipe import load_recipe

if TYPE_CHECKING:
    from dcrafter.evaluation.report import Row

PROGRAM = "dcrafter.tiny.ablation"
Stages = tuple[tuple[str, tuple[str, ...]], ...]
"""Stages in their order, each with its changes of the recipe."""

BASE = "text-to-video"
PAPER = ("context", "adaptation", "detail")
STEPS = {BASE: 250, "context": 60, "adaptation": 40, "detail": 100, "one-stage": 140}
OF_IMAGE = ("projector.", ".to_k_ip.", ".to_v_ip.", ".alpha")  # in the names of weights


def staged(*changes: str, stages: Sequence[str] = PAPER, since: str = "") -> Stages:
    """Stages with changes, in all of them or from one on."""
    first = stages.index(since) if since else 0
    return tuple((stage, changes if number >= first else ()) for number, stage in enumerate(stages))


VARIANTS: dict[str, Stages] = {
    "as in the paper": staged(),
    "no image context": staged("conditioning.context=false", stages=("adaptation", "detail")),
    "no visual detail guidance": staged("conditioning.detail=false", since="detail"),
    "no λ": staged("conditioning.learn_scale=false"),
    "class token alone": staged("config.projector.tokens=class"),
    "all layers trained": staged("conditioning.train=everything", since="detail"),
    "first frame alone": staged("conditioning.first_frame=1.0", since="detail"),
    "one stage": staged(stages=("one-stage",)),
}
COLUMNS = ("FVD", "PIC", "PSNR", "motion", "direction")


def train_stage(stage: str, changes: Sequence[str], data: Path, start: Path, out: Path) -> Path:
    """Train one stage in the folder `out`, or what is left of it, and return its weights.

    Raises:
        InputError: the data cannot be used.
        KeyboardInterrupt: a signal stopped the stage; the next one must not begin from what it has.
    """
    own = (f"stage={stage}", f"train.steps={STEPS[stage]}")
    recipe = load_recipe(Path("tiny-ablation"), TinyRecipe, RECIPES, [*own, *changes])
    if not train(recipe, COMMAND.make_stage(recipe, data), data, [start], out):
        raise KeyboardInterrupt
    return out / "weights.safetensors"


def write_start(path: Path) -> Path:
    """Write the built-in model without its query transformer, its attention to the image and the image's latent."""
    from dcrafter.config import MODELS
    from dcrafter.weights.bases import open_base
    from dcrafter.weights.checkpoint import save_checkpoint

    tensors = open_base(find_start(Path("tiny")))
    kept = {key: value for key, value in tensors.items() if not any(part in key for part in OF_IMAGE)}
    first = kept["unet.conv_in.weight"].clone()
    first[:, MODELS["tiny"].autoencoder.latent_channels :] = 0
    save_checkpoint({**kept, "unet.conv_in.weight": first}, MODELS["tiny"], path)
    return path


def measure(weights: Path, data: Path, count: int, seed: int = 0) -> list[Row]:
    """Figures of videos that a model makes of held-out images and prompts."""
    from dcrafter.evaluation.command import progress_bars, progress_display
    from dcrafter.evaluation.measures import against_data
    from dcrafter.evaluation.studio import Studio
    from dcrafter.pipeline import Pipeline
    from dcrafter.tiny.evaluation.sets import video_sets

    pipe = Pipeline.from_pretrained("tiny", checkpoint=weights)
    with progress_display() as progress:
        sets = video_sets(pipe.config, data)
        studio = Studio(pipe, sets, seed=seed, options={}, report=progress_bars(progress))
        return against_data(studio, count, {"all": "clips"})


def run(data: Path, out: Path, count: int) -> str:
    """Train and measure every variant; returns the table, as Markdown. Raises InputError where there are no data."""
    out.mkdir(parents=True, exist_ok=True)
    base = train_stage(BASE, (), data, write_start(out / "start.safetensors"), out / "base")
    lines = ["| variant | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    trained: dict[Path, Path] = {}  # variants that begin alike share those runs
    for name, stages in VARIANTS.items():
        weights = base
        for stage, changes in stages:
            folder = weights.parent / "-".join([stage, *(change.split(".")[-1] for change in changes)])
            if folder not in trained:
                trained[folder] = train_stage(stage, changes, data, weights, folder)
            weights = trained[folder]
        figures = {row.metric.split(", ")[-1]: f"{row.value:.3f}" for row in measure(weights, data, count)}
        lines.append(" | ".join([f"| {name}", *(figures[column] for column in COLUMNS)]) + " |")
        say(lines[-1])
    return "\n".join(lines)


def main() -> None:
    """Run the process's command line, and exit with its status."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description="Ablations in a short form.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that dcrafter.tiny.prepare made")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the runs")
    parser.add_argument("--count", type=int, default=64, help="number of videos of each variant")
    arguments = parser.parse_args()
    with exit_on_error(PROGRAM):
        print(run(arguments.data, arguments.out, arguments.count))


if __name__ == "__main__":
    main()
