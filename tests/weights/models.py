"""Small stand-ins for published checkpoints: their keys, and few values of each tensor."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from safetensors.torch import load_file

CKPT = "Doubiiu/DynamiCrafter_512/model.ckpt"


def small_512(golden: Path) -> dict[str, torch.Tensor]:
    """The keys of a 512, with leftovers that nothing reads, in float32."""
    tensors = load_file(golden / "dc512" / "model.safetensors")
    small = {key: value.float().reshape(-1)[:65].clone() for key, value in tensors.items()}
    return small | {"embedder.model.positional_embedding": torch.ones(5), "scale_arr": tensors["scale_arr"].float()}


def as_ckpt(tensors: dict[str, torch.Tensor]) -> bytes:
    torch.save({"state_dict": tensors}, file := io.BytesIO())
    return file.getvalue()
