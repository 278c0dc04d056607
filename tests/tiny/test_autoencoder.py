from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dcrafter.errors import InputError
from dcrafter.tiny import autoencoder
from dcrafter.tiny.autoencoder import AutoencoderStage, edges
from dcrafter.tiny.recipe import AutoencoderLoss, TinyRecipe
from dcrafter.training.recipe import TrainerConfig
from dcrafter.training.trainer import Trainer

MICRO = {"channels": 32, "decoder_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "decoder_res_blocks": 1}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> TinyRecipe:
    monkeypatch.setattr(autoencoder, "EVALUATION_STILLS", 3)
    config = TrainerConfig(
        steps=30, batch=4, learning_rate=3e-3, warmup=5, precision="no", log_every=10, evaluate_every=30
    )
    return TinyRecipe(stage="autoencoder", model="tiny", data="", train=config, config={"autoencoder": MICRO})


@pytest.mark.slow
def test_it_learns_four_pictures(data: Path, tmp_path: Path, recipe: TinyRecipe) -> None:
    stage = AutoencoderStage(recipe, data)
    whole = stage.dataset

    class Four(Dataset[Tensor]):
        def __getitem__(self, index: int) -> Tensor:
            return whole[index % 4]

    batch = torch.stack([whole[i] for i in range(4)])
    before = stage(batch, torch.Generator().manual_seed(0))["loss"].item()
    stage.dataset = Four()
    Trainer(stage, recipe.train, tmp_path, seed=0, say=lambda _: None).run()
    assert stage(batch, torch.Generator().manual_seed(0))["loss"].item() < 0.7 * before
    with torch.no_grad():
        metrics = stage.evaluate()
        assert stage.preview().shape == (4 * 128, 3 * 128, 3)
    assert metrics.keys() == {"psnr_emoji", "latent_std_emoji", "psnr_photographs", "latent_std_photographs"}


def test_the_posterior_starts_narrow(data: Path, recipe: TinyRecipe) -> None:
    stage = AutoencoderStage(recipe, data)
    _, logvar = stage.autoencoder.posterior(torch.rand(1, 3, 128, 128))
    assert logvar.mean().item() == pytest.approx(-6, abs=0.5)


def test_edges_ignore_what_is_even_and_see_a_step() -> None:
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert edges(flat).item() == pytest.approx(0.0, abs=1e-6)
    step = flat.clone()
    step[..., 8:] += 1
    assert edges(step).item() == pytest.approx(1 / 15 + 1 / 7 + 1 / 3, abs=1e-5)


def test_a_decoder_alone_keeps_the_latents(data: Path, recipe: TinyRecipe) -> None:
    stage = AutoencoderStage(replace(recipe, loss=AutoencoderLoss(encoder=False)), data)
    parts = {name.split(".")[1] for name in stage.trained()}
    assert parts == {"decoder", "post_quant_conv"}
    stage(torch.stack([stage.dataset[0]]), torch.Generator().manual_seed(0))["loss"].backward()
    with pytest.raises(InputError, match="autoencoder"):
        stage.load_weights([])
