"""Workers on Ray against one: python tests/benchmarks/batch_ray.py [ITEMS [WORKERS]] [-- MODEL…]

40 items and 2 workers of one CPU each by default, on this machine, with one thread each. The time that starting takes
is left out: it counts from the first video to the last. Without other load, 2 workers should be 1.8 times as fast.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
from batch_cases import arguments, cut_pictures

from dcrafter.batch.journal import read_journals


def main() -> None:
    numbers, model = arguments()
    items, workers = (*numbers, *(40, 2)[len(numbers) :])
    with TemporaryDirectory(dir="/tmp", prefix="ray") as name:  # Ray's sockets need a short name
        folder = Path(name)
        pictures = cut_pictures(folder / "in", items)
        os.environ |= {"OMP_NUM_THREADS": "1", "RAY_TMPDIR": name}
        rates, latents = {}, {}
        for number in (1, workers):
            out = folder / f"out{number}"
            cluster = ray.init("local", num_cpus=number, include_dashboard=False, log_to_driver=False)
            try:
                rates[number] = rate([
                    sys.executable, "-m", "dcrafter", "batch", pictures, "-p", "a cat", *model, "-q", "-o", out,
                    "--ray", cluster.address_info["gcs_address"], "--cpus-per-worker", "1",
                ])  # fmt: skip
            finally:
                ray.shutdown()
            latents[number] = {name: record.latents_hash for name, record in read_journals(out).items()}
            print(f"{number} workers: {rates[number]:.2f} items a second")
        assert latents[1] == latents[workers]
        print(f"{rates[workers] / rates[1]:.2f} times as fast, with the same latents")


def rate(command: list[str | Path]) -> float:
    """Items a second between the first and the last."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        times = [time.monotonic() for _ in process.stdout]
    assert process.returncode == 0
    return (len(times) - 1) / (times[-1] - times[0])


if __name__ == "__main__":
    main()
