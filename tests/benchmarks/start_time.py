"""From Enter to the file: python tests/benchmarks/start_time.py [OTHER TREE] [--runs 9]

Runs `dcrafter animate` with the built-in model in this tree and, turn by turn, in another one (a git worktree of an
earlier commit), as whole processes. Prints medians of the wall clock and of the processor's time, beside what the
command cannot do without: Python with torch, and the generation as the command measures it. The aim is 1.5 times that.
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
    for name, values in times.items():
        walls, processors = zip(*values, strict=True)
        line = f"{name:24} {statistics.median(walls):6.2f} s, processor {statistics.median(processors):.2f} s"
        if name in generations:
            generation = statistics.median(generations[name])
            least = generation + statistics.median(wall for wall, _ in times[torch_alone])
            line += f"; generation {generation:.2f} s, {statistics.median(walls) / least:.2f} × torch and generation"
        print(line)


if __name__ == "__main__":
    main()
