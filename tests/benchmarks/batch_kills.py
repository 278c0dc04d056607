"""A batch killed at random moments until it is done: python tests/benchmarks/batch_kills.py [ITEMS [KILLS]] [-- MODEL…]

200 items and 50 moments by default, by each of the signals below, and on disks that fill up. What comes out must
be what an uninterrupted run gives.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from batch.killing import Arguments, fill, finish, largest, same, start, stop
from batch_cases import arguments, cut_pictures


def main() -> None:
    numbers, model = arguments()
    items, kills = (*numbers, *(200, 50)[len(numbers) :])
    with TemporaryDirectory() as name:
        folder = Path(name)
        command: Arguments = [
            "batch", cut_pictures(folder / "in", items), "-p", "a cat", *model, "-f", "apng", "-q", "-o", "out",
        ]  # fmt: skip
        (folder / "whole").mkdir()
        start(["--version"], folder).join()  # the server is warm
        began = time.monotonic()
        expected = finish(command, folder / "whole")
        assert len(expected) == items
        print(f"{items} items in {time.monotonic() - began:.1f} s without a stop")
        least = largest(folder / "whole" / "out")
        signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGSTOP)
        for by in (*signals, "full disk"):
            title = by if isinstance(by, str) else by.name
            parts = folder / title
            parts.mkdir()
            moments, came = random.Random(0), []
            for _ in range(kills):
                made = (
                    fill(command, parts, moments, least) if isinstance(by, str) else stop(command, parts, by, moments)
                )
                assert same(made, expected)
                came.append(len(made))
                if len(made) == items:
                    break
            made = finish(command, parts)
            assert made.keys() == expected.keys()
            assert same(made, expected)
            print(
                f"{title} at {len(came)} moments, items done at each: {came}; then run to the end: all {items} the same"
            )


if __name__ == "__main__":
    main()
