"""What weights know of each model, in one place: its files on the hub, its parts, and what its keys are called.

To add a model, give `config.MODELS` what it is made of and this table where its files are; how its keys become ours
is a rule in `keys`, where it has any of its own. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dcrafter.config import MODELS, Command


@dataclass(frozen=True)
class HubFile:
    """A file on the hub: `size` in bytes, more or less, and how many bytes a number takes in it."""

    repository: str
    file: str
    size: int
    itemsize: int


@dataclass(frozen=True)
class Family:
    """A model's checkpoints.

    Attributes:
        files: on the hub, by variant; "" is the published original.
        components: what a whole checkpoint holds, by our names.
        marks: a regular expression of the published keys that only this family's checkpoints have.
        renamed: stretches of published keys that this family calls otherwise than `keys.RULES`.
        is_advised: the one to download first, among those that do a command.
    """

    files: Mapping[str, HubFile] = field(default_factory=dict)
    components: tuple[str, ...] = ("unet", "autoencoder", "text_encoder", "image_encoder", "projector")
    marks: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    is_advised: bool = False


def _published(repository: str) -> HubFile:
    return HubFile(repository, "model.ckpt", 10_400_000_000, 4)


def _half_size(file: str) -> HubFile:
    return HubFile("Kijai/DynamiCrafter_pruned", file, 5_200_000_000, 2)


# In the order in which `auto` takes them.
FAMILIES = {
    "1024": Family(
        {
            "": _published("Doubiiu/DynamiCrafter_1024"),
            "bf16": _half_size("dynamicrafter_1024_v1_bf16.safetensors"),
        },
    ),
    "512": Family({"": _published("Doubiiu/DynamiCrafter_512")}, is_advised=True),
    "512-interp": Family(
        {
            "": _published("Doubiiu/DynamiCrafter_512_Interp"),
            "bf16": _half_size("dynamicrafter_512_interp_v1_bf16.safetensors"),
        },
        is_advised=True,
    ),
    "256": Family(
        {"": _published("Doubiiu/DynamiCrafter")},
        marks=r".*(\.attn2\.alpha|\.framestride_embed\..*)",
        renamed={".fps_embedding.": ".framestride_embed."},
    ),
    "tiny": Family(),  # comes with the package
}


def family(model: str) -> Family:
    """A registry model's; of an imported one, what all have in common."""
    return FAMILIES.get(model, Family())


PUBLISHED = {name: family(name).files[""] for name in MODELS if "" in family(name).files}
VARIANTS = {(name, variant): file for name in PUBLISHED for variant, file in FAMILIES[name].files.items() if variant}


def able(command: Command) -> list[str]:
    """The models that do a command, the best first."""
    return [name for name in FAMILIES if command in MODELS[name].commands]


def advised(command: Command) -> str:
    """The model to download for a command."""
    return next(name for name in able(command) if FAMILIES[name].is_advised)


def recognize(keys: Iterable[str], rescale_base: float | None, tolerance: float) -> list[str]:
    """The published models that a checkpoint with these keys may hold.

    Args:
        keys: published ones.
        rescale_base: what the checkpoint's dynamic rescale falls to, where it says so.
        tolerance: how far that may be from the configured one.
    """
    keys = list(keys)
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        return []
    marked = [name for name in PUBLISHED if FAMILIES[name].marks and _any(FAMILIES[name].marks, keys)]
    if marked:
        return marked
    return [
        name
        for name in PUBLISHED
        if not FAMILIES[name].marks
        and (rescale_base is None or abs(MODELS[name].schedule.rescale_base - rescale_base) < tolerance)
    ]


def closest(prediction: str, rescale_base: float, command: Command) -> str:
    """The published model that one of this schedule is most like: of the same prediction, and with the command."""
    alike = [name for name in PUBLISHED if MODELS[name].schedule.prediction == prediction]
    doing = [name for name in alike if command in MODELS[name].commands] or alike
    return min(doing, key=lambda name: abs(MODELS[name].schedule.rescale_base - rescale_base))


def _any(pattern: str, keys: list[str]) -> bool:
    return any(map(re.compile(pattern).fullmatch, keys))
