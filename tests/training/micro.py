"""A model so small that a test can train it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from training.line import OnCPU, join

import dcrafter.training.denoiser
import dcrafter.training.trainer
from dcrafter.training.denoiser import DenoiserStage
from dcrafter.training.recipe import Conditioning, Recipe, TrainerConfig
from dcrafter.training.sharding import whole
from dcrafter.training.stage import TrainingStage
from dcrafter.training.trainer import Trainer

MICRO: dict[str, Any] = {
    "height": 32,
    "width": 32,
    "unet": {"model_channels": 32, "init_attn_heads": 1, "context_dim": 32, "in_channels": 8, "out_channels": 4},
    "autoencoder": {
        "latent_channels": 4, "channels": 32, "decoder_channels": 32, "channel_mult": [1], "num_res_blocks": 1,
        "decoder_res_blocks": 1,
    },
    "clip": {
        "embed_dim": 32,
        "vision": {"image_size": 32, "layers": 1, "width": 32},
        "text": {"width": 32, "heads": 1, "layers": 2},
    },
    "projector": {"embedding_dim": 32, "dim": 32, "depth": 1, "heads": 1, "output_dim": 32},
}  # fmt: skip
TRAIN = TrainerConfig(
    steps=4, batch=2, learning_rate=1e-2, warmup=1, precision="no", log_every=2, evaluate_every=4, ema=0.9
)


def recipe(stage: str, trainer: TrainerConfig = TRAIN, **conditioning: Any) -> Recipe:
    return Recipe(stage, "tiny", "", trainer, config=MICRO, conditioning=Conditioning(**conditioning))


def run(stage: TrainingStage, out: Path, train: TrainerConfig = TRAIN) -> Trainer:
    out.mkdir(exist_ok=True)
    trainer = Trainer(stage, train, out, seed=0, say=lambda _: None)
    trainer.run()
    return trainer


def one_of_two(rank: int, port: int, videos: Path, out: Path, shard: bool) -> None:
    """A process of two that train a model together, and each have a share of it if `shard`."""
    join(rank, port)
    if shard:
        dcrafter.training.trainer.Accelerator = OnCPU
    for name in ("EVALUATION_CLIPS", "SHOWN", "STEPS"):
        setattr(dcrafter.training.denoiser, name, 1)
    train = replace(TRAIN, steps=2, shard=shard, evaluate_every=2)
    stage = awake(DenoiserStage(recipe("detail", train, checkpointing=True), videos))
    trainer = run(stage, out, train)
    torch.save(whole(trainer.average.values), out / f"{rank}.pt")


def awake(stage: DenoiserStage) -> DenoiserStage:
    """With no weight at zero, so that everything that is trained gets a gradient."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in stage.model.parameters():
            if parameter.ndim != 1:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return stage


def recipe_file(path: Path, stage: str, data: str = "", **tables: dict[str, Any]) -> Path:
    """Writes a recipe of the micro model as TOML; `tables` change its fields."""
    train = {"steps": 2, "batch": 2, "learning_rate": 1e-2, "precision": "no", **tables.pop("train", {})}
    text = f'stage = "{stage}"\nmodel = "tiny"\ndata = "{data}"\n'
    path.write_text(text + _toml({**tables, "train": train, "config": MICRO}))
    return path


def _toml(tables: dict[str, Any], prefix: str = "") -> str:
    text = ""
    for name, table in tables.items():
        text += f"[{prefix}{name}]\n"
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items() if not isinstance(value, dict))
        text += _toml({key: value for key, value in table.items() if isinstance(value, dict)}, f"{prefix}{name}.")
    return text
