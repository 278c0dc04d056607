"""All that is worth knowing of one GPU, in one command of at most nine minutes.

    python -m tests.benchmarks.gpu [--out FOLDER] [--seconds 510] [--only TASK …] [--device cuda] [--small]

Tasks run in the order of TASKS, each in a process of its own, and are stopped when the time is up. Every result is in
FOLDER/gpu.json and, as tables, in FOLDER/gpu.md as soon as it is there; what was left out is named in both. No figure
of a GPU has been published from it yet. `--small --device cpu` is the dry run: small networks and images, one step.

The machine needs no network. It needs PyTorch 2.11 or newer with CUDA, numpy, einops, safetensors, pillow, psutil,
pydantic, pyyaml and regex; of the package open-clip-torch one file, `bpe_simple_vocab_16e6.txt.gz` (1.4 MB), in a
folder `open_clip` on PYTHONPATH, beside an empty `__init__.py`; and of this repository `dcrafter/` and `tests/`.
Full-size weights are random and made on the card. Without `tests/data/golden` (51 MB, of which `dc512` is 22) or
`dcrafter/weights/tiny.safetensors` (47 MB) the tasks that compare with them are left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fidelity import errors
from benchmarks.stages import (
    FORMS,
    SIDE,
    SMALL,
    STAGES,
    Inputs,
    Memory,
    fill,
    least_seconds,
    operations,
    peak,
    published_operators,
    synchronize,
)
from golden import CASES, GOLDEN, open_golden

import dcrafter
from dcrafter.config import MODELS, ModelConfig
from dcrafter.events import Done
from dcrafter.generators import drain
from dcrafter.metrics.pixels import psnr
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.pipeline import Pipeline
from dcrafter.runtime import estimate
from dcrafter.settings import MEMORY_PLANS, Options, resolve
from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint

TINY = Path(dcrafter.__file__).parent / "weights" / "tiny.safetensors"
IMAGE = np.random.default_rng(0).integers(0, 256, (320, 512, 3), dtype=np.uint8)
TYPES = (torch.float32, torch.float16, torch.bfloat16)
RUNS = 5  # of an evaluation in each of its forms, in turns

Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    device: torch.device
    small: bool = False

    def models(self) -> dict[str, ModelConfig]:
        """By the name of the published size; at 256 the 512 model, whose UNet is the same but for a scale."""
        if self.small:
            return {"32": SMALL}
        return {"256": replace(MODELS["512"], width=256, height=256), "512": MODELS["512"], "1024": MODELS["1024"]}

    def open_random(self, config: ModelConfig) -> Pipeline:
        """A pipeline whose weights are random and, as those of a file, in the host's memory."""
        model = DynamiCrafter.on_meta(config)
        fill(model, self.device, torch.float16)
        checkpoint = Checkpoint(Path("random"), config, {k: v.cpu() for k, v in model.state_dict().items()})
        vars(checkpoint)["fingerprint"] = "random"  # of a file that is not there
        return Pipeline(checkpoint, self.device, torch.float16)


def machine(bench: Bench) -> Iterator[Row]:
    """The card, and its own peaks."""
    device, is_cuda = bench.device, bench.device.type == "cuda"
    if is_cuda:
        card = torch.cuda.get_device_properties(device)
        yield {"what": card.name, "result": f"{card.total_memory / 2**30:.0f} GiB, compute {card.major}.{card.minor}"}
    yield {"what": "PyTorch", "result": f"{torch.__version__}, CUDA {torch.version.cuda}"}
    for dtype in TYPES:
        yield {"what": f"products in {short(dtype)}", "result": f"{peak(device, dtype) / 1e12:.2f} TFLOP/s"}
    host = torch.empty(2**20 if bench.small else 2**30, dtype=torch.uint8)
    sources = {"device": host.to(device), "host": host, "pinned host": host.pin_memory() if is_cuda else host}
    for name, source in sources.items():
        target = torch.empty_like(sources["device"])
        seconds = least_seconds(lambda: target.copy_(source, non_blocking=True), device, 5)  # noqa: B023
        yield {"what": f"copy from the {name}", "result": f"{len(host) / seconds / 1e9:.1f} GB/s"}


def golden(bench: Bench) -> Iterator[Row]:
    """‖computed − recorded‖ / ‖recorded‖ of the published code's tensors; then whether a step waits for the device.

    float32 is also computed as PyTorch does by default, with convolutions in TF32.
    """
    variants = [(dtype, False) for dtype in TYPES] + [(torch.float32, True)]
    for (family, case), (dtype, tf32) in [(case, variant) for case in CASES for variant in variants]:
        torch.backends.cudnn.allow_tf32 = tf32
        found = errors(family, case, dtype, str(bench.device))
        name = "float32, TF32" if tf32 else short(dtype)
        yield {"case": f"{family} {case}", "type": name, **{group: f"{error:.1e}" for group, error in found.items()}}
        if bench.small:
            break
    yield {"case": "waiting for the device in a step", "type": "float16", "one evaluation": waiting(bench)}


def waiting(bench: Bench) -> str:
    """Samples with PyTorch's check for synchronization switched on."""
    pipe = open_golden(GOLDEN / "dc512", dtype=torch.float16, device=str(bench.device))
    settings = resolve(pipe.config, "animate", "", 0, {"steps": 3, "width": 64, "height": 64})
    (prepared,) = drain(pipe.prepare([([IMAGE], settings)]))
    drain(pipe.sample(prepared.conditions, settings, prepared.noise))  # cuDNN and the allocators are warm
    if bench.device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        drain(pipe.sample(prepared.conditions, settings, prepared.noise))
    except RuntimeError as error:
        return " ".join(str(error).split())[:80]
    finally:
        if bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return "never"


def evaluations(bench: Bench) -> Iterator[Row]:
    """Seconds of one evaluation of the full-size UNet, forms in turns.

    `published` has the operators of the published code, `graph` is `fast` as a CUDA graph.
    """
    for size, config in bench.models().items():
        for branches in (1, 2):
            yield from compared(bench, config, size, branches)


def compared(bench: Bench, config: ModelConfig, size: str, branches: int) -> Iterator[Row]:
    """The forms of one evaluation; their weights go with the last row."""
    forms = [("published", torch.float16), ("plain", torch.float16), ("fast", torch.float16), ("fast", torch.bfloat16)]
    given = Inputs.make(config, config.width, config.height, bench.device, branches)
    runs = {(form, short(dtype)): evaluation(bench, config, given, form, dtype) for form, dtype in forms}
    if bench.device.type == "cuda":
        runs["graph", "float16"] = captured(runs["fast", "float16"])
    yield from timed(bench, config, size, branches, runs)


def compiled(bench: Bench) -> Iterator[Row]:
    """The same with --compile: the first evaluation translates, the others are timed."""
    for size, config in by_worth(bench.models()):
        given = Inputs.make(config, config.width, config.height, bench.device)
        run = evaluation(bench, config, given, "compiled", torch.float16)
        start = time.perf_counter()
        run()
        synchronize(bench.device)
        yield {"size": size, "form": "compiled", "seconds to compile": round(time.perf_counter() - start, 1)}
        runs = {("compiled", "float16"): run}
        if bench.device.type == "cuda":
            runs["compiled graph", "float16"] = captured(run)
        yield from timed(bench, config, size, 1, runs)


def by_worth(models: dict[str, ModelConfig]) -> list[tuple[str, ModelConfig]]:
    """Those for which there may not be the time, 512 first."""
    return sorted(models.items(), key=lambda item: item[0] != "512")


def evaluation(bench: Bench, config: ModelConfig, given: Inputs, form: str, dtype: torch.dtype) -> Callable[[], object]:
    """One evaluation, by a UNet of its own."""
    model = DynamiCrafter.on_meta(config)
    fill(model.unet, bench.device, dtype)
    FORMS["fast" if form == "compiled" else form](model.unet)
    if form == "compiled":
        compile_blocks(bench, model)

    @torch.inference_mode()
    def run() -> object:
        with published_operators(given) if form == "published" else nullcontext(given) as taken:
            return STAGES["evaluation"].run(model, taken)

    return run


def compile_blocks(bench: Bench, model: DynamiCrafter) -> None:
    model.unet.compile_blocks(**({"backend": "eager"} if bench.small else {}))


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """A call as a CUDA graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def timed(
    bench: Bench, config: ModelConfig, size: str, branches: int, runs: dict[tuple[str, str], Callable[[], object]]
) -> Iterator[Row]:
    seconds = dict.fromkeys(runs, float("inf"))
    memory = {}
    for form, run in runs.items():
        with Memory(bench.device) as used:
            run()  # warms up
        memory[form] = used.bytes
    for _ in range(1 if bench.small else RUNS):
        for form, run in runs.items():
            seconds[form] = min(seconds[form], least_seconds(run, bench.device, 1))
    count = operations(config, "evaluation", config.width, config.height, branches)
    for (form, name), least in seconds.items():
        speed = count / least
        yield {
            "size": size, "branches": branches, "form": form, "type": name, "s a branch": round(least / branches, 4),
            "TFLOP/s": round(speed / 1e12, 1), "of peak": f"{speed / peak(bench.device, getattr(torch, name)):.0%}",
            "GiB above weights": "its own" if "graph" in form else round(memory[form, name] / 2**30, 2),
        }  # fmt: skip


def clips(bench: Bench) -> Iterator[Row]:
    """A whole animation with the model's own settings, from weights in the host's memory to frames."""
    for size, config in bench.models().items():
        yield {"size": size, **clip(bench, bench.open_random(config), {"steps": 2} if bench.small else {})}


def compiled_clips(bench: Bench) -> Iterator[Row]:
    """The same with --compile, the second of two, which finds the translation."""
    for size, config in by_worth(bench.models()):
        pipe = bench.open_random(config)
        compile_blocks(bench, pipe.model)
        clip(bench, pipe, {"steps": 1})
        yield {"size": size, **clip(bench, pipe, {"steps": 2} if bench.small else {})}


def memory(bench: Bench) -> Iterator[Row]:
    """Peak memory of one step and all frames under each plan, and what the estimate was."""
    for size, config in bench.models().items():
        pipe = bench.open_random(config)
        for plan in MEMORY_PLANS:
            yield {"size": size, "plan": plan, **clip(bench, pipe, {"steps": 1}, plan)}


def clip(bench: Bench, pipe: Pipeline, options: Options, plan: str = "normal") -> Row:
    """Generate one; seconds of the work before each kind of event, and the peak of the device's memory."""
    settings = resolve(pipe.config, "animate", "waves", 0, options)
    pipe.residency.choose_plan(settings, plan)
    expected = estimate.memory(pipe.model, settings, pipe.dtype, plan, pipe.device)
    pipe.residency.release()
    seconds: Counter[str] = Counter()
    before = started = time.perf_counter()
    with Memory(bench.device) as used:
        for event in pipe.generate([IMAGE], settings):
            seconds[type(event).__name__] += (now := time.perf_counter()) - before
            before = now
    kinds = {"Encoding": "encoding", "Loading": "loading", "Step": "sampling", "Decoding": "decoding"}
    return {
        "steps": settings.steps,
        "seconds": round(time.perf_counter() - started, 2),
        **{name: round(seconds[kind], 2) for kind, name in kinds.items()},
        "peak GiB": round(used.bytes / 2**30, 2),
        "estimated": round(expected / 2**30, 2),
    }


def frames(bench: Bench) -> Iterator[Row]:
    """The built-in model's clip on the device beside the CPU's, from the same noise: PSNR, 100 dB the same."""
    options: Options = {"steps": 1, "frames": 2} if bench.small else {}
    checkpoint = open_checkpoint(TINY)
    reference: torch.Tensor | None = None
    types = TYPES[:1] if bench.small else TYPES
    for device, dtype in [(torch.device("cpu"), torch.float32), *((bench.device, dtype) for dtype in types)]:
        pipe = Pipeline(checkpoint, device, dtype)
        start = time.perf_counter()
        *_, done = pipe.generate([IMAGE], resolve(pipe.config, "animate", "the star spins", 1, options))
        assert isinstance(done, Done)
        seconds = round(time.perf_counter() - start, 2)
        pixels = torch.from_numpy(done.video.frames).movedim(-1, 1) / 127.5 - 1
        reference = pixels if reference is None else reference
        row = {"device": str(device), "type": short(dtype), "seconds": seconds}
        yield row | {"against the CPU": f"{psnr(pixels, reference):.1f} dB"}


TASKS: dict[str, Callable[[Bench], Iterator[Row]]] = {  # the first is worth most
    "machine": machine,
    "golden": golden,
    "evaluations": evaluations,
    "clips": clips,
    "memory": memory,
    "frames": frames,
    "compiled": compiled,
    "compiled_clips": compiled_clips,
}
NEEDS = {"golden": GOLDEN / "dc512", "frames": TINY}
LEAST = 20  # seconds that a task is begun with

Process = multiprocessing.get_context("spawn").Process


class Report:
    """The results so far, in two files."""

    def __init__(self, folder: Path) -> None:
        self.json, self.markdown = folder / "gpu.json", folder / "gpu.md"

    def add(self, task: str, row: Row) -> None:
        rows = json.loads(self.json.read_text()) if self.json.exists() else []
        rows.append({"task": task, **row})
        part = self.json.with_suffix(".part")  # a killed process leaves the file whole
        part.write_text(json.dumps(rows, indent=1))
        part.replace(self.json)
        self.markdown.write_text(self.render(rows))
        print(task, *row.values(), sep="  ", flush=True)

    @staticmethod
    def render(rows: list[Row]) -> str:
        """A table of each task's rows."""
        lines = []
        for task in dict.fromkeys(row["task"] for row in rows):
            mine = [row for row in rows if row["task"] == task]
            columns = [*dict.fromkeys(key for row in mine for key in row if key != "task")]
            lines += [f"## {task}", "", (TASKS[task].__doc__ or "").split("\n\n")[0], ""]
            lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in mine] + [""]
        return "\n".join(lines)


def work(task: str, bench: Bench, report: Report) -> None:
    """One task, in a process of its own."""
    if task in NEEDS and not NEEDS[task].exists():
        report.add(task, {"left out": f"{NEEDS[task].name} is not here"})
        return
    if bench.small:
        SIDE["cpu"] = 128
    try:
        for row in TASKS[task](bench):
            report.add(task, row)
    except Exception as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        report.add(task, {"left out": f"the rest: {message[:200]}"})


def run(tasks: list[str], bench: Bench, report: Report, seconds: float) -> None:
    """The tasks one after the other, for at most so many seconds."""
    deadline = time.monotonic() + seconds
    for task in tasks:
        if deadline - time.monotonic() < LEAST:
            report.add(task, {"left out": "the time was up"})
            continue
        process = Process(target=work, args=(task, bench, report))
        process.start()
        process.join(deadline - time.monotonic())
        if process.is_alive():
            process.kill()
            process.join()
            report.add(task, {"left out": "the rest: the time was up"})
        elif process.exitcode:
            report.add(task, {"left out": f"the rest: the process ended with {process.exitcode}"})


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--seconds", type=float, default=510)
    parser.add_argument("--only", nargs="+", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out)
    for file in (report.json, report.markdown):
        file.unlink(missing_ok=True)
    run(options.only, Bench(torch.device(options.device), options.small), report, options.seconds)


if __name__ == "__main__":
    main()
