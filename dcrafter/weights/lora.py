"""LoRA files (arXiv 2106.09685): low-rank changes of a checkpoint's weights, merged when these are loaded.

A file holds factors A (r, in, …) and B (out, r, …) of a weight W (out, in, …), which becomes W + scale · α/r · B·A.
Read are our own files, what peft saves (a file or its folder), and factors called `lora_down`/`lora_up`; modules go by
our names or the published ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dcrafter.errors import UsageError, WeightsError
from dcrafter.text import error_text
from dcrafter.weights.checkpoint import Checkpoint
from dcrafter.weights.keys import to_ours

METADATA = "lora"  # the entry of a safetensors header that says rank, alpha and what the file was trained on
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FACTORS = {"lora_A": "A", "lora_down": "A", "lora_B": "B", "lora_up": "B"}
_KEY = re.compile(r"(?P<module>.+?)\.(?P<factor>lora_[AB]|lora_(?:down|up))(?:\.[^.]+)?\.weight|(?P<scaled>.+)\.alpha")
_PREFIXES = ("base_model.model.", "")


@dataclass(frozen=True, eq=False)
class LoRA:
    """An open file. `changes` are by the weight's name in the checkpoint: A, B and α/r."""

    path: Path
    scale: float
    digest: str  # SHA-256 of the file, hexadecimal
    changes: Mapping[str, tuple[Tensor, Tensor, float]]

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """A weight of the checkpoint with its change: float32, or as it is where nothing changes it."""
        if name not in self.changes or not self.scale:
            return weight
        a, b, strength = self.changes[name]
        change = b.float().flatten(1) @ a.float().flatten(1)  # (out, r) · (r, in·…)
        return weight.float() + self.scale * strength * change.reshape(weight.shape)

    def record(self) -> dict[str, Any]:
        """What a video's settings say of it."""
        return {"name": self.path.name, "hash": self.digest, "scale": self.scale}


def parse_lora(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:SCALE` → the file and its scale, by default 1. Raises UsageError where that is no number."""
    path, _, scale = text.rpartition(":")
    try:
        value = float(scale)
    except ValueError:
        return Path(text), 1.0
    if not path or not abs(value) <= 100:
        raise UsageError(f"--lora must be FILE or FILE:SCALE, with a scale of -100 to 100, not {text}")
    return Path(path), value


def with_loras(checkpoint: Checkpoint, texts: Sequence[str]) -> Checkpoint:
    """The checkpoint with LoRA files merged into what it loads, in the order given.

    Args:
        checkpoint: what they change.
        texts: `FILE` or `FILE:SCALE` each.

    Raises:
        UsageError: a scale is no number in range.
        WeightsError: a file is missing or damaged, or does not fit the checkpoint.
    """
    loras = tuple(open_lora(*parse_lora(text), checkpoint) for text in texts)
    return replace(checkpoint, loras=loras) if loras else checkpoint


def check_there(texts: Sequence[str]) -> None:
    """Raises WeightsError where one of `FILE` or `FILE:SCALE` is not here, UsageError where a scale is no number."""
    for path, _ in map(parse_lora, texts):
        if not os.path.isfile(lora_file(path)):
            raise WeightsError(f"there is no LoRA {path}", "Check the path")


def open_lora(path: Path, scale: float, checkpoint: Checkpoint) -> LoRA:
    """Open a LoRA file, or the folder that peft saved, and compare it with the checkpoint that it changes.

    Raises WeightsError where it is missing or damaged, or does not fit.
    """
    file = lora_file(path)
    try:
        hashed = digest(path)  # first, for Python's errors have reasons, without the file's name
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            header = opened.metadata() or {}
        config = json.loads(header.get(METADATA) or _peft_config(file))
        if not isinstance(config, Mapping):
            raise ValueError("its header is no table")
        return LoRA(path, scale, hashed, _changes(tensors, config, checkpoint))
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise WeightsError(
            f"cannot read the LoRA {file} ({error_text(error)})", "Give a .safetensors file of LoRA factors"
        ) from error


def digest(path: Path) -> str:
    """SHA-256 of a LoRA's file, hexadecimal."""
    with lora_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_lora(factors: Mapping[str, Tensor], path: Path, *, rank: int, alpha: float, **about: Any) -> None:
    """Write factors as a LoRA file that peft, too, can read.

    Args:
        factors: by our module's name with `.lora_A.weight` or `.lora_B.weight` behind it.
        path: where to.
        rank: r.
        alpha: α.
        about: more for the header, plain values.
    """
    metadata = {"format": "pt", METADATA: json.dumps({"r": rank, "lora_alpha": alpha, **about})}
    part = path.with_name(f"{path.name}.part")
    save_file({f"base_model.model.{key}": value.contiguous() for key, value in factors.items()}, part, metadata)
    part.replace(path)


def lora_file(path: Path) -> Path:
    """The file of a LoRA, of which `path` may be the folder."""
    return path / PEFT_FILE if path.is_dir() else path


def _peft_config(file: Path) -> str:
    config = file.with_name(PEFT_CONFIG)
    return config.read_text("utf-8") if file.name == PEFT_FILE and config.is_file() else "{}"


def _changes(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], checkpoint: Checkpoint
) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Factors by the weights that they change. Raises ValueError for what is no pair of them, or does not fit."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if not match or not value.is_floating_point():
            raise ValueError(f"{key[:120]} is no LoRA factor")
        part = FACTORS[match["factor"]] if match["factor"] else "alpha"
        found.setdefault(match["module"] or match["scaled"], {})[part] = value
    if not found:
        raise ValueError("it holds no tensors")
    changes = {}
    for module, parts in found.items():
        name = _weight_of(module, checkpoint)
        weight = checkpoint.tensors[name]
        a, b = parts.get("A"), parts.get("B")
        if a is None or b is None:
            raise ValueError(f"{module[:120]} has one factor of two")
        is_chained = a.ndim > 1 and b.ndim > 1 and b[0].numel() == len(a) > 0
        if not is_chained or (len(b), a[0].numel()) != (len(weight), weight[0].numel()):
            shapes = f"{tuple(b.shape)} · {tuple(a.shape)}"
            raise ValueError(f"{module[:120]} is {shapes}, and the {checkpoint.config.name} model's weight is "
                             f"{tuple(weight.shape)}")  # fmt: skip
        changes[name] = (a, b, _strength(module, len(a), parts.get("alpha"), config))
    return changes


def _weight_of(module: str, checkpoint: Checkpoint) -> str:
    """The name of a module's weight in a checkpoint; the module may be one of the UNet alone."""
    for prefix in _PREFIXES:
        bare = module.removeprefix(prefix) + ".weight"
        for name in (bare, to_ours(bare), f"unet.{bare}", to_ours(f"model.diffusion_model.{bare}")):
            if name in checkpoint.tensors:
                return str(name)
    raise ValueError(f"the {checkpoint.config.name} model has no {module[:120]}")


def _strength(module: str, rank: int, alpha: Tensor | None, config: Mapping[str, Any]) -> float:
    """α/r, or α/√r where peft's configuration says so (arXiv 2312.03732); without an α it is r.

    Raises ValueError for patterns that are more than names: a stranger's expression may take hours to match.
    """
    patterns = {**(config.get("alpha_pattern") or {})}
    if expression := next((name for name in patterns if not re.fullmatch(r"[\w.]+", name)), None):
        raise ValueError(f"alpha_pattern has {expression[:120]}, which is no module's name")
    named = next((value for name, value in patterns.items() if f".{module}".endswith(f".{name}")), None)
    if alpha is not None and alpha.numel() != 1:
        raise ValueError(f"{module[:120]}.alpha is no single number")
    value = float(alpha) if alpha is not None else float(named or config.get("lora_alpha", rank))
    if not math.isfinite(value):
        raise ValueError(f"{module[:120]} has an alpha of {value}")
    return value / math.sqrt(rank) if config.get("use_rslora") else value / rank
