"""Puts the built-in model together: a denoiser's run, a decoder's, and the LoRA for six steps.

    python training-runs/merge.py WEIGHTS LORA[:SCALE] OUT [--decoder DECODER]

A scale of -1 takes a LoRA out again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file

from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint
from dcrafter.weights.lora import with_loras


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("lora")
    parser.add_argument("out", type=Path)
    parser.add_argument("--decoder", type=Path)
    given = parser.parse_args()
    opened = with_loras(open_checkpoint(given.weights), [given.lora])
    (lora,) = opened.loras
    tensors = {name: lora.merged(name, value).to(value.dtype) for name, value in opened.tensors.items()}
    decoder = load_file(given.decoder) if given.decoder else {}
    tensors |= {name: value.to(tensors[name].dtype) for name, value in decoder.items()}
    save_checkpoint(tensors, opened.config, given.out)


if __name__ == "__main__":
    main()
