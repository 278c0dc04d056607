from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.conftest import videos  # a folder of them

from dcrafter.config import (
    MODELS,
    AutoencoderConfig,
    CLIPConfig,
    QueryTransformerConfig,
    TextConfig,
    UNetConfig,
    VisionConfig,
)
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.weights.checkpoint import save_checkpoint

__all__ = ["videos"]

FRAMES = 4


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the tiny one's kind, smaller still, of random weights."""
    config = replace(
        MODELS["tiny"],
        output_scale=1,
        height=32,
        width=32,
        frames=FRAMES,
        unet=UNetConfig(
            model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(1, 2), head_channels=16,
            init_attn_heads=2, context_dim=32, learnable_image_scale=True,
        ),
        autoencoder=AutoencoderConfig(
            channels=32, channel_mult=(1,), num_res_blocks=1, decoder_channels=32, decoder_res_blocks=1, fold=4
        ),
        clip=CLIPConfig(
            embed_dim=32,
            vision=VisionConfig(image_size=32, layers=2, width=32, head_width=16, patch_size=16),
            text=TextConfig(width=32, heads=2, layers=2),
        ),
        projector=QueryTransformerConfig(
            embedding_dim=32, dim=32, depth=1, heads=2, head_channels=16, frames=FRAMES, output_dim=32
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    model = DynamiCrafter(config)
    for parameter in model.parameters():  # layers that begin as zero would make videos of nothing
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("model") / "micro.safetensors"
    save_checkpoint(model.state_dict(), config, path)
    return path
