"""Pixels of emoji and images: resizing, backgrounds, and laying one over another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Array = np.ndarray
Rng = np.random.Generator
T = TypeVar("T")


def one_of(rng: Rng, choices: Sequence[T]) -> T:
    """A random one of the choices."""
    return choices[int(rng.integers(len(choices)))]


def resize(pixels: Array, width: int, height: int) -> Array:
    """(h, w, 3 or 4) uint8 → (height, width, same), antialiased."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0))


def to_sprites(frames: Array, size: int) -> Tensor:
    """Emoji (n, s, s, 4) uint8 → sprites (n, 4, size, size) in [0, 1], premultiplied, antialiased."""
    x = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True).float() / 255


def to_sprite(pixels: Array, width: int, height: int) -> Tensor:
    """A premultiplied cut-out (h, w, 4) uint8 → (4, height, width) in [0, 1], antialiased."""
    x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True)[0].float() / 255


def to_planes(pixels: Array) -> Tensor:
    """(H, W, 3) uint8 → (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def to_uint8(planes: Tensor) -> Tensor:
    """(n, 3, H, W) in [0, 1] → (n, H, W, 3) uint8."""
    return planes.clamp(0, 1).mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def composite(sprite: Tensor, background: Tensor) -> Tensor:
    """A premultiplied sprite (n, 4, h, w) over a background (n or 1, 3, h, w)."""
    return sprite[:, :3] + background * (1 - sprite[:, 3:])


def lit(planes: Tensor, light: Array | None) -> Tensor:
    """Frames (n, 3 or 4, H, W), premultiplied, under `light` (n, 3) in [0, 1], which 1 makes full."""
    if light is None:
        return planes
    full = planes[:, 3:] if planes.shape[1] == 4 else 1.0
    share = torch.from_numpy(light).to(planes)[:, :, None, None]
    return torch.cat([planes[:, :3] + share * (full - planes[:, :3]), planes[:, 3:]], dim=1)


def paste(canvas: Tensor, sprite: Tensor, rng: Rng | None) -> None:
    """Lay a sprite (n, 4, s, s) over a canvas (n, 3, H, W), in place: anywhere, mostly inside, or without `rng` in
    the middle."""
    size, room = sprite.shape[-1], canvas.shape[-1] - sprite.shape[-1]
    if rng is None or room <= 0:
        top = left = room // 2
    else:
        slack = min(size // 10, room)
        top, left = (int(rng.integers(-slack, room + slack + 1)) for _ in range(2))
    view = canvas[:, :, max(top, 0) : top + size, max(left, 0) : left + size]
    cut_top, cut_left = max(-top, 0), max(-left, 0)
    view.copy_(composite(sprite[:, :, cut_top:, cut_left:][:, :, : view.shape[2], : view.shape[3]], view))


def maybe_mirror(rng: Rng, frames: Array) -> Array:
    """Frames (n, h, w, c), half of the time from left to right."""
    return frames[:, :, ::-1] if rng.random() < 0.5 else frames


def plain_color(rng: Rng, size: int) -> Array:
    """One color, sometimes black, grey or white: (size, size, 3) uint8."""
    color = rng.integers(0, 256, 3) if rng.random() < 0.7 else np.full(3, one_of(rng, (0, 128, 255)))
    return np.broadcast_to(color.astype(np.uint8), (size, size, 3)).copy()


def gradient(rng: Rng, size: int) -> Array:
    """Two colors running into each other, straight or round: (size, size, 3) uint8."""
    line = np.linspace(-0.5, 0.5, size)
    x, y = np.meshgrid(line, line)
    angle = rng.uniform(0, 2 * np.pi)
    straight = 0.5 + x * np.cos(angle) + y * np.sin(angle)
    share = straight if rng.random() < 0.6 else 1.4 * np.hypot(x - rng.uniform(-0.3, 0.3), y - rng.uniform(-0.3, 0.3))
    first, second = rng.integers(0, 256, (2, 3))
    return (first + np.clip(share, 0, 1)[..., None] * (second - first)).astype(np.uint8)
