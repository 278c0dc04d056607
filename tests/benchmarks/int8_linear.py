"""What int8 would gain a UNet's linear layers on a CPU without bfloat16, against float32.

    export ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=1
    ONEDNN_MAX_CPU_ISA=AVX2 python tests/benchmarks/int8_linear.py
    ONEDNN_MAX_CPU_ISA=AVX2_VNNI python tests/benchmarks/int8_linear.py

Speed in GFLOP/s of the process's CPU time: float32, int8 weights with activations quantized on every call (oneDNN), the
bare product of int8 matrices; and the error of the second, ‖int8 − float32‖ / ‖float32‖, on normal inputs.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

LAYERS = [(4096, 320, 2560), (4096, 1280, 1280), (4096, 1280, 10240)]  # rows, channels in and out
RUNS = 4


def speed(operations: int, run: Callable[[], object]) -> float:
    """The best of some runs, in GFLOP/s."""
    run()
    least = float("inf")
    for _ in range(RUNS):
        started = time.process_time()
        run()
        least = min(least, time.process_time() - started)
    return operations / least / 1e9


@torch.inference_mode()
def main() -> None:
    warnings.simplefilter("ignore")  # PyTorch's own quantization moves to torchao
    torch.backends.quantized.engine = "onednn"  # fbgemm minds no limit on the instructions
    print(f"{torch.backends.cpu.get_cpu_capability()}\nrows  in  out    float32  dynamic  product  error")
    for rows, channels, out in LAYERS:
        x, layer = torch.randn(rows, channels), nn.Linear(channels, out)
        dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
        a, b = (torch.randint(-127, 127, shape, dtype=torch.int8) for shape in ((rows, channels), (channels, out)))
        runs = (lambda: layer(x), lambda: dynamic(x), lambda: torch._int_mm(a, b))  # noqa: B023
        speeds = "  ".join(f"{speed(2 * rows * channels * out, run):7.0f}" for run in runs)
        print(f"{rows} {channels:4} {out:5}  {speeds}  {(dynamic(x) - layer(x)).norm() / layer(x).norm():.1%}")


if __name__ == "__main__":
    main()
