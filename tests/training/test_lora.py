"""Training a LoRA: what changes, what is written, and that generating with it computes what training did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training.micro import TRAIN, awake, recipe, run

from dcrafter.errors import InputError
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.training import denoiser
from dcrafter.training.denoiser import DenoiserStage
from dcrafter.training.recipe import LoRA, Recipe
from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint
from dcrafter.weights.lora import with_loras


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVALUATION_CLIPS", "SHOWN", "STEPS"):
        monkeypatch.setattr(denoiser, name, 1)


def of_lora(**options: object) -> Recipe:
    return replace(recipe("detail"), lora=LoRA(rank=2, alpha=4, **options))  # type: ignore[arg-type]


def evaluated(model: DynamiCrafter) -> Tensor:
    """One evaluation of a model's UNet."""
    generator = torch.Generator().manual_seed(0)
    x, text, image = (
        torch.randn(shape, generator=generator) for shape in ((1, 8, 16, 8, 8), (1, 32, 32), (1, 256, 32))
    )
    with torch.no_grad():
        return model.unet(x, torch.tensor([500]), text, image, torch.tensor([8]))


@pytest.mark.slow
def test_what_is_written_is_what_was_trained(videos: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    first = awake(DenoiserStage(recipe("detail"), videos))
    save_checkpoint(first.model.state_dict(), first.config, base)
    stage = DenoiserStage(of_lora(parts=("spatial", "temporal")), videos)
    stage.load_weights([base])
    assert torch.equal(evaluated(stage.model), evaluated(first.model))  # it changes nothing yet
    before = {name: value.clone() for name, value in stage.model.named_parameters()}
    trainer = run(stage, tmp_path / "out", replace(TRAIN, learning_rate=1e-2))
    changed = {name for name, value in stage.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".lora_" in name} == trainer.average.values.keys()
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["lora.safetensors"]
    with trainer.average.applied():
        trained = evaluated(stage.model)
    opened = with_loras(open_checkpoint(base), [str(tmp_path / "out" / "lora.safetensors")])
    model = DynamiCrafter.on_meta(opened.config)
    for _ in opened.load(model, "unet", device=torch.device("cpu"), dtype=torch.float32):
        pass
    torch.testing.assert_close(evaluated(model), trained, rtol=1e-3, atol=1e-3)
    assert (trained - evaluated(first.model)).abs().max() > 1e-2


def test_its_parts_are_those_of_the_recipe(videos: Path) -> None:
    for part in ("spatial", "temporal", "image attention"):
        names = DenoiserStage(of_lora(parts=(part,)), videos).trained()
        layers = {name.split(".lora_")[0].split(".")[-1] for name in names}
        assert all(("temporal" in name or "init_attn" in name) == (part == "temporal") for name in names)
        assert (layers == {"to_k_ip", "to_v_ip"}) == (part == "image attention")


@pytest.mark.slow
def test_a_kill_and_a_resume_give_the_factors_of_no_kill(videos: Path, tmp_path: Path) -> None:
    whole = run(DenoiserStage(of_lora(), videos), tmp_path / "whole")
    half = replace(TRAIN, steps=2)
    run(DenoiserStage(of_lora(), videos), tmp_path / "parts", half)
    resumed = run(DenoiserStage(of_lora(), videos), tmp_path / "parts")
    for name, value in whole.average.values.items():
        assert torch.equal(value, resumed.average.values[name]), name


def test_a_plan_takes_no_memory_for_it(tmp_path: Path) -> None:
    stage = DenoiserStage(of_lora(), tmp_path / "no videos", plan_only=True)
    assert all(value.is_meta for value in stage.model.parameters())
    assert stage.activations(1, torch.float32) > 0
    assert stage.trained_parts() == ["LoRA of rank 2 in the unet's spatial layers"]


def test_without_peft_it_says_what_is_missing(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match="needs peft"):
        DenoiserStage(of_lora(), videos)
