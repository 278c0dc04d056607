"""Seconds of one evaluation in the plain and in the fast form, alternating, and what share of the machine's peak it is.

    python tests/benchmarks/evaluations.py [MODEL …] [--size 256] [--branches 1] [--dtype bfloat16] [--json FILE]

Weights are random numbers made in their type. `mid` is the published structure at 128 channels, `full` the 512 model,
which needs 3 GB in bfloat16 and is only measured when it is named. Every measurement is the least CPU time of one
thread, so that other processes disturb little; each form runs in a process of its own, in turns. The peak is that of
matrix products of 2048 × 2048 in the same type, through oneDNN, by packed weights. Memory is the most that the process
holds above its weights. No figure of a GPU exists: none was at hand.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from dcrafter.config import MODELS, ModelConfig
from dcrafter.models import fast
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.runtime.allocator import keep_freed_memory
from dcrafter.runtime.estimate import operations
from dcrafter.runtime.machine import PeakMemory, process_memory

FORMS = ("plain", "fast")
ROUNDS = 2  # of all forms, a process each; the faster one counts
SIDE = 2048  # of the matrices whose product is the machine's peak
BLOCK = 30_000_000  # random numbers, at least as many as the largest weight has
MODEL = MODELS["512"]
CONFIGS: dict[str, ModelConfig] = {
    "tiny": MODELS["tiny"],
    "mid": replace(MODEL, unet=replace(MODEL.unet, model_channels=128, head_channels=32)),
    "full": MODEL,
}


@dataclass(frozen=True)
class Result:
    model: str
    form: str
    dtype: str
    size: int
    branches: int
    evaluation: float  # seconds of CPU, a branch
    decode: float  # seconds of CPU, a frame
    gflops: float  # of the evaluation
    peak_share: float
    memory: int  # bytes above the weights


def least(runs: int, run: Callable[[], object]) -> float:
    """The least CPU seconds of so many runs."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def peak(dtype: torch.dtype) -> float:
    """Operations a second of packed matrix products, of one thread."""
    layer = torch.nn.Linear(SIDE, SIDE, dtype=dtype)
    x = torch.randn(SIDE, SIDE, dtype=dtype)
    if fast.supported(x.device, dtype):
        fast.pack(layer)
    return 2 * SIDE**3 / least(10, lambda: layer(x))


def fill(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Small random weights, so that values stay finite."""
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).to(dtype) * 0.02
    state = {key: block[: value.numel()].reshape(value.shape).clone() for key, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def measure(name: str, form: str, arguments: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    config, dtype, branches = CONFIGS[name], getattr(torch, arguments.dtype), arguments.branches
    size = config.width if name == "tiny" else arguments.size
    side = size // config.autoencoder.downsampling
    with torch.inference_mode():
        model = DynamiCrafter.on_meta(config)
        for part in (model.unet, model.autoencoder):
            fill(part, dtype)
            if form == "fast":
                fast.pack(part)
        generator = torch.Generator().manual_seed(1)
        x, concat = torch.randn(2, branches, config.unet.out_channels, 16, side, side, generator=generator)
        text = torch.randn(branches, config.clip.text.context_length, config.unet.context_dim, generator=generator)
        image = torch.randn(branches, 256, config.unet.context_dim, generator=generator)
        t, fs = torch.full((branches,), 500), torch.full((branches,), 24)
        before = process_memory()
        with PeakMemory() as most, keep_freed_memory() if form == "fast" else nullcontext():
            evaluation = least(arguments.runs, lambda: model.denoise(x, t, text, image, concat, fs)) / branches
        decode = least(arguments.runs, lambda: model.decode(x[:1, :, 0]))
        speed = operations(config, size, size, config.frames) / evaluation
        return Result(
            name, form, arguments.dtype, size, branches, round(evaluation, 3), round(decode, 3),
            round(speed / 1e9, 1), round(speed / peak(dtype), 3), most.bytes - before,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*CONFIGS, []], default=["tiny", "mid"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--branches", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    print("model form  evaluation  decode/frame  GFLOP/s  of peak  memory above weights")
    for name in arguments.models:
        rounds: dict[str, list[Result]] = {form: [] for form in FORMS}
        for form in FORMS * ROUNDS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rounds[form].append(pool.apply(measure, (name, form, arguments)))
        for form in FORMS:
            result = min(rounds[form], key=lambda each: each.evaluation)
            results.append(result)
            print(
                f"{name:5} {form:5} {result.evaluation:9.3f} s {result.decode:11.3f} s {result.gflops:8.0f} "
                f"{result.peak_share:8.0%} {result.memory / 1e6:10.0f} MB",
                flush=True,
            )
        plain, faster = results[-2:]
        print(f"{name:5} {plain.evaluation / faster.evaluation:.2f} times as fast")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
