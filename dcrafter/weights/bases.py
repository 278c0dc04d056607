"""What the paper's training begins from (section 4.1), as published, under our names.

- VideoCrafter's text-to-video model: the UNet without the image's context and latent, the autoencoder, the text tower.
- Stable Diffusion 2.1: the same without temporal layers, for stage (i).
- OpenCLIP's ViT-H/14, both towers: the image tower is in neither of them.
- DynamiCrafter's own checkpoints, and those of earlier runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dcrafter.weights.cache import HEADER
from dcrafter.weights.checkpoint import open_checkpoint, read_tensors, rename

UNET = "model.diffusion_model."
CONV_IN, CONV_OUT = f"{UNET}input_blocks.0.0.weight", f"{UNET}out.2.weight"
# A UNet without temporal layers numbers what comes behind them one lower.
_SPATIAL = [
    (re.compile(rf"^({re.escape(UNET)}middle_block\.)2\."), r"\g<1>3."),
    (re.compile(rf"^({re.escape(UNET)}output_blocks\.\d+\.)2\.conv\."), r"\g<1>3.conv."),
]


def open_base(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint to start from, under our names. Not all of a model need be there.

    Raises WeightsError where the file cannot be read, or holds nothing that is known.
    """
    raw, header = read_tensors(path)
    if HEADER in header or not is_base(raw):
        return open_checkpoint(path).tensors
    return to_base(path, raw)


def is_base(raw: Mapping[str, Tensor]) -> bool:
    """True for published tensors of VideoCrafter, Stable Diffusion or OpenCLIP, as their keys and shapes say."""
    if CONV_IN in raw and CONV_OUT in raw:
        return raw[CONV_IN].shape[1] == raw[CONV_OUT].shape[0]  # no image latent beside the noisy one
    return "visual.conv1.weight" in raw and "token_embedding.weight" in raw


def to_base(path: Path, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors of one of the bases under our names; the first convolution widened by zeros."""
    if CONV_IN not in raw:
        return rename(path, {_tower(key): value for key, value in raw.items()})
    if f"{UNET}middle_block.3.in_layers.0.weight" not in raw:
        for pattern, target in _SPATIAL:
            raw = {pattern.sub(target, key): value for key, value in raw.items()}
    tensors = rename(path, raw)
    noisy = tensors["unet.conv_in.weight"]
    tensors["unet.conv_in.weight"] = torch.cat([noisy, torch.zeros_like(noisy)], dim=1)
    return tensors


def _tower(key: str) -> str:
    """A key of OpenCLIP as DynamiCrafter's checkpoints call it."""
    return f"embedder.model.{key}" if key.startswith("visual.") else f"cond_stage_model.model.{key}"
