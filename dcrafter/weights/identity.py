"""Which model a checkpoint holds: what its keys, tables, name and digest tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dcrafter.config import MODELS, Command, ScheduleConfig
from dcrafter.errors import WeightsError
from dcrafter.sampling import schedule
from dcrafter.weights.families import FAMILIES, PUBLISHED, descendant, named, recognize

RESCALE_TOLERANCE = 0.1  # the published bases are 0.3 and 0.7; eight-bit types round them


def rescale_base(tensors: Mapping[str, Tensor]) -> float | None:
    """What the dynamic rescale falls to, where the file says so."""
    table = tensors.get("scale_arr")
    return float(table.reshape(-1)[-1]) if table is not None and table.numel() else None


def identify(path: Path, tensors: Mapping[str, Tensor], model: str | None, command: Command) -> tuple[str, str]:
    """The registry name of a published file, and what had to be assumed."""
    base = rescale_base(tensors)
    likely = recognize(tensors, base, RESCALE_TOLERANCE)
    if not likely:
        raise WeightsError(
            f"{path} holds no DynamiCrafter model",
            "Give a published checkpoint, or --model-config with a fine-tune",
        )
    candidates = likely + [name for name in PUBLISHED if FAMILIES[name].tuned in likely]
    if model is not None:
        if model not in candidates:
            raise mismatch(path, " or ".join(likely), model)
        return model, ""
    if chosen := named(path.name, candidates):
        return chosen, "" if len(likely) == 1 and chosen in likely else _taken(path, likely, chosen, "its name says so")
    able = [name for name in likely if command in MODELS[name].commands] or likely
    if base is None and len(able) > 1:
        raise WeightsError(
            f"{path} may be {' or '.join(able)}: neither its keys nor its name tell", f"Say which: -m {able[0]}"
        )
    return able[0], "" if len(likely) == 1 else _taken(path, likely, able[0], f"the command is {command}")


def _taken(path: Path, likely: list[str], chosen: str, reason: str) -> str:
    return f"{path.name} may be {' or '.join(dict.fromkeys([*likely, chosen]))}; taken as {chosen} because {reason}"


def refuse_descendants(path: Path, model: str | None) -> None:
    """Raises WeightsError where a file's digest tells that it is another model, or, unless one was named, its path."""
    digest = path.resolve().stem  # what Hugging Face's cache and ours call a file
    found = descendant(path, digest)
    if found and (model is None or digest in found.sha256):
        advice = "" if digest in found.sha256 else "If it is none of them, say which model it is: -m NAME"
        raise WeightsError(f"{path} is a {found.name} model, which takes {found.inputs}", advice)


def odd_tables(path: Path, tensors: Mapping[str, Tensor], config: ScheduleConfig) -> str:
    """What to say where a checkpoint's tables of the schedule are not those that its model computes.

    The official trainer makes them anew after it has loaded a file, so that files may hold older ones.
    """
    alphas = schedule.alphas_cumprod(config)
    computed = {
        "betas": schedule.betas(config),
        "alphas_cumprod": alphas,
        "sqrt_alphas_cumprod": alphas**0.5,
        "sqrt_one_minus_alphas_cumprod": (1 - alphas) ** 0.5,
        "scale_arr": schedule.rescale_factors(config),
    }
    for name, own in computed.items():
        held = tensors.get(name)
        if held is None or not held.is_floating_point() or held.numel() < len(own):
            continue
        values = held.reshape(-1)[: len(own)].double().numpy()
        error = abs(values - own)
        tolerated = max(2 * torch.finfo(held.dtype).eps, 1e-4) * abs(own) + max(torch.finfo(held.dtype).tiny, 1e-5)
        if not (error <= tolerated).all():
            t = int(error.argmax())
            return (
                f"{path.name} holds the tables of another schedule: its {name} is {values[t]:.4g} at t = {t}, "
                f"where {own[t]:.4g} is computed and used"
            )
    return ""


def mismatch(path: Path, found: str, wanted: str) -> WeightsError:
    return WeightsError(f"{path} holds the {found} model, not {wanted}", f"Leave out the name {wanted}, or change it")
