"""Parameters, gradients and the optimizer's state divided over processes: PyTorch's FSDP, through accelerate.

Checkpoints hold whole tensors, so that a run may go on with another number of processes, or undivided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def sharding_plugin(layers: Sequence[str]) -> FullyShardedDataParallelPlugin:
    """What accelerate needs to know: the classes of layers that are gathered, computed and divided again one by one."""
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[*layers],
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )


def flatten_scalars(model: nn.Module) -> list[str]:
    """Make parameters without dimensions, which cannot be divided, rows of one value; returns their names."""
    scalars = {name: parameter for name, parameter in model.named_parameters() if not parameter.ndim}
    for parameter in scalars.values():
        parameter.data = parameter.data[None]
    return [*scalars]


def whole(value: Any) -> Any:
    """Nested dicts and lists with each divided tensor gathered; all processes have to call it."""
    if isinstance(value, DTensor):
        return value.full_tensor().detach()
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    return [whole(each) for each in value] if isinstance(value, list) else value


def divided_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, divided as a parameter of its shape is, if that is divided."""
    if value.numel() == parameter.numel() == 1:
        value = value.reshape(parameter.shape)
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def divide_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole state, divided as its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    of_each = {
        place: {name: divided_like(value, parameters[place]) for name, value in values.items()}
        for place, values in state["state"].items()
    }
    return {**state, "state": of_each}


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Context in which a divided model can be used otherwise than by its forward; all processes have to."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            module.reshard()
