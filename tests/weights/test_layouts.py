"""Copies of published checkpoints under other names, and what tells their model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dcrafter.config import MODELS
from dcrafter.errors import WeightsError
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.sampling import schedule
from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint, open_towers
from dcrafter.weights.families import DESCENDANTS

Tensors = dict[str, torch.Tensor]
UNET, VAE, PROJECTOR = "model.diffusion_model.", "first_stage_model.", "image_proj_model."
TEXT, IMAGE = "cond_stage_model.model.", "embedder.model.visual."


def renamed(tensors: Tensors, **prefixes: str) -> Tensors:
    """With each component under another prefix. Tables stay."""
    published = {"unet": UNET, "vae": VAE, "projector": PROJECTOR, "text": TEXT, "image": IMAGE}
    swaps = {published[name]: prefix for name, prefix in prefixes.items()}
    found = {}
    for key, value in tensors.items():
        before = next((each for each in swaps if key.startswith(each)), "")
        found[swaps.get(before, "") + key.removeprefix(before)] = value
    return found


@pytest.mark.parametrize(
    "layout",
    [
        lambda it: {f"module.{key}": value for key, value in it.items()},
        lambda it: {f"module._orig_mod.{key}": value for key, value in it.items()},
        lambda it: {key.replace(UNET, f"{UNET}_orig_mod."): value for key, value in it.items()},
        lambda it: renamed(it, unet="diffusion_model."),
        lambda it: renamed(it, unet="", vae="vae.", text="clip.text.", image="clip_vision."),
        lambda it: renamed(it, unet="unet.", vae="", projector="resampler."),
        lambda it: renamed(it, text="text.", image="text.visual."),
    ],
)
def test_keys_tell_the_components(
    tmp_path: Path, published: Tensors, tree: Path, reference: Checkpoint, layout: Callable[[Tensors], Tensors]
) -> None:
    save_file(layout(published), tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path / "model.safetensors", model_config=tree)
    opened.check(DynamiCrafter.on_meta(opened.config))
    assert all(torch.equal(opened.tensors[key], reference.tensors[key]) for key in reference.tensors)


def test_openclips_own_file_is_two_towers(tmp_path: Path, published: Tensors, reference: Checkpoint) -> None:
    towers = {key: value for key, value in published.items() if key.startswith((TEXT, IMAGE))}
    save_file(renamed(towers, text="", image="visual."), tmp_path / "open_clip_model.safetensors")
    opened = open_towers(tmp_path / "open_clip_model.safetensors", reference.config)
    assert {key.partition(".")[0] for key in opened.tensors} == {"text_encoder", "image_encoder"}
    assert all(torch.equal(opened.tensors[key], reference.tensors[key]) for key in opened.tensors)
    completed = reference.with_towers(tmp_path / "open_clip_model.safetensors")
    completed.check(DynamiCrafter.on_meta(reference.config))
    assert completed.fingerprint != reference.fingerprint
    save_file(renamed(towers, text="", image="visual.") | {"token_embedding.weight.": torch.ones(1)}, tmp_path / "x")
    with pytest.raises(WeightsError, match="no DynamiCrafter model"):
        open_checkpoint(tmp_path / "x")


def test_two_layouts_in_one_file_are_refused(tmp_path: Path, published: Tensors, tree: Path) -> None:
    key = f"{UNET}out.2.bias"
    save_file(published | {key.replace(UNET, f"{UNET}_orig_mod."): published[key].clone()}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="two tensors for one"):
        open_checkpoint(tmp_path / "x.safetensors", model_config=tree)


def test_a_copy_without_more_than_towers(tmp_path: Path, published: Tensors, tree: Path, reference: Checkpoint) -> None:
    cut = {key: value for key, value in published.items() if key.startswith((UNET, PROJECTOR))}
    save_file(cut, tmp_path / "unet.safetensors")
    opened = open_checkpoint(tmp_path / "unet.safetensors", model_config=tree)
    with pytest.raises(WeightsError, match=r"has no text_encoder and no image_encoder and no autoencoder\."):
        opened.check(DynamiCrafter.on_meta(opened.config))


# --- which model ---


def few(published: Tensors, **tables: torch.Tensor) -> Tensors:
    """A UNet's keys, with few values, and tables."""
    return {key: value.reshape(-1)[:1].clone() for key, value in published.items() if key.startswith(UNET)} | tables


@pytest.mark.parametrize(
    ("file", "command", "taken"),
    [
        ("dynamicrafter_512_fp16_pruned", "animate", "512"),
        ("dynamicrafter_512_interp_fp16_pruned", "animate", "512-interp"),
        ("dynamicrafter-CIL-512-no-watermark-fixed-pruned-fp16", "animate", "cil-512"),
        ("dynamicrafter-CIL-1024-no-watermark-pruned-fp16", "animate", "cil-1024"),
        ("model", "loop", "512-interp"),
        ("model", "animate", None),
    ],
)
def test_names_decide_where_keys_do_not(
    tmp_path: Path, published: Tensors, file: str, command: str, taken: str | None
) -> None:
    path = tmp_path / f"{file}.safetensors"
    save_file(few(published), path)
    if taken:
        opened = open_checkpoint(path, command=command)  # type: ignore[arg-type]
        assert opened.config.name == taken
        assert f"taken as {taken} because" in opened.assumption
        return
    with pytest.raises(
        WeightsError, match=r"may be 512 or 1024: neither its keys nor its name tell\. Say which: -m 512"
    ):
        open_checkpoint(path, command=command)  # type: ignore[arg-type]
    assert open_checkpoint(path, model="1024").config.name == "1024"
    assert open_checkpoint(path, model="cil-1024").config.name == "cil-1024"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tables_of_another_schedule_are_told(
    golden: Path, tmp_path: Path, published: Tensors, dtype: torch.dtype
) -> None:
    tables = {key: value.to(dtype) for key, value in published.items() if "." not in key}
    save_file(few(published, **tables), tmp_path / "m.safetensors")
    assert open_checkpoint(tmp_path / "m.safetensors").oddity == ""
    older = torch.from_numpy(schedule.alphas_cumprod(MODELS["256"].schedule)).to(dtype)
    save_file(few(published, **tables | {"alphas_cumprod": older}), tmp_path / "m.safetensors")
    said = open_checkpoint(tmp_path / "m.safetensors").oddity
    assert re.search(r"its alphas_cumprod is 0\.\d+ at t = \d+, where [\d.e-]+ is computed and used", said)


def test_a_descendant_is_refused_where_its_path_or_digest_tells(tmp_path: Path, published: Tensors) -> None:
    tables = {"scale_arr": torch.linspace(1, 0.3, 400).repeat_interleave(1)}
    folder = tmp_path / "models--Drexubery--ViewCrafter_25"
    folder.mkdir()
    for path in (folder / "model.safetensors", tmp_path / DESCENDANTS[0].sha256[0]):
        save_file(few(published, **tables), path)
        with pytest.raises(WeightsError, match="is a ViewCrafter model, which takes 16 or 25 renderings"):
            open_checkpoint(path)
    assert open_checkpoint(folder / "model.safetensors", model="1024").config.name == "1024"
    with pytest.raises(WeightsError, match="is a ViewCrafter model"):  # by its digest there is no doubt
        open_checkpoint(tmp_path / DESCENDANTS[0].sha256[0], model="1024")


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        (f"{PROJECTOR}latents", (1, 25 * 16, 32), "It is made for 25 frames at once, not 16"),
        (f"{UNET}input_blocks.0.0.weight", (32, 12, 3, 3), "Its UNet takes 12 channels, not 8"),
    ],
)
def test_shapes_of_other_inputs_are_explained(
    tmp_path: Path, published: Tensors, reference: Checkpoint, key: str, shape: tuple[int, ...], said: str
) -> None:
    save_file(published | {key: torch.zeros(shape)}, tmp_path / "512.safetensors")
    opened = open_checkpoint(tmp_path / "512.safetensors")
    with pytest.raises(WeightsError, match=said):
        opened.check(DynamiCrafter.on_meta(reference.config))
