"""From Enter to the file: python tests/benchmarks/start_time.py [OTHER TREE] [--runs 9]

Runs `dcrafter animate` with the built-in model in this tree and, turn by turn, in another one (a git worktree of an
earlier commit), as whole processes, and Python with `import torch` alone between them. Prints, as medians of the wall
clock, the whole beside its parts: what the command cannot do without, torch and the generation as the command measures
it, and the rest. The ratio is the whole over the first two, and the aim 1.5. The processor's time says how busy the
machine was: where it is well below the wall clock, others had it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[2]
CAT = HERE / "tests" / "data" / "cat.png"


def measure(command: list[str], folder: str, tree: Path) -> tuple[float, float, str]:
    """Seconds of wall clock and of processor, and stdout."""
    # One thread: on a busy machine several wait for each other.
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    animate = [sys.executable, "-m", "dcrafter", "animate", str(CAT), "-m", "tiny", "--device", "cpu", "--seed", "1"]
    animate += ["-o", "cat.mp4", "--overwrite", "--json"]
    trees = {"this tree": HERE} | ({"the other": arguments.other.resolve()} if arguments.other else {})
    torch_alone = "python + import torch"
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in [*trees, torch_alone]}
    generations: dict[str, list[float]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(arguments.runs + 1):
            for name, tree in trees.items():
                wall, processor, stdout = measure(animate, folder, tree)
                if run:  # the first one warms the disk's cache
                    times[name].append((wall, processor))
                    generations[name].append(sum(json.loads(stdout)["timings"].values()))
            wall, processor, _ = measure([sys.executable, "-c", "import torch"], folder, HERE)
            times[torch_alone].append((wall, processor))
    torch_wall, torch_processor = medians(times[torch_alone])
    print("| | Enter to file | python + import torch | generation | the rest | ratio | processor |")
    print("|---|---|---|---|---|---|---|")
    for name in trees:
        wall, processor = medians(times[name])
        generation = statistics.median(generations[name])
        rest, ratio = wall - torch_wall - generation, wall / (torch_wall + generation)
        parts = f"{torch_wall:.2f} s | {generation:.2f} s | {rest:.2f} s"
        print(f"| {name} | {wall:.2f} s | {parts} | {ratio:.2f} | {processor:.2f} s |")
    print(f"| {torch_alone} | {torch_wall:.2f} s | | | | | {torch_processor:.2f} s |")


def medians(pairs: list[tuple[float, float]]) -> list[float]:
    """Of the first of all pairs, and of the second."""
    return [statistics.median(values) for values in zip(*pairs, strict=True)]


if __name__ == "__main__":
    main()
