"""`python -m dcrafter.evaluation videos RUN…`: measure videos that are there, runs side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dcrafter.errors import UsageError
from dcrafter.metrics import METRICS

PROGRAM = "dcrafter.evaluation videos"
SOURCE = "a folder of videos, of a batch, or a CSV or JSONL manifest"


def run(argv: Sequence[str]) -> None:
    """Measure as the arguments say; the table goes to stdout.

    Raises:
        UsageError: there is no such metric.
        InputError: videos cannot be read.
        WeightsError: an extractor cannot be had.
        OutputError: a file cannot be written.
    """
    arguments = _parser().parse_args(argv)
    from dcrafter.evaluation import comparison
    from dcrafter.evaluation.command import check_folders, progress_bars, progress_display, write_file
    from dcrafter.evaluation.extraction import Extraction
    from dcrafter.evaluation.scores import score_runs

    metrics = _metrics(arguments)
    check_folders(arguments.out, arguments.plot, arguments.html)
    extraction = Extraction(
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        features=arguments.features,
        perceptual=arguments.perceptual,
        perceptual_weights=arguments.perceptual_weights,
        device=arguments.device,
        offline=arguments.offline,
    )
    runs, progress = named(arguments.runs), progress_display()
    with progress:
        bars = progress_bars(progress)
        scored = score_runs(runs, arguments.data, metrics, extraction, count=arguments.count, report=bars)
    for problem in (problem for scores in scored for problem in scores.problems):
        print(f"left out: {problem}", file=sys.stderr)
    shown = [name for name in metrics if any(scores.mean(name) is not None for scores in scored)]
    report = (scored, shown, extraction)
    write_file(arguments.out, lambda path: path.write_text(comparison.as_json(*report), "utf-8"))
    write_file(arguments.plot, lambda path: path.write_text(comparison.chart(*report), "utf-8"))
    write_file(arguments.html, lambda path: path.write_text(comparison.page(*report, path.absolute()), "utf-8"))
    print(comparison.table(*report))


def named(runs: Sequence[Path]) -> dict[str, Path]:
    """Runs by the shortest ends of their paths that tell them apart."""
    parts = [run.absolute().with_suffix("").parts for run in runs]
    depth = next((n for n in range(1, 99) if len({each[-n:] for each in parts}) == len(parts)), 0)
    if not depth:
        raise UsageError("a run is named twice", "Name each once")
    return {"/".join(each[-depth:]): run for each, run in zip(parts, runs, strict=True)}


def _metrics(arguments: argparse.Namespace) -> list[str]:
    """Those that are asked for, or all that can be had: distances of sets need a reference."""
    only = arguments.only.split(",") if arguments.only else []
    if unknown := [name for name in only if name not in METRICS]:
        raise UsageError(f"there is no metric {', '.join(unknown)}", f"Choose among {', '.join(METRICS)}")
    if not arguments.data and (sets := [name for name in only if METRICS[name].is_of_sets]):
        raise UsageError(f"{', '.join(sets)} needs real videos", "Give them with --data")
    return only or [name for name, metric in METRICS.items() if arguments.data or not metric.is_of_sets]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description="Measure videos, runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=SOURCE)
    parser.add_argument("--data", type=Path, metavar="REAL", help=f"real videos: {SOURCE}")
    parser.add_argument("--only", metavar="NAME,NAME", help=f"these metrics alone, of {', '.join(METRICS)}")
    parser.add_argument("--count", type=int, metavar="N", help="number of clips of each, at most")
    parser.add_argument("-m", "--model", default="auto", help="whose CLIP towers CLIP-SIM takes")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint, in place of the model's own")
    parser.add_argument(
        "--features", default="clip", metavar="NAME",
        help="of FVD and KVD: i3d (downloads it), a file of I3D, a video model of transformers, or clip: the towers",
    )  # fmt: skip
    parser.add_argument("--perceptual", default="clip", choices=["clip", "dreamsim", "lpips"], help="distance of PIC")
    parser.add_argument("--perceptual-weights", type=Path, metavar="PATH", help="its weights, where they are here")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--offline", action="store_true", help="download nothing")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write every figure, of each clip too")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="write a chart")
    parser.add_argument("--html", type=Path, metavar="FILE.html", help="write a page with the videos side by side")
    return parser
