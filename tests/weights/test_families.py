"""The registry of model families against the configurations and the model itself."""

from __future__ import annotations

import pytest

from dcrafter.config import MODELS
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.weights.families import FAMILIES, PUBLISHED, VARIANTS, able, advised, closest, recognize


def test_every_model_has_a_family_of_its_components() -> None:
    assert set(FAMILIES) == set(MODELS)
    for name, config in MODELS.items():
        assert (FAMILIES[name].files[""].repository if name in PUBLISHED else None) == config.repository
    model = DynamiCrafter.on_meta(MODELS["tiny"])
    assert set(FAMILIES["tiny"].components) == {name for name, _ in model.named_children()}


def test_variants_are_smaller() -> None:
    assert set(VARIANTS) == {("512", "fp16"), ("1024", "fp16"), ("512-interp", "fp16"), ("toon", "fp16")}
    assert all(file.size < PUBLISHED[name].size for (name, _), file in VARIANTS.items())


def test_which_models_do_a_command() -> None:
    assert able("animate") == ["1024", "512", "cil-1024", "cil-512", "256", "tiny"]
    assert able("loop") == able("interpolate") == ["512-interp", "toon", "tiny"]
    assert (advised("animate"), advised("interpolate")) == ("512", "512-interp")


@pytest.mark.parametrize(
    ("key", "base", "models"),
    [
        ("input_blocks.1.1.transformer_blocks.0.attn2.alpha", None, ["256"]),
        ("framestride_embed.0.weight", 0.3, ["256"]),
        ("fps_embedding.0.weight", None, ["512", "1024", "512-interp"]),
        ("fps_embedding.0.weight", 0.69, ["512", "512-interp"]),
        ("fps_embedding.0.weight", 0.3, ["1024"]),
        ("fps_embedding.0.weight", 0.5, []),
    ],
)
def test_keys_tell_the_family(key: str, base: float | None, models: list[str]) -> None:
    assert recognize([f"model.diffusion_model.{key}"], base, 0.1) == models
    assert recognize([key], base, 0.1) == []


def test_toon_crafter_is_told_by_its_decoder() -> None:
    keys = ["model.diffusion_model.fps_embedding.0.weight", "first_stage_model.decoder.attn_refinement.0.conv.bias"]
    assert recognize(keys, 0.7, 0.1) == ["toon"]
    assert closest("v", 0.7, "loop", has_references=True) == "toon"


def test_the_closest_family_of_a_schedule() -> None:
    assert closest("eps", 1.0, "loop") == "256"
    assert closest("v", 0.7, "animate") == closest("v", 1.0, "animate") == "512"
    assert closest("v", 0.3, "animate") == "1024"
    assert closest("v", 0.3, "interpolate") == "512-interp"
