"""The denoiser: a 3D UNet whose spatial layers see frames and whose temporal layers see positions.

Everything spatial runs on (F, C, h, w), where F = B·T holds the T frames of each of B videos in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dcrafter.config import UNetConfig
from dcrafter.models.layers import (
    Attention,
    DualCrossAttention,
    FeedForward,
    FrameAttention,
    TransformerBlock,
    Upsample,
    plus,
    silu,
    sinusoidal_embedding,
)

MAX_KINDS = 64  # of blocks to compile: of residual blocks a full-size UNet has 14, for each size of video


def clips(x: Tensor, frames: int) -> Tensor:
    """(F, C, h, w) → (B, C, T, h·w), without a copy: what is channels-last stays so, also where B is 1."""
    return rearrange(x, "(b t) c h w -> b t c (h w)", t=frames).transpose(1, 2)


class FrameConv(nn.Conv1d):
    """A convolution over three frames at every position: (B, C, T, n) → the same shape.

    A 3×1 two-dimensional one, of which every device has a fast kernel; the paper's code writes it as 3×1×1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[..., None], self.bias, padding=(1, 0))


class TemporalConv(nn.Module):
    """Four times [GroupNorm over (C, T, h, w), SiLU, convolution over three frames], one residual around."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.enabled = True
        self.norms = nn.ModuleList(nn.GroupNorm(groups, channels) for _ in range(4))
        self.convs = nn.ModuleList(FrameConv(channels) for _ in range(4))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(F, C, h, w) → (F, C, h, w)."""
        if not self.enabled:
            return x
        height = x.shape[-2]
        h = x = clips(x, frames)
        for norm, conv in zip(self.norms[:-1], self.convs[:-1], strict=True):
            h = conv(silu(norm(h)))
        h = plus(x, self.convs[-1], silu(self.norms[-1](h)))
        return rearrange(h, "b c t (h w) -> (b t) c h w", h=height)


class SpatialResBlock(nn.Module):
    """Two 3×3 convolutions with the time embedding between them."""

    def __init__(self, in_channels: int, out_channels: int, embed_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embed_dim, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor, frames: int) -> Tensor:
        """x (F, C, h, w), emb (B, E) → (F, C', h, w)."""
        h = self.conv1(silu(self.norm1(x)))
        h += self.embed(F.silu(emb)).repeat_interleave(frames, 0)[:, :, None, None]  # (F, C', 1, 1)
        return plus(self.skip(x), self.conv2, silu(self.norm2(h)))


class ResBlock(SpatialResBlock):
    """Two 3×3 convolutions with the time embedding between them, then the temporal convolutions."""

    def __init__(self, in_channels: int, out_channels: int, embed_dim: int, groups: int) -> None:
        super().__init__(in_channels, out_channels, embed_dim, groups)
        self.temporal_conv = TemporalConv(out_channels, groups)

    def forward(self, x: Tensor, emb: Tensor, frames: int) -> Tensor:
        """x (F, C, h, w), emb (B, E) → (F, C', h, w)."""
        return self.temporal_conv(super().forward(x, emb, frames), frames)


def dual_attention(channels: int, config: UNetConfig) -> DualCrossAttention:
    """To text and image, of a layer of so many channels."""
    d = config.head_channels
    return DualCrossAttention(channels, channels // d, d, config.context_dim, config.learnable_image_scale)


class SpatialTransformer(nn.Module):
    """Attention among the positions of each frame, and to the contexts: of text and image, or of another kind."""

    def __init__(
        self, channels: int, config: UNetConfig, to_context: Callable[[int, UNetConfig], Attention] = dual_attention
    ) -> None:
        super().__init__()
        heads, d = channels // config.head_channels, config.head_channels
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, Attention(channels, heads, d), to_context(channels, config))
            for _ in range(config.transformer_depth)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, *contexts: Tensor) -> Tensor:
        """x (F, C, h, w), text (B, L, D), image (B or F, M, D) → (F, C, h, w)."""
        # Contiguous, here and below: a linear layer takes a strided view apart into slices.
        h = self.proj_in(rearrange(self.norm(x), "f c h w -> f (h w) c").contiguous())
        for block in self.blocks:
            h = block(h, *contexts)
        out = plus(rearrange(x, "f c h w -> f (h w) c"), self.proj_out, h)
        return rearrange(out, "f (h w) c -> f c h w", h=x.shape[-2])


class TemporalTransformer(nn.Module):
    """Attention among the frames at each position, twice; no positions, no mask."""

    def __init__(self, channels: int, heads: int, config: UNetConfig) -> None:
        super().__init__()
        self.enabled = True
        d = config.head_channels
        inner = heads * d
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner)
        self.blocks = nn.ModuleList(
            TransformerBlock(inner, FrameAttention(inner, heads, d), FrameAttention(inner, heads, d))
            for _ in range(config.transformer_depth)
        )
        self.proj_out = nn.Linear(inner, channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(F, C, h, w) → (F, C, h, w)."""
        if not self.enabled:
            return x
        h = self.proj_in(rearrange(self.norm(clips(x, frames)), "b c t n -> b t n c").contiguous())
        for block in self.blocks:
            h = block(h)
        out = plus(rearrange(x, "(b t) c h w -> b t (h w) c", t=frames), self.proj_out, h)
        return rearrange(out, "b t (h w) c -> (b t) c h w", h=x.shape[-2])


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNetStage(nn.Module):
    """A residual block, then a spatial and a temporal transformer where the level has them, then maybe a ×2."""

    def __init__(
        self, in_channels: int, channels: int, config: UNetConfig, attention: bool, upsample: bool = False
    ) -> None:
        super().__init__()
        heads = channels // config.head_channels
        self.res = ResBlock(in_channels, channels, 4 * config.model_channels, config.norm_groups)
        self.spatial = SpatialTransformer(channels, config) if attention else None
        self.temporal = TemporalTransformer(channels, heads, config) if attention else None
        self.up = Upsample(channels) if upsample else None

    def forward(self, x: Tensor, emb: Tensor, text: Tensor, image: Tensor, frames: int) -> Tensor:
        """x (F, C, h, w), emb (B, E), text (B, L, D), image (B or F, M, D) → (F, C', h or 2h, w or 2w)."""
        x = self.res(x, emb, frames)
        if self.spatial is not None and self.temporal is not None:
            x = self.temporal(self.spatial(x, text, image), frames)
        return x if self.up is None else self.up(x)


class Middle(nn.Module):
    """Residual block, spatial transformer, temporal transformer, residual block."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.stage = UNetStage(channels, channels, config, attention=True)
        self.res = ResBlock(channels, channels, 4 * config.model_channels, config.norm_groups)

    def forward(self, x: Tensor, emb: Tensor, text: Tensor, image: Tensor, frames: int) -> Tensor:
        return self.res(self.stage(x, emb, text, image, frames), emb, frames)


def embedding(channels: int, width: int) -> nn.Sequential:
    """From a sinusoidal embedding to what residual blocks take."""
    return nn.Sequential(nn.Linear(channels, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))


@dataclass(eq=False)
class DeepFeatures:
    """What comes up from the UNet's deep blocks, kept from one evaluation for others (arXiv 2312.00858)."""

    anew: bool = True  # the deep blocks are to be evaluated, whatever is kept
    features: Tensor | None = None  # (F, C, h, w)


class UNet3D(nn.Module):
    """Predicts the noise, or v, in a noisy latent video (paper, equation 1)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_channels
        self.time_embed = embedding(config.embedding_channels, width)
        self.fs_embed = embedding(config.embedding_channels, width)
        self.conv_in = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.init_attn = TemporalTransformer(width, config.init_attn_heads, config)

        self.encoder = nn.ModuleList()
        channels, skips = width, [width]
        last = len(config.channel_mult) - 1
        for level, mult in enumerate(config.channel_mult):
            attention = 2**level in config.attention_resolutions
            for _ in range(config.num_res_blocks):
                self.encoder.append(UNetStage(channels, mult * width, config, attention))
                channels = mult * width
                skips.append(channels)
            if level < last:
                self.encoder.append(Downsample(channels))
                skips.append(channels)
        self.middle = Middle(channels, config)
        self.decoder = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            attention = 2**level in config.attention_resolutions
            for i in range(config.num_res_blocks + 1):
                up = level > 0 and i == config.num_res_blocks
                self.decoder.append(UNetStage(channels + skips.pop(), mult * width, config, attention, up))
                channels = mult * width

        self.norm_out = nn.GroupNorm(config.norm_groups, width)
        self.conv_out = nn.Conv2d(width, config.out_channels, 3, padding=1)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor,
        image: Tensor,
        fs: Tensor,
        residuals: Sequence[Tensor] = (),
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """One evaluation.

        Args:
            x: (B, C_in, T, h, w), the noisy latent with the image latent behind it in the channels.
            t: (B,) timesteps, 0…999. fs: (B,) the motion condition.
            text: (B, L, D). image: (B, M, D); where M is `image_tokens_per_frame`·T each frame sees its own
                tokens, else every frame sees all of them.
            residuals: what is added to each skip connection, and last to the middle's output, if anything.
            deep: what an earlier evaluation kept of its deep blocks, or where this one is to keep it. All but the
                decoder's last `num_res_blocks` blocks, and those whose skips they take, are deep.

        Returns:
            (B, C_out, T, h, w): the prediction, eps or v.
        """
        frames, dtype = x.shape[2], self.conv_in.weight.dtype
        channels, per_frame = self.config.embedding_channels, self.config.image_tokens_per_frame
        emb = self.time_embed(sinusoidal_embedding(t, channels).to(dtype))  # (B, 4·width)
        emb = emb + self.fs_embed(sinusoidal_embedding(fs, channels).to(dtype))
        text, image = text.to(dtype), image.to(dtype)
        if image.shape[1] == per_frame * frames:
            image = rearrange(image, "b (t m) d -> (b t) m d", t=frames)

        h = self.conv_in(rearrange(x.to(dtype), "b c t h w -> (b t) c h w"))
        h = self.init_attn(h, frames)
        near = self.config.num_res_blocks
        kept = None if deep is None or deep.anew else deep.features
        skips = [h]
        for block in self.encoder if kept is None else self.encoder[: near - 1]:
            h = block(h) if isinstance(block, Downsample) else block(h, emb, text, image, frames)
            skips.append(h)
        if residuals:
            skips = [skip + each for skip, each in zip(skips, residuals[:-1], strict=kept is None)]
        if kept is None:
            h = self.middle(h, emb, text, image, frames)
            if residuals:
                h = h + residuals[-1]
            for block in self.decoder[:-near]:
                h = block(torch.cat([h, skips.pop()], dim=1), emb, text, image, frames)
            if deep is not None:
                deep.features = h
        else:
            h = kept.to(dtype)
        for block in self.decoder[-near:]:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, text, image, frames)
        h = self.conv_out(silu(self.norm_out(h)))
        return rearrange(h, "(b t) c h w -> b c t h w", t=frames)

    def dual_attentions(self) -> list[DualCrossAttention]:
        """The dual cross-attention layers in the paper's numbering: down, middle, up."""
        return [module for module in self.modules() if isinstance(module, DualCrossAttention)]

    def set_context_scale(self, scales: Sequence[float]) -> None:
        """Multiply λ layer by layer (paper, figure 2a). Raises ValueError if there is not one per layer."""
        for layer, scale in zip(self.dual_attentions(), scales, strict=True):
            layer.context_scale = scale

    def set_temporal(self, enabled: bool) -> None:
        """Without its temporal layers this is a text-to-image model, each frame by itself (paper, section 3.3)."""
        for module in self.modules():
            if isinstance(module, TemporalConv | TemporalTransformer):
                module.enabled = enabled

    def set_slices(self, slices: int) -> None:
        """Feed-forward layers, whose hidden values take the most memory, work in so many parts one after another."""
        for module in self.modules():
            if isinstance(module, FeedForward):
                module.slices = slices

    def compile_blocks(self, **options: Any) -> None:
        """Have torch.compile translate residual blocks and transformers, each kind once, in the first evaluation.

        Blocks of one kind and size share the result: some twenty small graphs in place of one of fifty blocks, and
        whatever loads a block's weights right before it runs stays outside. `options` are torch.compile's.
        """
        from torch._dynamo import config  # which takes a second

        config.recompile_limit = max(config.recompile_limit, MAX_KINDS)
        for module in self.modules():
            if isinstance(module, ResBlock | SpatialTransformer | TemporalTransformer):
                module.compile(dynamic=False, **options)

    def blocks(self) -> dict[str, nn.Module]:
        """The parts by name that run one after another, in this order, and hold nearly all weights."""
        encoder, decoder = (
            {f"{name}.{i}": block for i, block in enumerate(half)}
            for name, half in (("encoder", self.encoder), ("decoder", self.decoder))
        )
        return {**encoder, "middle": self.middle, **decoder}
