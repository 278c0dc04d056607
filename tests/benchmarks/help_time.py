"""How long `dcrafter --help` takes over a bare interpreter: python tests/benchmarks/help_time.py

Medians of alternating runs, so that a busy moment of the machine meets both. The aim is 150 ms.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 15
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "dcrafter --help": ["-m", "dcrafter", "--help"],
    "dcrafter animate --help": ["-m", "dcrafter", "animate", "--help"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    for arguments in COMMANDS.values():
        seconds(arguments)  # once for the bytecode
    rounds = [[seconds(arguments) for arguments in COMMANDS.values()] for _ in range(RUNS)]
    bare, *others = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"python -c pass: {1000 * bare:.0f} ms")
    for name, taken in zip(list(COMMANDS)[1:], others, strict=True):
        print(f"{name}: {1000 * (taken - bare):.0f} ms over it")


if __name__ == "__main__":
    main()
