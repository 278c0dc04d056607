"""What decoding 16 frames with ToonCrafter's autoencoder takes on the CPU, with random weights.

    python tests/benchmarks/toon_decoding.py [bfloat16|float32] [512x320]

Prints, after each step of both passes, the seconds so far, those of them that cores computed (summed over threads), and
the peak of memory above what the imports take, weights included. Many minutes on one core at 512×320.
"""

from __future__ import annotations

import sys
import time

import torch
from weights_cost import Peak

from dcrafter.config import MODELS
from dcrafter.models.dual_reference import DualReferenceAutoencoder


@torch.inference_mode()
def main() -> None:
    name, size = (sys.argv[1:] + ["bfloat16", "512x320"][len(sys.argv) - 1 :])[:2]
    dtype, (width, height) = getattr(torch, name), map(int, size.split("x"))
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 16, height // 8, width // 8)
    references = torch.rand(1, 2, 3, height, width) * 2 - 1
    with Peak() as peak:
        torch.set_default_dtype(dtype)
        autoencoder = DualReferenceAutoencoder(MODELS["toon"].autoencoder).eval()
        torch.set_default_dtype(torch.float32)
        count = sum(parameter.numel() for parameter in autoencoder.parameters())
        print(f"{count / 1e6:.0f} million parameters in {dtype}, {torch.get_num_threads()} threads", flush=True)
        started, computed = time.perf_counter(), time.process_time()
        for step in autoencoder.decode_clips(latents, range(16), references):
            seconds = f"{time.perf_counter() - started:.0f} s, {time.process_time() - computed:.0f} of them computing"
            print(f"step {step.done} of {step.total}: {seconds}, {peak.gb:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
