"""What memory a pass through a model takes, found on the meta device: nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Attention(torch.autograd.Function):
    """Keeps what a fused kernel does: its inputs and its result, not the matrix between them."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("a plan goes forward only")


class _Fused(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args)
        return func(*args, **(kwargs or {}))


def kept_bytes(run: Callable[[], object], parts: Iterable[nn.Module]) -> tuple[int, list[int]]:
    """Bytes that `run` on the meta device keeps for a backward pass, parameters apart, attention being fused.

    In all, and within each evaluation of one of `parts`, which lie beside each other; their first inputs are kept
    outside of them.
    """
    kept: dict[int, Tensor] = {}
    within: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def so_far() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    def enter(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        keep(given[0])
        within.append(-so_far())

    def leave(*_: object) -> None:
        within[-1] += so_far()

    handles = []
    for part in parts:
        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _Fused():
        run()
    for handle in handles:
        handle.remove()
    return so_far(), within
