"""Seconds of each stage of a generation on this machine's CPU, and what share of its peak that is.

    python -m tests.benchmarks [MODEL …] [--full] [--size 256] [--branches 1] [--dtype bfloat16] [--json FILE]

Weights are random numbers made in their type, so nothing is downloaded. `tiny` is the built-in model's size, `mid` the
published structure with about an eighth of its operations; `--full` adds the 512 model, which needs 6 GB and minutes.
Forms run in turns, each in a process of its own: `published` has the operators of the published code, in float32;
`plain` is the modules as they are written; `fast` is what a pipeline runs. The least CPU time of one thread counts, so
that other processes disturb little. The peak is that of products of 2048 × 2048 in the same type. Memory is the most
that the process holds above its weights.

The GPU's benchmark is `python -m tests.benchmarks.gpu`. The other scripts in this folder measure one thing each: the
first line of each says what, and how it is called.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.stages import (
    CONFIGS,
    FORMS,
    STAGES,
    Inputs,
    Memory,
    fill,
    least_seconds,
    operations,
    peak,
    published_operators,
)

from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.runtime.allocator import keep_freed_memory

CPU = torch.device("cpu")
ROUNDS = 2  # of all forms, a process each; the faster one counts
PUBLISHED = ("evaluation",)  # the stages of which there is a published form here
HEADER = "model stage      form      type      seconds  GFLOP/s  of peak  memory above weights  fast is"


@dataclass(frozen=True)
class Result:
    model: str
    stage: str
    form: str
    dtype: str
    seconds: float  # of an evaluation a branch, of a decoded frame
    gflops: float  # a second
    peak_share: float
    memory: int  # bytes above the weights

    def __str__(self) -> str:
        return (
            f"{self.model:5} {self.stage:10} {self.form:9} {self.dtype:9} {self.seconds:7.3f} {self.gflops:8.0f} "
            f"{self.peak_share:8.0%} {self.memory / 1e6:10.0f} MB"
        )


def measure(model: str, form: str, options: argparse.Namespace) -> list[Result]:
    """All stages in one form, each with its components alone in memory."""
    torch.set_num_threads(1)
    config, name = CONFIGS[model], "float32" if form == "published" else options.dtype
    dtype, size = getattr(torch, name), config.width if model == "tiny" else options.size
    results = []
    for stage in [each for each in options.stages if form != "published" or each in PUBLISHED]:
        branches = options.branches if stage == "evaluation" else 1
        structure, given = DynamiCrafter.on_meta(config), Inputs.make(config, size, size, CPU, branches)
        with torch.inference_mode(), published_operators(given) if form == "published" else nullcontext(given) as given:
            for component in STAGES[stage].components:
                part = structure.get_submodule(component)
                fill(part, CPU, dtype)
                FORMS[form](part)
            with keep_freed_memory() if form == "fast" else nullcontext(), Memory(CPU) as memory:
                seconds = least_seconds(partial(STAGES[stage].run, structure, given), CPU, options.runs)
        speed = operations(config, stage, size, size, branches) / seconds
        share = speed / peak(CPU, dtype)
        results.append(Result(model, stage, form, name, seconds / branches, speed / 1e9, share, memory.bytes))
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*CONFIGS, []], default=["tiny", "mid"])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--forms", nargs="+", choices=[*FORMS], default=[*FORMS])
    parser.add_argument("--stages", nargs="+", choices=[*STAGES], default=[*STAGES])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--branches", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
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
            for form, result in least.items():
                times = least["fast"].seconds / result.seconds if "fast" in least else 1
                print(result, f"{1 / times:8.2f} ×" if form != "fast" else "", flush=True)
            results += least.values()
    if options.json:
        machine = {"threads": 1, "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
        options.json.write_text(json.dumps({**machine, "results": [asdict(each) for each in results]}, indent=1))


if __name__ == "__main__":
    main()
