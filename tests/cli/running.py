"""What the tests of the command line share: arguments of a small random checkpoint, and what a run came to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dcrafter.models.sketch_encoder import SketchEncoder
from dcrafter.weights.checkpoint import SKETCHES, open_checkpoint
from dcrafter.weights.keys import to_published

DATA = Path(__file__).parents[1] / "data"
CAT = str(DATA / "cat.png")
CHECKPOINT = DATA / "golden" / "dc256" / "model.ckpt"
CONFIG = ("--model-config", str(CHECKPOINT.with_name("config.json")))
MODEL = ("--checkpoint", str(CHECKPOINT), *CONFIG, "--device", "cpu", "--dtype", "float32")
QUICK = (*MODEL, "--steps", "1")


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[str]:
        """Of stdout."""
        return self.stdout.decode().splitlines()


Run = Callable[..., Outcome]


def start(*arguments: str, folder: Path, **streams: int) -> subprocess.Popen[bytes]:
    """The command line in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DCRAFTER_")}
    command = [sys.executable, "-m", "dcrafter", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)  # type: ignore[call-overload]


def sketch_encoder() -> dict[str, torch.Tensor]:
    """A sketch encoder of the small UNet of 512, of random numbers, under its published names."""
    small = DATA / "golden" / "dc512"
    config = open_checkpoint(small / "model.safetensors", model_config=small / "config.json").config
    torch.manual_seed(0)
    weights = {f"{SKETCHES}.{key}": value for key, value in SketchEncoder(config.unet).state_dict().items()}
    names = to_published(weights, "toon")
    return {names[key].removeprefix(f"{SKETCHES}."): value for key, value in weights.items()}
