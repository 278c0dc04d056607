"""A batch against runs of animate, and its memory: python tests/benchmarks/batch_cost.py [ITEMS [RUNS]] [-- MODEL…]

200 items by default, and 10 runs of animate to compare with. Prints seconds an item, and the memory the process holds
(Linux) behind item 10 and behind the last.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from batch_cases import arguments, cut_pictures

EARLY = 10


def main() -> None:
    numbers, model = arguments()
    items, runs = (*numbers, *(200, 10)[len(numbers) :])
    dcrafter = [sys.executable, "-m", "dcrafter"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        pictures = cut_pictures(folder / "in", items)
        start = time.monotonic()
        for picture in sorted(pictures.iterdir())[:runs]:
            subprocess.run(
                [*dcrafter, "animate", picture, "-p", "a cat", *model, "-q", "-o", f"{folder}/alone/"],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        alone = (time.monotonic() - start) / runs
        print(f"animate, a process each: {alone:.2f} s an item")

        start = time.monotonic()
        process = subprocess.Popen(
            [*dcrafter, "batch", pictures, "-p", "a cat", *model, "-q", "-o", folder / "out"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        held = {}
        for number, _ in enumerate(process.stdout, start=1):
            if number in (min(EARLY, items), items):
                held[number] = memory(process.pid)
        assert process.wait() == 0
        together = (time.monotonic() - start) / items
        print(f"batch: {together:.2f} s an item, {alone / together:.1f} times as fast")
        for number, (now, peak) in held.items():
            print(f"memory behind item {number}: {now / 1024:.0f} MiB, at most {peak / 1024:.0f} MiB so far")


def memory(pid: int) -> tuple[int, int]:
    """KiB that a process holds, and that it held at most."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]), int(status["VmHWM"].split()[0])


if __name__ == "__main__":
    main()
