"""What conversion and loading cost, on a full-size checkpoint of random numbers (10.4 GB) or a small one.

    python tests/benchmarks/weights_cost.py [small] [FOLDER]

Needs 17 GB in FOLDER (by default the temporary one), or with `small` 60 MB. Each measurement is a process of its own;
imports are done, and a tiny pipeline opened, before its clock starts. Files are read cold (their pages dropped from the
page cache by posix_fadvise, Linux) and warm. Memory is the peak above that before, without
mapped files, sampled every 5 ms.

Prints conversion: seconds, bytes read and written, and the time that plain reads, hashing and writing of the same bytes
take; then torch.load of the original without mmap against `Pipeline.from_pretrained` of the converted file, up to the
ready pipeline and up to every component loaded once.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from dcrafter.runtime.machine import PeakMemory

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "dc512"
MANIFEST = GOLDEN.parent / "manifest_512.json"
ORDER = ["text_encoder", "image_encoder", "projector", "autoencoder", "unet"]
BLOCK = 4_000_000


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


def write_small(path: Path) -> None:
    tensors = load_file(GOLDEN / "model.safetensors")
    torch.save({"state_dict": {key: value.float() for key, value in tensors.items()}}, path)


def settle(path: Path, cold: bool) -> None:
    """Has a file's pages in the page cache, or not there."""
    with path.open("rb") as file:
        if cold:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while file.read(BLOCK):
                pass


def warm_up() -> None:
    from dcrafter.pipeline import Pipeline

    model = GOLDEN / "model.safetensors"
    pipe = Pipeline.from_pretrained(checkpoint=model, model_config=GOLDEN / "config.json", device="cpu")
    for _ in pipe.residency.ensure_loaded("projector"):
        pass


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and GB of anonymous memory at the peak."""
    started = time.perf_counter()
    with Peak() as peak:
        run()
        seconds = time.perf_counter() - started
    return seconds, peak.gb


def convert(original: Path, ours: Path, model_config: Path | None) -> None:
    warm_up()
    from dcrafter.weights.checkpoint import open_checkpoint
    from dcrafter.weights.convert import convert

    for cold in (True, False):
        settle(original, cold)
        ours.unlink(missing_ok=True)

        def run() -> None:
            for _ in convert(open_checkpoint(original, model_config=model_config), ours):
                pass

        seconds, gb = timed(run)
        moved = (original.stat().st_size + ours.stat().st_size) / 1e9
        settle(original, cold)
        plain, _ = timed(lambda: copy(original, ours))
        print(
            f"{'cold' if cold else 'warm'} conversion: {seconds:.1f} s for {moved:.2f} GB read and written, peak "
            f"{gb:.3f} GB; reading them, hashing and writing half alone: {plain:.1f} s",
            flush=True,
        )


def copy(original: Path, ours: Path) -> None:
    """Reads the original, and hashes and writes as many bytes as conversion does."""
    digest = hashlib.sha256()
    with original.open("rb") as source, ours.with_suffix(".copy").open("wb") as target:
        while block := source.read(BLOCK):
            half = block[: len(block) // 2]
            digest.update(half)
            target.write(half)
        target.flush()
        os.fsync(target.fileno())
    ours.with_suffix(".copy").unlink()


def load_plainly(original: Path) -> None:
    warm_up()
    for cold in (True, False):
        settle(original, cold)
        seconds, gb = timed(lambda: torch.load(original, map_location="cpu", weights_only=True))
        print(f"{'cold' if cold else 'warm'} torch.load of the original: {seconds:.2f} s, peak {gb:.2f} GB", flush=True)


def load_ours(ours: Path, dtype: str) -> None:
    warm_up()
    from dcrafter.pipeline import Pipeline

    for cold in (True, False):
        settle(ours, cold)
        ready = 0.0

        def run() -> None:
            nonlocal ready
            started = time.perf_counter()
            pipe = Pipeline.from_pretrained("auto", checkpoint=ours, device="cpu", dtype=dtype)
            ready = time.perf_counter() - started
            for component in ORDER:
                for _ in pipe.residency.ensure_loaded(component):
                    pass

        seconds, gb = timed(run)
        print(
            f"{'cold' if cold else 'warm'} pipeline in {dtype}: ready in {ready:.2f} s, every component loaded once in "
            f"{seconds:.2f} s, peak {gb:.2f} GB",
            flush=True,
        )


def sizes(ours: Path) -> None:
    from dcrafter.weights.checkpoint import open_checkpoint

    tensors = open_checkpoint(ours).tensors
    held = {name: sum(t.nbytes for key, t in tensors.items() if key.startswith(f"{name}.")) / 1e9 for name in ORDER}
    print("components: " + ", ".join(f"{name} {size:.3f} GB" for name, size in held.items()), flush=True)


def main() -> None:
    arguments = sys.argv[1:]
    small = "small" in arguments
    places = [argument for argument in arguments if argument != "small"]
    processes = multiprocessing.get_context("spawn")

    def in_its_own_process(run: Callable[..., None], *values: object) -> None:
        process = processes.Process(target=run, args=values)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)

    with tempfile.TemporaryDirectory(dir=places[0] if places else None) as folder:
        original, ours = Path(folder) / "model.ckpt", Path(folder) / "512.safetensors"
        in_its_own_process(write_small if small else write, original)
        print(f"{original.stat().st_size / 1e9:.2f} GB in float32, {torch.get_num_threads()} threads", flush=True)
        in_its_own_process(convert, original, ours, GOLDEN / "config.json" if small else None)
        print(f"{ours.stat().st_size / 1e9:.2f} GB converted", flush=True)
        in_its_own_process(sizes, ours)
        in_its_own_process(load_plainly, original)
        for dtype in ("float16", "bfloat16", "float32"):
            in_its_own_process(load_ours, ours, dtype)


if __name__ == "__main__":
    main()
