"""`python -m dcrafter.tiny.evaluation --data DIR`: measures a model on held-out data and prints a Markdown table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dcrafter.config import MODELS
from dcrafter.errors import DCrafterError, OutputError, UsageError
from dcrafter.settings import DTYPES, Options

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.progress import Progress, TaskID

    from dcrafter.tiny.evaluation.studio import Report, Studio

SHEET_VIDEOS = 8  # of each set


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dcrafter.tiny.evaluation", description="Measure a model.")
    parser.add_argument("--data", type=Path, required=True, help="folder that dcrafter.tiny.prepare made")
    parser.add_argument("-m", "--model", default="auto", choices=["auto", *MODELS])
    parser.add_argument("--checkpoint", type=Path, help="a file of weights, in place of a model's usual one")
    parser.add_argument("--only", metavar="NAME,NAME", help="these measures alone")
    parser.add_argument("--count", type=int, default=112, help="videos that motion is measured on")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8, help="videos sampled at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", *DTYPES])
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="the figures with their details")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="a picture of some of the videos")
    parser.add_argument("--figure", type=Path, metavar="FILE.svg", help="λ of each layer, of the measure lambdas")
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.batch < 1:
        parser.error("--count and --batch must be at least 1")
    try:
        evaluate(arguments)
    except DCrafterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def evaluate(arguments: argparse.Namespace) -> None:
    from dcrafter.evaluation.report import Row, lambda_figure, table
    from dcrafter.pipeline import Pipeline
    from dcrafter.tiny.evaluation.measures import MEASURES
    from dcrafter.tiny.evaluation.studio import Studio

    chosen = arguments.only.split(",") if arguments.only else list(MEASURES)
    if unknown := [name for name in chosen if name not in MEASURES]:
        raise UsageError(f"there is no measure {', '.join(unknown)}", f"Choose among {', '.join(MEASURES)}")
    for path in (arguments.out, arguments.sheet, arguments.figure):
        if path and not path.parent.is_dir():
            raise OutputError(f"there is no folder {path.parent}", "Make it, or choose another")
    pipe = Pipeline.from_pretrained(
        arguments.model, checkpoint=arguments.checkpoint, device=arguments.device, dtype=arguments.dtype
    )
    options: Options = {"steps": arguments.steps, "guidance": arguments.guidance}
    progress = _progress()
    studio = Studio(
        pipe, arguments.data, seed=arguments.seed, batch=arguments.batch, options=options, report=_bars(progress)
    )
    between = {"loop", "interpolation"} & {*chosen}
    settings = studio.settings("loops" if between else "pictures")  # what cannot be done is said at once
    about = {
        "model": pipe.config.name,
        "checkpoint": pipe.checkpoint.fingerprint,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "seed": settings.seed,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "guidance_rescale": settings.guidance_rescale,
    }
    rows: list[Row] = []
    with progress:
        for name in chosen:
            found = MEASURES[name](studio, arguments.count)
            rows += found
            for row in found:  # at once: the whole takes long
                progress.console.print(f"{row.what}: {row.figure}", markup=False, highlight=False, soft_wrap=True)
            if arguments.out:
                text = json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=1, ensure_ascii=False)
                _write(arguments.out, lambda path: path.write_text(text + "\n", "utf-8"))  # noqa: B023
    for row in rows:
        if arguments.figure and "per layer" in row.details:
            figure = lambda_figure(row.details["per layer"])
            _write(arguments.figure, lambda path: path.write_text(figure, "utf-8"))  # noqa: B023
    if arguments.sheet and studio.made:
        _write(arguments.sheet, _sheet(studio).save)
    print(table(rows))


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.1f}/{task.total}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        redirect_stdout=False,
        speed_estimate_period=3600,
    )


def _bars(progress: Progress) -> Report:
    """A bar for each set of videos."""
    tasks: dict[str, TaskID] = {}

    def report(name: str, done: float, total: int) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total)
        progress.update(tasks[name], completed=done, total=total)

    return report


def _sheet(studio: Studio) -> Image:
    """The first of every set of videos that was made."""
    from dcrafter.evaluation.report import sheet

    videos = []
    for name, made in studio.made.items():
        asked = studio.cases(name, len(made))
        videos += [(f"{name}: {case.caption}", video) for case, video in zip(asked, made, strict=True)][:SHEET_VIDEOS]
    return sheet(videos)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        write(path)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror})") from error


if __name__ == "__main__":
    main()
