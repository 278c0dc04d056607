"""Trains tiny-parts, tiny-local and beside them tiny-decoder in so many seconds of a GPU.

    python training-runs/within.py DATA OUT SECONDS [--start WEIGHTS] [--workers 10]

DATA is a prepared data set. Each recipe first takes a few steps; their time says how many the run has, so that its
learning rate ends at zero when the time does. OUT gets logs, `weights.safetensors` and `decoder.safetensors`. In
`--small` steps, on a CPU too, it takes minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PROBE = 40  # steps
LEAST = 40
DECAYING = 0.6  # share of the steps in which the learning rate falls
BATCHES = {"tiny-parts": 24, "tiny-local": 32, "tiny-decoder": 64}  # the recipes' are for a CPU


@dataclass(frozen=True)
class Lease:
    data: Path
    out: Path
    end: float  # of time.monotonic
    small: bool

    def train(self, recipe: str, until: float, workers: int, start: Path | None = None) -> Path:
        """Train for as many steps as end before `until`; returns the weights."""
        began = time.monotonic()
        self._run(recipe, f"{recipe}-probe", workers, start, [f"train.steps={PROBE}"])
        rows = (json.loads(line) for line in (self.out / f"{recipe}-probe" / "log.jsonl").open())
        seconds = [row["seconds"] for row in rows if "seconds" in row][1:]  # the first ones start workers
        step = sum(seconds) / len(seconds)
        overhead = time.monotonic() - began - PROBE * step
        steps = max(LEAST, int((until - time.monotonic() - overhead) / (1.05 * step)))
        print(f"{recipe}: {step:.3f} s a step, {overhead:.0f} s beside, {steps} steps", flush=True)
        self._run(recipe, recipe, workers, start, [f"train.steps={steps}", f"train.cooldown={int(DECAYING * steps)}"])
        return self.out / recipe / "weights.safetensors"

    def _run(self, recipe: str, name: str, workers: int, start: Path | None, changes: list[str]) -> None:
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        changes += ["train.log_every=10", "train.evaluate_every=100000", f"train.workers={workers}"]
        changes.append(f"train.batch={2 if self.small else BATCHES[recipe]}")
        command = [sys.executable, "-m", "dcrafter.tiny", recipe, *changes, "--data", self.data, "--out", folder]
        command += ["--start", start] if start else []
        with open(folder / "said.txt", "w") as said:
            subprocess.run(command, check=True, stdout=said, stderr=said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--start", type=Path, help="what tiny-parts begins from, in place of the model in the package")
    parser.add_argument("--workers", type=int, default=10, help="processes that draw clips; the decoder has three more")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    lease = Lease(given.data, given.out, began + given.seconds, given.small)
    with ThreadPoolExecutor(1) as beside:
        decoder = beside.submit(lease.train, "tiny-decoder", lease.end, min(given.workers, 3))
        parts = lease.train("tiny-parts", began + 0.27 * given.seconds, given.workers, given.start)
        made = lease.train("tiny-local", lease.end, given.workers, parts)
        made.rename(given.out / made.name)
        decoder.result().rename(given.out / "decoder.safetensors")


if __name__ == "__main__":
    main()
