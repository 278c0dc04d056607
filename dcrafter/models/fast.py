"""Faster forms of the layers, for inference on a CPU: the same numbers up to rounding.

`pack` gives linear layers their weights in the layout that oneDNN multiplies by, into which plain ones are brought on
every call, and fuses what is computed from one input. Wide convolutions get theirs channels-last, and so give outputs;
everything behind is then in one layout: linear layers, and convolutions and norms over time, see the memory of the
spatial ones as it is. The plain forms, in the model's own modules, are what these are tested against.
"""

from __future__ import annotations

import platform
from typing import cast

import torch
from torch import Tensor, nn

from dcrafter.models.layers import Attention, FeedForward, FrameAttention
from dcrafter.models.unet import FrameConv

WIDE = 320  # channels from which a convolution gains more channels-last than norms of few positions lose
REPLACED = ("forward", "project", "hidden")  # methods that a packed form stands in for


def supported(device: torch.device, dtype: torch.dtype) -> bool:
    """True if layers on this device and of this type have faster forms."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack(module: nn.Module) -> None:
    """Pack the loaded layers in a module.

    Linear layers' own weights go, so that memory holds them once; `unpack` forgets the packed ones.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | FrameConv) and layer.in_channels >= WIDE:
            _order_channels_last(layer)
        elif type(layer) in (Attention, FrameAttention):
            _pack_attention(cast(Attention, layer))
        elif type(layer) is FeedForward:
            _pack_feed_forward(layer)
    for layer in module.modules():
        if type(layer) is nn.Linear and not layer.weight.is_meta:
            layer.forward = PackedLinear(layer.weight, layer.bias).apply  # type: ignore[method-assign, assignment]
            _forget(layer)


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

    def multiply(self, x: Tensor, factor: Tensor) -> Tensor:
        """The product times a factor of its own shape."""
        product = torch.ops.mkldnn._linear_pointwise.binary
        return cast(Tensor, product(x.contiguous(), factor, self.weight, self.bias, "mul"))


def _order_channels_last(conv: nn.Conv2d | FrameConv) -> None:
    weight = conv.weight.detach()
    ordered = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    conv.weight = nn.Parameter(ordered, requires_grad=False)


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
    layer.hidden = lambda x: value.multiply(x, gate.apply(x, "gelu"))  # type: ignore[method-assign]
    _forget(layer.proj_in)


def _forget(layer: nn.Linear) -> None:
    """Give back the memory of a packed layer's own weights."""
    layer.weight = nn.Parameter(layer.weight.to("meta"), requires_grad=False)
