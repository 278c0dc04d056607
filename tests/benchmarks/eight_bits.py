"""What weights of eight bits would gain and cost on a CPU.

    export OMP_NUM_THREADS=1
    python tests/benchmarks/eight_bits.py storage
    export ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2
    ONEDNN_MAX_CPU_ISA=AVX2 python tests/benchmarks/eight_bits.py products
    ONEDNN_MAX_CPU_ISA=AVX2_VNNI python tests/benchmarks/eight_bits.py products

`storage`: weights kept in eight bits, with a scale for each output channel, and cast to bfloat16 when they are used.
CPU seconds of the casts of one evaluation of a full-size UNet; and videos of the built-in model whose UNet was so
rounded, against those of its own weights, PSNR.

`products`: int8 linear layers on a CPU without bfloat16. Speed in GFLOP/s of the process's CPU time: float32, int8
weights with activations quantized on every call (oneDNN), the bare product of int8 matrices; and the error of the
second, ‖int8 − float32‖ / ‖float32‖, on normal inputs.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from stages import CPU, least_seconds
from torch import Tensor, nn

from dcrafter.config import MODELS
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.pipeline import Pipeline
from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint
from dcrafter.weights.hub import EMBEDDED

LAYERS = [(4096, 320, 2560), (4096, 1280, 1280), (4096, 1280, 10240)]  # rows, channels in and out
RUNS = 5
LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}  # values of the types
PROMPTS = ("zoom in", "pan left", "rotates clockwise", "it moves")


def products() -> None:
    warnings.simplefilter("ignore")  # PyTorch's own quantization moves to torchao
    torch.backends.quantized.engine = "onednn"  # fbgemm minds no limit on the instructions
    print(f"{torch.backends.cpu.get_cpu_capability()}\nrows  in  out    float32  dynamic  product  error")
    for rows, channels, out in LAYERS:
        x, layer = torch.randn(rows, channels), nn.Linear(channels, out)
        dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
        a, b = (torch.randint(-127, 127, shape, dtype=torch.int8) for shape in ((rows, channels), (channels, out)))
        runs = (lambda: layer(x), lambda: dynamic(x), lambda: torch._int_mm(a, b))  # noqa: B023
        speeds = "  ".join(f"{2 * rows * channels * out / least_seconds(run, CPU, RUNS) / 1e9:7.0f}" for run in runs)
        print(f"{rows} {channels:4} {out:5}  {speeds}  {(dynamic(x) - layer(x)).norm() / layer(x).norm():.1%}")


def storage() -> None:
    count = sum(p.numel() for p in DynamiCrafter.on_meta(MODELS["512"]).unet.parameters() if p.ndim > 1)
    weight, scale = torch.randn(1280, 1280 * 9), torch.rand(1280, 1).bfloat16()
    own = videos(None)
    print("type           casts of an evaluation  frames, PSNR")
    for dtype in LARGEST:
        kept = stored(weight, dtype)
        seconds = least_seconds(lambda: kept.bfloat16() * scale, CPU, RUNS) * count / weight.numel()  # noqa: B023
        decibels = [10 * np.log10(255**2 / error) for error in ((videos(dtype) - own) ** 2).mean(axis=(1, 2, 3, 4))]
        print(f"{str(dtype).removeprefix('torch.'):14} {seconds:16.1f} CPU s {np.mean(decibels):10.1f} dB")


def videos(dtype: torch.dtype | None) -> np.ndarray:
    """Of the built-in model, its UNet's matrices rounded to a type, or as they are: (n, T, H, W, 3)."""
    gray = np.random.default_rng(0).normal(size=(8, 8, 3)).cumsum(0).cumsum(1)
    image = Image.fromarray(np.uint8(255 * (gray - gray.min()) / np.ptp(gray))).resize((256, 256))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tiny.safetensors")
        opened = open_checkpoint(EMBEDDED)
        tensors = {name: rounded(name, tensor, dtype) for name, tensor in opened.tensors.items()}
        save_checkpoint(tensors, opened.config, file)
        pipe = Pipeline.from_pretrained("tiny", device="cpu", dtype="bfloat16", checkpoint=file)
        return np.stack([pipe.animate(image, prompt).frames for prompt in PROMPTS]).astype(np.float64)


def rounded(name: str, weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or weight.ndim < 2 or not name.startswith("unet."):
        return weight
    rows = weight.flatten(1).float()
    scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / LARGEST[dtype]
    return (stored(rows / scale, dtype).float() * scale).view_as(weight).to(weight.dtype)


def stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if dtype.is_floating_point else x.round().to(dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["storage", "products"])
    with torch.inference_mode():
        {"storage": storage, "products": products}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
