"""Runs a golden case through the product's own loader and pipeline: tests/data/golden/README.md has the tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from dcrafter.events import Step
from dcrafter.models.clip import clip_pixels
from dcrafter.models.dual_reference import DualReferenceAutoencoder
from dcrafter.models.tokenizer import tokenize
from dcrafter.pipeline import Pipeline
from dcrafter.sampling.schedule import timesteps
from dcrafter.settings import Options, resolve
from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint

GOLDEN = Path(__file__).parent / "data" / "golden"
TOON = 5e-6  # how far ToonCrafter's tensors may be from the recorded ones
CASES = [(path.parent.name, path.stem) for path in sorted(GOLDEN.glob("dc*/*.json")) if path.stem != "config"]
COMMANDS = {"animate": "animate", "interp": "interpolate", "loop": "loop"}


def open_golden(directory: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Pipeline:
    """The pipeline of a golden directory's weights."""
    return Pipeline(open_checkpoint_of(directory), torch.device(device), dtype)


@cache
def open_checkpoint_of(directory: Path) -> Checkpoint:
    """Once a process: unpickling is what tests/weights look at."""
    weights = next(path for path in sorted(directory.glob("model.*")))
    return open_checkpoint(weights, model_config=directory / "config.json")


def run_case(
    directory: str | Path, case: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Tensor]:
    """Compute every tensor of a case from its first and last frame and its recorded noises, or latents.

    Returns the computed tensors under the golden names, float32 or int64, on the CPU.
    """
    directory = Path(directory)
    told = json.loads((directory / f"{case}.json").read_text())
    recorded = load_file(directory / f"{case}.safetensors")
    pipe = open_golden(directory, dtype=dtype, device=device)
    if "mode" not in told:
        return decode_case(pipe, recorded)
    pipe.config = config = replace(pipe.config, frames=told["frames"])
    model = pipe.model
    size: Options = {"width": told["width"], "height": told["height"]}
    settings = replace(
        resolve(config, config.commands[0], told["prompt"], 0, size | {"motion": told["fs"]}),
        command=COMMANDS[told["mode"]],
        steps=told["steps"],
        eta=told["eta"],
        guidance=told["cfg_scale"],
        image_guidance=told["cfg_image"],
        guidance_rescale=told["guidance_rescale"],
        spacing=told["timestep_spacing"],
    )
    draws = iter([recorded["encode_noise"], recorded["x_T"], *recorded["step_noise"]])
    noise = lambda shape: next(draws).reshape(shape)  # noqa: E731
    first = recorded["first_frame"][None]
    keyframes = first if told["mode"] == "animate" else torch.stack([first[0], recorded["last_frame"]])

    out: dict[str, Tensor] = {
        "first_frame": first[0],
        "last_frame": recorded["last_frame"],
        "encode_noise": recorded["encode_noise"],
        "x_T": recorded["x_T"],
        "step_noise": recorded["step_noise"],
        "unet_t": recorded["unet_t"],
        "unet_fs": recorded["unet_fs"],
        "text_ids": tokenize([told["prompt"]]),
        "clip_pixels": clip_pixels(first.to(device), config.clip.vision.image_size),
        "timesteps": torch.tensor(timesteps(settings.spacing, settings.steps)),
    }
    with torch.inference_mode():
        run(pipe.residency.ensure_loaded("image_encoder"))
        out["clip_image_tokens"] = model.image_encoder(out["clip_pixels"])

        _, conditions = run(pipe.encode(keyframes, settings, noise))
        out["text_context"], out["uncond_text_context"] = conditions.text, conditions.uncond_text
        out["image_context"], out["uncond_image_context"] = conditions.image, conditions.uncond_image
        out["concat_latents"] = conditions.concat_latents

        run(pipe.residency.ensure_loaded("unet"))
        x_T, t, fs = (recorded[name].to(device) for name in ("x_T", "unet_t", "unet_fs"))
        for name, text, image in (
            ("unet_cond_out", conditions.text, conditions.image),
            ("unet_uncond_out", conditions.uncond_text, conditions.uncond_image),
        ):
            out[name] = model.denoise(x_T, t, text, image, conditions.concat_latents, fs)

        events, out["final_latents"] = run(pipe.sample(conditions, settings, noise))
        out["pred_x0_trace"] = torch.stack([event.x0 for event in events if isinstance(event, Step)])
        _, out["decoded"] = run(pipe.decode(out["final_latents"]))
    computed = {name: tensor.cpu() for name, tensor in out.items()}
    return {name: t.float() if t.is_floating_point() else t for name, t in computed.items()}


@torch.inference_mode()
def decode_case(pipe: Pipeline, recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compute every tensor of a case of ToonCrafter's decoder from its two images and latents."""
    run(pipe.residency.ensure_loaded("autoencoder"))
    autoencoder = pipe.model.autoencoder
    assert isinstance(autoencoder, DualReferenceAutoencoder)
    out = {name: recorded[name] for name in ("first_frame", "last_frame", "latents")}
    images = torch.stack([out["first_frame"], out["last_frame"]])
    out["moments"] = autoencoder.moments(images.to(pipe.device))
    *levels, first = features = autoencoder.reference_features(images)
    named = {f"ref_level{i}": level for i, level in enumerate(levels)} | {"ref_conv_in": first}
    out |= {name: rearrange(each, "n c h w -> 1 c n h w") for name, each in named.items()}
    latents = out["latents"].to(pipe.device)
    z = rearrange(autoencoder.unscaled(latents), "1 c t h w -> t c h w")
    _, once = run(autoencoder.decoder.decode(z, autoencoder.decoder.prepare(features)))
    out["decoded_once"] = rearrange(once, "t c h w -> 1 c t h w")
    *_, last = autoencoder.decode_clips(latents, range(latents.shape[2]), images[None])
    out["decoded"] = last.output
    return {name: tensor.float().cpu() for name, tensor in out.items()}


def write_toon(folder: Path) -> Path:
    """The golden directory of ToonCrafter with its whole checkpoint: all but the autoencoder is dc512's."""
    whole = load_file(GOLDEN / "dc512" / "model.safetensors") | load_file(GOLDEN / "toon" / "autoencoder.safetensors")
    save_file(whole, folder / "model.safetensors")
    for name in ("config.json", "decode.json", "decode.safetensors"):
        shutil.copy(GOLDEN / "toon" / name, folder)
    return folder


def run(generator: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    """A generator's events and its return value."""
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as stop:
            return events, stop.value


def relative_error(computed: Tensor, recorded: Tensor) -> float:
    """‖a − b‖ / ‖b‖"""
    a, b = computed.double(), recorded.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
