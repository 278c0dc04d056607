"""A full-size published checkpoint (random numbers, 10.4 GB) opened and evaluated on this machine.

    python tests/benchmarks/full_size.py [FOLDER]

Writes the checkpoint into a temporary folder (under FOLDER if given, 11 GB free), opens it into a ready 512 pipeline,
loads its components in the order of a generation and runs one denoiser evaluation at 256×256, each type in a process of
its own. Prints seconds and the peak of memory (no mapped files, sampled every 5 ms) above what the imports take.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import torch

from dcrafter.runtime.machine import PeakMemory

MANIFEST = Path(__file__).parents[1] / "data" / "golden" / "manifest_512.json"
ORDER = ["text_encoder", "image_encoder", "projector", "autoencoder", "unet"]


def write(path: Path) -> None:
    """The published layout: a Lightning dict of float32 tensors. Small values, so that activations stay finite."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(16_000_000, generator=generator) * 0.02

    def values(shape: list[int]) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return block.repeat(-(-count // len(block)))[:count].reshape(shape).clone()

    state = {key: values(shape) for key, shape in json.loads(MANIFEST.read_text()).items()}
    state["scale_arr"] = torch.linspace(1, 0.7, 1400)
    torch.save({"state_dict": state}, path)


class Peak(PeakMemory):
    """The most this process held above what it held when entered."""

    def __enter__(self) -> Peak:
        self.before = self.held()
        super().__enter__()
        return self

    @property
    def gb(self) -> float:
        return (self.bytes - self.before) / 1e9


def measure(path: Path, dtype: str, evaluate: bool) -> None:
    from dcrafter.pipeline import Pipeline

    started = time.perf_counter()
    with Peak() as peak:
        pipe = Pipeline.from_pretrained("512", checkpoint=path, device="cpu", dtype=dtype)
        ready = time.perf_counter() - started
        for component in ORDER:
            for _ in pipe.residency.ensure_loaded(component):
                pass
    loaded = time.perf_counter() - started
    print(f"{dtype}: ready in {ready:.1f} s, every component loaded once in {loaded:.1f} s, peak {peak.gb:.2f} GB")
    if not evaluate:
        return
    config = pipe.config
    x, concat = torch.randn(2, 1, 4, 16, 32, 32)
    text = torch.randn(1, 77, config.unet.context_dim)
    image = torch.randn(1, 16 * 16, config.unet.context_dim)
    for run in ("first", "second"):
        started = time.perf_counter()
        with Peak() as peak, torch.inference_mode():
            out = pipe.model.denoise(x, torch.tensor([999]), text, image, concat, torch.tensor([24]))
        seconds = time.perf_counter() - started
        assert out.isfinite().all()
        print(f"{dtype}: {run} evaluation at 256×256 in {seconds:.1f} s, peak {peak.gb:.2f} GB above the weights")


def main() -> None:
    processes = multiprocessing.get_context("spawn")

    def in_its_own_process(*call: object) -> None:
        process = processes.Process(target=call[0], args=call[1:])  # type: ignore[arg-type]
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)

    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        path = Path(folder) / "model.ckpt"
        in_its_own_process(write, path)
        print(f"{path.stat().st_size / 1e9:.1f} GB on disk, {torch.get_num_threads()} threads")
        in_its_own_process(measure, path, "float16", False)
        in_its_own_process(measure, path, "bfloat16", True)


if __name__ == "__main__":
    main()
