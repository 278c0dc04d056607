"""Where weights live on this machine, and how they come there."""

from __future__ import annotations

import os
from pathlib import Path

from dcrafter.config import MODELS, Command
from dcrafter.errors import UsageError, WeightsError

PUBLISHED_FILE = "model.ckpt"  # in each of the published repositories; 10.4 GB
EMBEDDED = Path(__file__).with_name("tiny.safetensors")  # comes with the package
BEST_FIRST = ("1024", "512", "512-interp", "256", "tiny")


def cache_dir() -> Path:
    """The folder of this package's own weight files: $DCRAFTER_CACHE_DIR, or the platform's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("DCRAFTER_CACHE_DIR") or user_cache_path("dcrafter"))


def find(model: str) -> Path | None:
    """The weights of a registry model on this machine: in the package, in our cache, or in Hugging Face's."""
    from huggingface_hub import try_to_load_from_cache

    if model == "tiny":
        return EMBEDDED if EMBEDDED.is_file() else None
    ours = cache_dir() / f"{model}.safetensors"
    if ours.is_file():
        return ours
    repository = MODELS[model].repository
    cached = try_to_load_from_cache(repository, PUBLISHED_FILE) if repository else None
    return Path(cached) if isinstance(cached, str) else None


def choose(model: str, command: Command) -> str:
    """The registry name that `model` stands for: itself, or for `auto` the best that is here.

    Raises UsageError for a model that does not do the command, WeightsError where `auto` finds nothing.
    """
    able = [name for name in BEST_FIRST if command in MODELS[name].commands]
    if model == "auto":
        for name in able:
            if find(name):
                return name
        raise WeightsError(
            f"no model for {command} is on this machine",
            f"Name one to have it downloaded (--model {able[-1]}, 10.4 GB), or give --checkpoint FILE",
        )
    if command not in MODELS[model].commands:
        raise UsageError(f"the model {model} does not {command}", f"Use {' or '.join(able)}")
    return model


def fetch(model: str, *, offline: bool = False) -> Path:
    """The weights of a registry model, downloaded if they are not on this machine.

    Raises WeightsError where they are not and cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if path := find(model):
        return path
    repository = MODELS[model].repository
    if repository is None:
        raise WeightsError(f"the weights of {model} are not part of this version", "Give --checkpoint FILE")
    advice = f"Fetch {PUBLISHED_FILE} of {repository} yourself and give it with --checkpoint"
    if offline:
        raise WeightsError(f"the weights of {model} are not on this machine, and --offline was given", advice)
    try:
        return Path(hf_hub_download(repository, PUBLISHED_FILE))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"the weights of {model} could not be downloaded ({reason})", advice) from error
