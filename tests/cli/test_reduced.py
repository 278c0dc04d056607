"""Copies of a checkpoint that hold less, or hold it under other names, end in the same latents as the whole one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli.running import DATA, Run
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

DC512 = DATA / "golden" / "dc512"
TEXT, IMAGE = "cond_stage_model.model.", "embedder.model.visual."
UNET, VAE, PROJECTOR = "model.diffusion_model.", "first_stage_model.", "image_proj_model."
Tensors = dict[str, torch.Tensor]


def renamed(tensors: Tensors, *prefixes: tuple[str, str]) -> Tensors:
    """The tensors with one of the prefixes, under another."""
    return {
        after + key.removeprefix(before): value
        for before, after in prefixes
        for key, value in tensors.items()
        if key.startswith(before)
    }


def without_towers(tensors: Tensors) -> Tensors:
    return {key: value for key, value in tensors.items() if not key.startswith(("cond_stage_model.", "embedder."))}


LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {  # tests/weights/test_layouts.py has more of them
    "published": dict,
    "other names": lambda it: renamed(it, (UNET, ""), (VAE, "vae."), (PROJECTOR, "resampler.")),
}


@pytest.fixture(scope="module")
def whole() -> Tensors:
    return load_file(DC512 / "model.safetensors")


@pytest.fixture
def latents(dcrafter: Run, tmp_path: Path) -> Callable[..., torch.Tensor]:
    """The latents of a short animation of the recorded case, by a checkpoint file."""

    def made(*options: str | Path) -> torch.Tensor:
        told = json.loads((DC512 / "animate.json").read_text())
        outcome = dcrafter(
            "animate", DC512 / told["images"][0], "-p", told["prompt"], "--model-config", DC512 / "config.json",
            "--width", told["width"], "--height", told["height"], "--steps", "1", "--seed", "3", "--overwrite",
            "--device", "cpu", "--dtype", "float32", "--save-latents", tmp_path / "latents.safetensors",
            "-o", "out.apng", "--frames", "2", *options,
        )  # fmt: skip
        assert outcome.status == 0, outcome.stderr
        return load_file(tmp_path / "latents.safetensors")["final_latents"]

    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_without_towers_with_those_of_another_file(
    latents: Callable[..., torch.Tensor], tmp_path: Path, whole: Tensors, layout: str
) -> None:
    reduced = {key: value.half() for key, value in LAYOUTS[layout](without_towers(whole)).items()}
    save_file(reduced, tmp_path / "reduced.safetensors")
    openclip = renamed(whole, (TEXT, ""), (IMAGE, "visual."))
    save_file(openclip, tmp_path / "openclip.safetensors")
    expected = latents("--checkpoint", DC512 / "model.safetensors")
    for towers in (DC512 / "model.safetensors", tmp_path / "openclip.safetensors"):
        assert torch.equal(latents("--checkpoint", tmp_path / "reduced.safetensors", "--towers", towers), expected)


def test_a_copy_of_toon_crafter_with_towers_of_another_file(dcrafter: Run, toon: Path, tmp_path: Path) -> None:
    whole = load_file(toon / "model.safetensors")
    reduced = {key: value.half() for key, value in without_towers(whole).items()}
    assert len(reduced) < len(whole)
    save_file(reduced, tmp_path / "reduced.safetensors")

    def latents(*options: str | Path) -> torch.Tensor:
        outcome = dcrafter(
            "interpolate", *(DC512 / f"interpolate_input{i}.png" for i in range(2)), "-p", "a girl turns her head",
            "--model-config", toon / "config.json", "--steps", "1", "--seed", "3", "--device", "cpu",
            "--dtype", "float32", "--save-latents", tmp_path / "latents.safetensors", "--overwrite",
            "-o", "out.apng", "--frames", "3", *options,
        )  # fmt: skip
        assert outcome.status == 0, outcome.stderr
        return load_file(tmp_path / "latents.safetensors")["final_latents"]

    made = latents("--checkpoint", tmp_path / "reduced.safetensors", "--towers", DC512 / "model.safetensors")
    assert torch.equal(made, latents("--checkpoint", toon / "model.safetensors"))


def test_towers_of_a_model_that_is_here(
    dcrafter: Run,
    latents: Callable[..., torch.Tensor],
    tmp_path: Path,
    whole: Tensors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DCRAFTER_CACHE_DIR", str(tmp_path / "cache"))
    save_file(without_towers(whole), tmp_path / "reduced.safetensors")
    given = ("--import", tmp_path / "reduced.safetensors", "--model-config", DC512 / "config.json", "--name", "reduced")
    alone = dcrafter("download", *given)
    assert alone.status == 4
    assert "has no CLIP towers, and no file on this machine has any that fit it" in alone.stderr
    importing = ("download", "--import", DC512 / "model.safetensors", "--model-config", DC512 / "config.json")
    assert dcrafter(*importing, "--name", "whole").status == 0
    assert torch.equal(
        latents("--checkpoint", tmp_path / "reduced.safetensors"), latents("--checkpoint", DC512 / "model.safetensors")
    )
    assert dcrafter("download", *given).status == 0  # which takes them, too
    *_, first, second, towers = dcrafter("download", "--list").lines
    assert [row.split()[0] for row in (first, second, towers)] == ["reduced", "whole", "towers"]
