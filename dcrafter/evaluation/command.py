"""The command that measures a model by a suite of videos and measures: `python -m dcrafter.evaluation` and others."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.config import MODELS, ModelConfig
from dcrafter.errors import InputError, OutputError, UsageError, exit_on_error
from dcrafter.sampling import SAMPLERS
from dcrafter.settings import DTYPES, Options

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.progress import Progress, TaskID

    from dcrafter.evaluation.measures import Measure
    from dcrafter.evaluation.report import Row
    from dcrafter.evaluation.studio import Report, Studio, VideoSet

SHEET_VIDEOS = 8  # of each set


@dataclass(frozen=True)
class Suite:
    """What a model is measured by. `video_sets` raises InputError where the data cannot be used."""

    measures: Mapping[str, Measure]
    video_sets: Callable[[ModelConfig, Path], Mapping[str, VideoSet]]


@dataclass(frozen=True)
class EvaluationCommand:
    """A command line of its own for a suite of measures."""

    program: str  # the module, as in `python -m PROGRAM`
    data_help: str
    load_suite: Callable[[], Suite]  # called late: it imports torch

    def main(self) -> None:
        """Run the process's command line, and exit with its status."""
        parser = self._parser()
        arguments = parser.parse_args()
        if arguments.count < 1 or arguments.batch < 1:
            parser.error("--count and --batch must be at least 1")
        with exit_on_error(self.program):
            self.run(arguments)

    def run(self, arguments: argparse.Namespace) -> None:
        """Measure a model as the arguments say; the table goes to stdout.

        Raises:
            UsageError: there is no such measure, or the model cannot be put to it.
            InputError: the data cannot be used.
            OutputError: a file cannot be written.
        """
        from dcrafter.evaluation.report import table
        from dcrafter.evaluation.studio import Studio
        from dcrafter.pipeline import Pipeline

        suite = self.load_suite()
        check_folders(arguments.out, arguments.sheet, arguments.figure)
        only = arguments.only.split(",") if arguments.only else []
        if unknown := [name for name in only if name not in suite.measures]:
            raise UsageError(f"there is no measure {', '.join(unknown)}", f"Choose among {', '.join(suite.measures)}")
        if not arguments.data.exists():
            raise InputError(f"there is no {arguments.data}", self.data_help)
        pipe = Pipeline.from_pretrained(
            arguments.model,
            checkpoint=arguments.checkpoint,
            model_config=arguments.model_config,
            device=arguments.device,
            dtype=arguments.dtype,
            lora=arguments.lora,
        )
        options: Options = {
            "steps": arguments.steps,
            "guidance": arguments.guidance,
            "sampler": arguments.sampler,
        }
        sets = suite.video_sets(pipe.config, arguments.data)
        progress = progress_display()
        studio = Studio(
            pipe, sets, seed=arguments.seed, batch=arguments.batch, options=options, report=progress_bars(progress)
        )
        measures = {name: suite.measures[name] for name in only} or _possible(suite, sets, pipe.config)
        for name in {name for measure in measures.values() for name in measure.sets}:
            studio.settings(name)  # what the model cannot do is an error before anything is generated
        rows: list[Row] = []
        about = _about(studio)
        with progress:
            for measure in measures.values():
                found = measure.run(studio, arguments.count)
                rows += found
                for row in found:  # at once: the whole takes long
                    progress.console.print(f"{row.metric}: {row.figure}", markup=False, highlight=False, soft_wrap=True)
                _write_json(arguments.out, about, rows)
        _write_images(arguments, studio, rows)
        print(table(rows))

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=f"python -m {self.program}", description="Measure a model.")
        parser.add_argument("--data", type=Path, required=True, help=self.data_help)
        parser.add_argument("-m", "--model", default="auto", choices=["auto", *MODELS])
        parser.add_argument("--checkpoint", type=Path, help="a checkpoint, in place of the model's own")
        parser.add_argument("--model-config", type=Path, help="its configuration, where it is of another size")
        parser.add_argument("--lora", action="append", default=[], metavar="FILE[:SCALE]", help="may be repeated")
        parser.add_argument("--only", metavar="NAME,NAME", help="run these measures alone")
        parser.add_argument("--count", type=int, default=112, help="number of videos")
        parser.add_argument("--steps", type=int, help="by default the model's")
        parser.add_argument("--sampler", choices=[*SAMPLERS], help="by default the model's")
        parser.add_argument("--guidance", type=float, help="by default the model's")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--batch", type=int, default=8, help="number of videos to sample at once")
        parser.add_argument("--device", default="auto")
        parser.add_argument("--dtype", default="auto", choices=["auto", *DTYPES])
        parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures with their details")
        parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="write an image of some of the videos")
        parser.add_argument("--figure", type=Path, metavar="FILE.svg", help="write a chart of λ (measure lambdas)")
        return parser


def _possible(suite: Suite, sets: Mapping[str, VideoSet], config: ModelConfig) -> dict[str, Measure]:
    """The measures whose videos the model can generate."""
    commands = config.commands
    return {name: measure for name, measure in suite.measures.items()
            if all(sets[each].command in commands for each in measure.sets)}  # fmt: skip


def _about(studio: Studio) -> dict[str, Any]:
    """What was measured, for the JSON file."""
    pipe = studio.pipe
    settings = studio.settings(next(name for name, each in studio.sets.items() if each.command in pipe.config.commands))
    return {
        "model": pipe.config.name,
        "checkpoint": pipe.checkpoint.fingerprint,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "seed": settings.seed,
        "sampler": settings.sampler,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "guidance_rescale": settings.guidance_rescale,
    }


def progress_display() -> Progress:
    """Bars on stderr."""
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


def progress_bars(progress: Progress) -> Report:
    """A report that has a bar for each name."""
    tasks: dict[str, TaskID] = {}

    def report(name: str, done: float, total: int) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total)
        progress.update(tasks[name], completed=done, total=total)

    return report


def check_folders(*files: Path | None) -> None:
    """Raises OutputError where a file that is to be written has no folder."""
    for file in files:
        if file and not file.absolute().parent.is_dir():
            raise OutputError(f"there is no folder {file.parent}", "Make it, or choose another")


def write_file(path: Path | None, write: Callable[[Path], object]) -> None:
    """Write a file, if its path is given. Raises OutputError where it cannot be written."""
    if path:
        try:
            write(path)
        except OSError as error:
            raise OutputError(f"cannot write {path} ({error.strerror})") from error


def _write_json(file: Path | None, about: dict[str, Any], rows: list[Row]) -> None:
    text = json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=1, ensure_ascii=False)
    write_file(file, lambda path: path.write_text(text + "\n", "utf-8"))


def _write_images(arguments: argparse.Namespace, studio: Studio, rows: list[Row]) -> None:
    """Write the chart of λ and the sheet of videos, where they are asked for and there are any."""
    from dcrafter.evaluation.report import lambda_figure

    for layers in (row.details["per layer"] for row in rows if "per layer" in row.details):
        figure = lambda_figure(layers)
        write_file(arguments.figure, lambda path: path.write_text(figure, "utf-8"))  # noqa: B023
    if studio.generated:
        write_file(arguments.sheet, lambda path: _sheet(studio).save(path))


def _sheet(studio: Studio) -> Image:
    """The first videos of every set that was generated."""
    from dcrafter.evaluation.report import sheet

    videos = []
    for name, generated in studio.generated.items():
        cases = studio.cases(name, max(generated) + 1)
        shown = sorted(generated)[:SHEET_VIDEOS]
        videos += [(f"{name}: {cases[number].caption}", generated[number]) for number in shown]
    return sheet(videos)
