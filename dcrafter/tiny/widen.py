"""Widens a trained denoiser, for a larger one to go on from: `python -m dcrafter.tiny.widen OLD NEW --channels N`.

As in Net2Net (arXiv 1511.05641) the wide network computes what the narrow one does. New channels come as whole groups
of the normalizations, so that old groups keep their statistics; they begin at random, and nothing old reads them yet.
A LayerNorm has no groups: there the narrow stream is turned into the wide one by an isometry that keeps means and
variances. Only the UNet grows, and its sinusoidal embeddings stay as they are.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcrafter.config import UNetConfig
from dcrafter.errors import UsageError, exit_on_error
from dcrafter.models.layers import Attention, DualCrossAttention, TransformerBlock, Upsample
from dcrafter.models.unet import Downsample, ResBlock, SpatialTransformer, TemporalTransformer, UNet3D
from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint


@dataclass(frozen=True)
class Space:
    """How n old features lie in m new ones. What is beside them is random at first, or with `silent` zero."""

    up: Tensor  # (m, n): old features to new ones
    down: Tensor  # (n, m): back; down @ up is the identity
    silent: bool = False

    @property
    def rest(self) -> Tensor:
        """(m, m): the projection to what is beside the old features."""
        return torch.eye(len(self.up), dtype=self.up.dtype) - self.up @ self.down


def padded(old: int, new: int, blocks: int = 1) -> Space:
    """Each of some blocks of features gets new ones behind it."""
    up = torch.kron(torch.eye(blocks), torch.eye(new // blocks, old // blocks)).double()
    return Space(up, up.T)


def turned(old: int, new: int) -> Space:
    """An isometry, but for its scale, that takes ones to ones: mean and variance over the features stay."""
    generator = torch.Generator().manual_seed(0)

    def basis(size: int) -> Tensor:
        """Orthonormal columns, the first of them along the ones."""
        columns = torch.randn(size, size, generator=generator, dtype=torch.float64)
        columns[:, 0] = 1
        q = torch.linalg.qr(columns).Q
        return q * q[0, 0].sign()

    isometry = basis(new)[:, :old] @ basis(old).T
    return Space((new / old) ** 0.5 * isometry, (old / new) ** 0.5 * isometry.T, silent=True)


@torch.no_grad()
def widen(narrow: UNet3D, wide: UNet3D) -> None:
    """Fill a wide UNet so that it computes what a narrow one does. Of both, all levels have the same channels."""
    old, new = narrow.config.model_channels, wide.config.model_channels
    channels, both = padded(old, new), padded(2 * old, 2 * new, blocks=2)
    embedding, stream = padded(4 * old, 4 * new), turned(old, new)
    frequencies = padded(narrow.config.embedding_channels, wide.config.embedding_channels)
    for name, module in wide.named_modules():
        was: Any = narrow.get_submodule(name)
        match module:
            case ResBlock():
                _res_block(was, module, both if name.startswith("decoder") else channels, channels, embedding)
            case SpatialTransformer() | TemporalTransformer():
                _norm(was.norm, module.norm, channels)
                _linear(was.proj_in, module.proj_in, channels, stream)
                _linear(was.proj_out, module.proj_out, stream, channels)
            case TransformerBlock():
                _transformer(was, module, stream)
            case Downsample() | Upsample():
                _linear(was.conv, module.conv, channels, channels)
    for before, now in ((narrow.time_embed, wide.time_embed), (narrow.fs_embed, wide.fs_embed)):
        _linear(before[0], now[0], frequencies, embedding)
        _linear(before[2], now[2], embedding, embedding)
    _linear(narrow.conv_in, wide.conv_in, padded(*[wide.config.in_channels] * 2), channels)
    _norm(narrow.norm_out, wide.norm_out, channels)
    _linear(narrow.conv_out, wide.conv_out, channels, padded(*[wide.config.out_channels] * 2))


def _res_block(was: Any, now: Any, given: Space, channels: Space, embedding: Space) -> None:
    _norm(was.norm1, now.norm1, given)
    _linear(was.conv1, now.conv1, given, channels)
    _linear(was.embed, now.embed, embedding, channels)
    _norm(was.norm2, now.norm2, channels)
    _linear(was.conv2, now.conv2, channels, channels)
    if isinstance(was.skip, torch.nn.Conv2d):
        _linear(was.skip, now.skip, given, channels)
    for before, after in zip(was.temporal_conv.norms, now.temporal_conv.norms, strict=True):
        _norm(before, after, channels)
    for before, after in zip(was.temporal_conv.convs, now.temporal_conv.convs, strict=True):
        _linear(before, after, channels, channels)


def _transformer(was: TransformerBlock, now: TransformerBlock, stream: Space) -> None:
    _attention(was.attn1, now.attn1, stream, _layer_norm(was.norm1, now.norm1, stream))
    _attention(was.attn2, now.attn2, stream, _layer_norm(was.norm2, now.norm2, stream))
    hidden = was.ff.proj_out.in_features, now.ff.proj_out.in_features
    gated = padded(2 * hidden[0], 2 * hidden[1], blocks=2)
    _linear(was.ff.proj_in, now.ff.proj_in, _layer_norm(was.norm3, now.norm3, stream), gated)
    _linear(was.ff.proj_out, now.ff.proj_out, padded(*hidden), stream)


def _attention(was: Attention, now: Attention, stream: Space, normed: Space) -> None:
    """New heads beside the old ones."""
    heads = padded(was.to_out.in_features, now.to_out.in_features)
    crossed = isinstance(was, DualCrossAttention)
    context = padded(*[was.to_k.in_features] * 2) if crossed else normed
    _linear(was.to_q, now.to_q, normed, heads)
    for name in ("to_k", "to_v", *(("to_k_ip", "to_v_ip") if crossed else ())):
        _linear(getattr(was, name), getattr(now, name), context, heads)
    _linear(was.to_out, now.to_out, heads, stream)
    if isinstance(was, DualCrossAttention) and isinstance(now, DualCrossAttention) and was.alpha is not None:
        assert now.alpha is not None
        now.alpha.copy_(was.alpha)


def _layer_norm(was: Any, now: Any, stream: Space) -> Space:
    """The space of the normed stream, whose readers take over the gain: in the turned stream it is no diagonal."""
    gain, bias = was.weight.double(), was.bias.double()
    now.weight.fill_(1)
    now.bias.copy_(stream.up @ (bias / gain))
    return replace(stream, up=stream.up / gain, down=gain[:, None] * stream.down)


def _norm(was: Any, now: Any, space: Space) -> None:
    for name, beside in (("weight", 1.0), ("bias", 0.0)):
        old = getattr(was, name).double()
        getattr(now, name).copy_(space.up @ old + beside * space.rest.diagonal())


def _linear(was: Any, now: Any, given: Space, made: Space) -> None:
    """A linear layer or a convolution. It keeps what it was initialized with where that does not show."""
    start = now.weight.double().flatten(2) if now.weight.ndim > 2 else now.weight.double()[..., None]
    old = was.weight.double().reshape(*was.weight.shape[:2], -1)
    weight = torch.einsum("mn,nik,ij->mjk", made.up, old, given.down)
    if given.silent:
        weight += torch.einsum("mik,ij->mjk", start, given.rest)
    elif not made.silent:
        weight += torch.einsum("mn,nik->mik", made.rest, start)
    now.weight.copy_(weight.reshape(now.weight.shape))
    if was.bias is not None:
        now.bias.copy_(made.up @ was.bias.double())


def wider(unet: UNetConfig, channels: int) -> UNetConfig:
    """The configuration with so many channels, in more heads and groups. Raises UsageError where these do not fit."""
    if channels % unet.head_channels or set(unet.channel_mult) != {1}:
        raise UsageError(f"channels must be a multiple of {unet.head_channels}, the same at all levels")
    of_group = unet.model_channels // unet.norm_groups
    return replace(
        unet,
        model_channels=channels,
        norm_groups=channels // of_group,
        init_attn_heads=channels // unet.head_channels,
        time_channels=unet.embedding_channels,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dcrafter.tiny.widen", description="Widen a trained denoiser.")
    parser.add_argument("old", type=Path, metavar="OLD", help="a checkpoint of the built-in model")
    parser.add_argument("new", type=Path, metavar="NEW", help="the file to write")
    parser.add_argument("--channels", type=int, default=160, help="of the UNet")
    arguments = parser.parse_args()
    with exit_on_error("dcrafter.tiny.widen"):
        checkpoint = open_checkpoint(arguments.old, model="tiny")
        config = replace(checkpoint.config, unet=wider(checkpoint.config.unet, arguments.channels))
        torch.manual_seed(0)
        narrow, wide = UNet3D(checkpoint.config.unet), UNet3D(config.unet)
        of_unet = {name.removeprefix("unet."): value.float() for name, value in checkpoint.tensors.items()
                   if name.startswith("unet.")}  # fmt: skip
        narrow.load_state_dict(of_unet)
        widen(narrow, wide)
        widened = {f"unet.{name}": value.half() for name, value in wide.state_dict().items()}
        save_checkpoint({**checkpoint.tensors, **widened}, config, arguments.new)


if __name__ == "__main__":
    main()
