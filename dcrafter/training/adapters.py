"""LoRA in training: peft puts the factors into a UNet, and our file takes them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from dcrafter.errors import InputError
from dcrafter.install import install_hint
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.training.parts import parameter_groups
from dcrafter.training.recipe import LoRA
from dcrafter.weights.lora import save_lora

ADAPTER = "default"  # what peft calls it


def add_lora(model: DynamiCrafter, options: LoRA) -> None:
    """Give the UNet's linear layers factors, and require gradients for these alone; they change nothing yet.

    Raises InputError where peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError("training a LoRA needs peft", f"Run `{install_hint('peft')}`") from None
    groups = parameter_groups(model.unet)
    layers = [name for name, module in model.unet.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in layers if groups[f"{name}.weight"] in options.parts]
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets)
    model.requires_grad_(False)
    is_planned = model.unet.conv_in.weight.is_meta
    inject_adapter_in_model(config, model.unet, adapter_name=ADAPTER, low_cpu_mem_usage=is_planned)


@contextmanager
def without_lora(module: nn.Module) -> Iterator[None]:
    """Context in which the factors that peft put into a module change nothing."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def export_lora(weights: Mapping[str, Tensor], options: LoRA, path: Path, *, model: str) -> None:
    """Write trained factors as a LoRA file.

    Args:
        weights: of the whole model, by peft's names.
        options: what they were trained with.
        path: where to.
        model: the name of the model that they change, for the header.
    """
    factors = {
        name.replace(f".{ADAPTER}.", "."): value.to("cpu") for name, value in weights.items() if ".lora_" in name
    }
    save_lora(factors, path, rank=options.rank, alpha=options.alpha, model=model, parts=[*options.parts])
