"""Seconds of each stage of a generation on this machine's CPU, and what share of its peak that is.

    python -m tests.benchmarks [MODEL …] [--full] [--size 256×256] [--branches 1] [--dtype bfloat16] [--threads 1]
        [--json FILE]

Weights are random numbers made in their type, so nothing is downloaded. `tiny` is the built-in model's size, `mid` the
published structure with about an eighth of its operations; `--full` adds the 512 model, which needs 6 GB and minutes.
Forms run in turns, each in a process of its own: `published` has the operators of the published code, in float32;
`plain` is the modules as they are written; `fast` is what a pipeline runs. The least CPU time of one thread counts, so
that other processes disturb little; of more `--threads` the wall clock does, where nothing else runs. The peak is that
of products of 2048 × 2048 in the same type. Memory is the most that the process holds above its weights.

The GPU's benchmark is `python -m tests.benchmarks.gpu`. The other scripts in this folder measure one thing each: the
first line of each says what, and how it is called.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.stages import CONFIGS, FORMS, STAGES, Result, measure

ROUNDS = 2  # of all forms, a process each; the faster one counts
HEADER = "model stage      form      type      seconds  GFLOP/s  of peak  memory above weights  fast is"


def width_and_height(text: str) -> tuple[int, int]:
    width, height = text.replace("×", "x").split("x")
    return int(width), int(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*CONFIGS, []], default=["tiny", "mid"])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--forms", nargs="+", choices=[*FORMS], default=[*FORMS])
    parser.add_argument("--stages", nargs="+", choices=[*STAGES], default=[*STAGES])
    parser.add_argument("--size", type=width_and_height, default=(256, 256), metavar="WIDTH×HEIGHT")
    parser.add_argument("--branches", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    print(HEADER)
    for model in [*options.models, *(["full"] if options.full else [])]:
        measured: list[Result] = []
        for form in options.forms * ROUNDS:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                measured += pool.submit(measure, model, form, options).result()
        for stage in options.stages:
            slowest_first = sorted(measured, key=lambda each: -each.seconds)
            least = {each.form: each for each in slowest_first if each.stage == stage}
            fast = least["fast"].seconds if "fast" in least else None
            for form, result in least.items():
                print(result, f"{result.seconds / fast:8.2f} ×" if fast and form != "fast" else "", flush=True)
            results += least.values()
    if options.json:
        cpu = torch.backends.cpu.get_cpu_capability()
        machine = {"threads": options.threads, "torch": torch.__version__, "cpu": cpu}
        options.json.write_text(json.dumps({**machine, "results": [asdict(each) for each in results]}, indent=1))


if __name__ == "__main__":
    main()
