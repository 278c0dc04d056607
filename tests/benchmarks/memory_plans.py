"""What the memory plans save on a full-size published checkpoint (random numbers, 10.4 GB), by the command line.

    python tests/benchmarks/memory_plans.py [FOLDER]

Writes the checkpoint into a temporary folder (under FOLDER if given, 11 GB free) and makes the same video of two steps
at 256×256 under each plan, on the CPU. Prints the peak memory, what a dry run expects, and the seconds; the videos must
be the same to the byte. A quarter of an hour on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from weights_cost import write

from dcrafter.settings import MEMORY_PLANS


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        write(Path(folder) / "model.ckpt")
        Image.effect_noise((512, 320), 80).convert("RGB").save(Path(folder) / "picture.png")
        videos = set()
        for plan in MEMORY_PLANS:
            expected = dcrafter(folder, "--memory", plan, "--dry-run")["expected_memory"]
            told = dcrafter(folder, "--memory", plan)
            print(
                f"{plan}: {told['peak_memory'] / 1e9:.2f} GB, {expected / 1e9:.2f} expected, {told['seconds']:.0f} s, "
                f"{told['timings']['sampling']:.0f} of them sampling",
                flush=True,
            )
            videos.add((Path(folder) / told["path"]).read_bytes())
        assert len(videos) == 1


def dcrafter(folder: str, *options: str) -> dict[str, Any]:
    """The JSON of one call."""
    command = ["dcrafter", "animate", "picture.png", "-m", "512", "--checkpoint", "model.ckpt", "-p", "waves", "-q"]
    command += [
        "--device",
        "cpu",
        "--steps",
        "2",
        "--width",
        "256",
        "--height",
        "256",
        "--seed",
        "1",
        "--overwrite",
        "-o",
        "video.mp4",
        "--json",
        *options,
    ]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


if __name__ == "__main__":
    main()
