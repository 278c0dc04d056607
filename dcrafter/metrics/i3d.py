"""Inflated Inception-v1 (I3D, arXiv 1705.07750, figure 3), whose features FVD is measured in.

Modules are named as in the PyTorch checkpoints of Kinetics (`rgb_imagenet.pt`): unit3d's `conv3d` and `bn`, branches
`b0` to `b3b`. Padding is TensorFlow's "same".
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 224  # pixels a side
CLASSES = 400  # of Kinetics
# Channels out of each Inception module: 1×1×1; 1×1×1 then 3×3×3, twice; 1×1×1 behind the pooling.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}

POOLS = {"Conv3d_2b_1x1": (1, 3), "Mixed_3b": (1, 3), "Mixed_4b": (3, 3), "Mixed_5b": (2, 2)}
"""Kernels of the max pooling before a module, in time and along the sides."""


class Unit3D(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))))


class MaxPool(nn.MaxPool3d):
    """Max pooling with "same" padding by zeros, behind ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size, self.stride))


class Mixed(nn.Module):
    """An Inception module: four branches, concatenated."""

    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit3D(inputs, channels[0], 1)
        self.b1a, self.b1b = Unit3D(inputs, channels[1], 1), Unit3D(channels[1], channels[2], 3)
        self.b2a, self.b2b = Unit3D(inputs, channels[3], 1), Unit3D(channels[3], channels[4], 3)
        self.b3a, self.b3b = MaxPool((3, 3, 3), (1, 1, 1)), Unit3D(inputs, channels[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """Clips (B, 3, T, 224, 224) in [-1, 1], T ≥ 9 → logits (B, 400), averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit3D(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        width = 192
        for name, channels in MIXED.items():
            self.add_module(name, Mixed(width, channels))
            width = channels[0] + channels[2] + channels[4] + channels[5]
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(width, CLASSES, 1)))

    def forward(self, x: Tensor) -> Tensor:
        for name, module in self.named_children():
            if name in POOLS:
                x = _pool(x, *POOLS[name])
            elif name == "logits":
                x = F.avg_pool3d(x, (2, 7, 7), stride=1)
            x = module(x)
        return x.mean(dim=(2, 3, 4))


def _pool(x: Tensor, time: int, side: int) -> Tensor:
    """Halve the sides, and the time too unless its kernel is 1."""
    kernel, stride = (time, side, side), (1 if time == 1 else 2, 2, 2)
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)


def pad_same(x: Tensor, kernel: Any, stride: Any) -> Tensor:
    """Pad (B, C, T, H, W) by zeros so that a stride of s gives the size divided by s, rounded up."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(k - (size % s or s), 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads)
