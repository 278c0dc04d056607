"""Faster forms of the layers, for inference on a CPU: the same numbers up to rounding.

`pack` gives linear layers and wide convolutions their weights in the layout that oneDNN multiplies by, into which plain
ones are brought on every call, adds to what comes out in the same operation, and fuses what is computed from one input.
Convolutions are channels-last, and everything behind is then in one layout: linear layers, and convolutions and norms
over time, see the memory of the spatial ones as it is. The plain forms, in the model's own modules, are what these are
tested against.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dcrafter.models import layers
from dcrafter.models.layers import Attention, FeedForward, FrameAttention
from dcrafter.models.unet import FrameConv

WIDE = 320  # channels from which a convolution gains more channels-last than norms of few positions lose
HIDDEN = 2**20  # values of a feed-forward layer that are in memory at a time: they stay in the cache
REPLACED = ("forward", "project", "hidden", "plus")  # methods that a packed form brings


def supported(device: torch.device, dtype: torch.dtype) -> bool:
    """True if layers on this device and of this type have faster forms."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack(module: nn.Module) -> None:
    """Pack the loaded layers in a module.

    Packed layers' own weights go, so that memory holds them once; `unpack` forgets the packed ones.
    """
    for layer in module.modules():
        if type(layer) in (Attention, FrameAttention):
            _pack_attention(cast(Attention, layer))
        elif type(layer) is FeedForward:
            _pack_feed_forward(layer)
    for layer in module.modules():
        if type(layer) is nn.Linear and not layer.weight.is_meta:
            _replace(layer, PackedLinear(layer.weight, layer.bias))
        elif isinstance(layer, nn.Conv2d | FrameConv) and not layer.weight.is_meta and _is_wide(layer):
            _replace(layer, PackedConv(layer))


def order_channels_last(module: nn.Module) -> None:
    """Lay out the convolutions' kernels as a GPU's tensor cores take them, and not anew in every call."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            ordered = layer.weight.detach().contiguous(memory_format=torch.channels_last)
            layer.weight = nn.Parameter(ordered, requires_grad=False)


def unpack(module: nn.Module) -> None:
    """Give the packed layers in a module their plain forms back, without weights."""
    for layer in module.modules():
        for name in REPLACED:
            vars(layer).pop(name, None)


class PackedLinear:
    """(…, in) → (…, out)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self.bias = bias

    def apply(self, x: Tensor, activation: str = "none") -> Tensor:
        """The product, and an activation of oneDNN's behind it."""
        product = torch.ops.mkldnn._linear_pointwise.default
        return cast(Tensor, product(x.contiguous(), self.weight, self.bias, activation, [], "none"))

    def plus(self, other: Tensor, x: Tensor, operation: str = "add") -> Tensor:
        """The product plus, or by `mul` times, something of its own shape."""
        if not other.is_contiguous():  # of narrow layers, which stay channels-first: norms are many times faster so
            return other + self.apply(x)
        product = torch.ops.mkldnn._linear_pointwise.binary
        return cast(Tensor, product(x.contiguous(), other, self.weight, self.bias, operation))


class PackedConv:
    """(n, in, h, w) → (n, out, h', w'), channels-last."""

    def __init__(self, conv: nn.Conv2d | FrameConv) -> None:
        weight, self.bias = conv.weight.detach(), conv.bias
        geometry: Iterable[Sequence[int | str]] = (conv.padding, conv.stride, conv.dilation)
        if isinstance(conv, FrameConv):
            weight, geometry = weight[..., None], ([1, 0], [1, 1], [1, 1])
        self.geometry: list[Any] = [*geometry, conv.groups]
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *self.geometry)

    def apply(self, x: Tensor) -> Tensor:
        product = torch.ops.mkldnn._convolution_pointwise.default
        return cast(Tensor, product(_channels_last(x), self.weight, self.bias, *self.geometry, "none", [], ""))

    def plus(self, other: Tensor, x: Tensor) -> Tensor:
        """The result plus something of its own shape."""
        product = torch.ops.mkldnn._convolution_pointwise.binary
        x, other = _channels_last(x), _channels_last(other)
        return cast(Tensor, product(x, other, self.weight, self.bias, *self.geometry, "add", None, None, [], None))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _is_wide(conv: nn.Conv2d | FrameConv) -> bool:
    return max(conv.in_channels, conv.out_channels) >= WIDE


def _pack_attention(layer: Attention) -> None:
    """Queries, keys and values from one product."""
    parts = layer.to_q, layer.to_k, layer.to_v
    if layer.to_q.weight.is_meta:
        return
    packed = PackedLinear(torch.cat([part.weight for part in parts]), None)

    def project(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = packed.apply(x).chunk(3, dim=-1)
        return q, k, v

    layer.project = project  # type: ignore[method-assign]
    for part in parts:
        _forget(part)


def _pack_feed_forward(layer: FeedForward) -> None:
    """GELU, and the product with the gate, on results that are still in the cache."""
    if layer.proj_in.weight.is_meta:
        return
    weights, biases = layer.proj_in.weight.chunk(2), layer.proj_in.bias.chunk(2)
    value, gate = (PackedLinear(*half) for half in zip(weights, biases, strict=True))
    rows = max(1, HIDDEN // layer.proj_out.in_features)

    def hidden(x: Tensor) -> Tensor:
        return value.plus(gate.apply(x, "gelu"), x, "mul")

    def plus(other: Tensor, x: Tensor) -> Tensor:
        parts = zip(*(torch.split(each.flatten(0, -2), rows) for each in (other, x)), strict=True)
        return torch.cat([layers.plus(some, layer.proj_out, hidden(part)) for some, part in parts]).view_as(x)

    layer.hidden, layer.plus = hidden, plus  # type: ignore[method-assign, assignment]
    _forget(layer.proj_in)


def _replace(layer: nn.Linear | nn.Conv2d | FrameConv, packed: PackedLinear | PackedConv) -> None:
    layer.forward, layer.plus = packed.apply, packed.plus  # type: ignore[method-assign, assignment]
    _forget(layer)


def _forget(layer: nn.Linear | nn.Conv2d | FrameConv) -> None:
    """Give back the memory of a packed layer's own weights."""
    layer.weight = nn.Parameter(layer.weight.to("meta"), requires_grad=False)
