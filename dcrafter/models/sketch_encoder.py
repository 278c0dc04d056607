"""ToonCrafter's sketch encoder (arXiv 2405.17933, section 3.4): line drawings to what is added within the UNet.

A ControlNet (arXiv 2302.05543) that was trained from Stable Diffusion 2.1, for each frame by itself. The authors
published its weights without code: keys and shapes are the weights', the network is ControlNet's, and what it is given
is what the implementation gives it that they name (github.com/mattyamonaca/ToonCrafter_with_SketchGuidance): the noisy
latent alone, and text and image tokens as one context, the same for all frames.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from dcrafter.config import UNetConfig
from dcrafter.models.layers import CrossAttention, sinusoidal_embedding
from dcrafter.models.unet import Downsample, SpatialResBlock, SpatialTransformer, embedding

HINT_CHANNELS = (1, 16, 16, 32, 32, 96, 96, 256)  # of a drawing on its way to latent size: every second step halves it


def to_tokens(channels: int, config: UNetConfig) -> CrossAttention:
    """Attention to all tokens together."""
    return CrossAttention(channels, channels // config.head_channels, config.head_channels, config.context_dim)


class SketchStage(nn.Module):
    """A residual block, then a spatial transformer where the level has one."""

    def __init__(self, in_channels: int, channels: int, config: UNetConfig, attention: bool) -> None:
        super().__init__()
        self.res = SpatialResBlock(in_channels, channels, 4 * config.model_channels, config.norm_groups)
        self.spatial = SpatialTransformer(channels, config, to_tokens) if attention else None

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, frames: int) -> Tensor:
        """x (F, C, h, w), emb (B, E), context (B, L, D) → (F, C', h, w)."""
        x = self.res(x, emb, frames)
        return x if self.spatial is None else self.spatial(x, context)


class SketchMiddle(nn.Module):
    """Residual block, spatial transformer, residual block."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.stage = SketchStage(channels, channels, config, attention=True)
        self.res = SpatialResBlock(channels, channels, 4 * config.model_channels, config.norm_groups)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, frames: int) -> Tensor:
        return self.res(self.stage(x, emb, context, frames), emb, frames)


class SketchEncoder(nn.Module):
    """Gives what is added to each skip connection of the UNet of this configuration, and to its middle."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_channels
        self.time_embed = embedding(config.embedding_channels, width)
        self.hint = nn.Sequential()  # convolutions, numbered as published: a SiLU stands between each two
        for i, (before, after) in enumerate(zip(HINT_CHANNELS, (*HINT_CHANNELS[1:], width), strict=True)):
            if i:
                self.hint.append(nn.SiLU())
            stride = 2 if i in (2, 4, 6) else 1
            self.hint.append(nn.Conv2d(before, after, 3, stride=stride, padding=1))
        self.conv_in = nn.Conv2d(config.out_channels, width, 3, padding=1)

        self.encoder = nn.ModuleList()
        channels = [width]
        for level, mult in enumerate(config.channel_mult):
            attention = 2**level in config.attention_resolutions
            for _ in range(config.num_res_blocks):
                self.encoder.append(SketchStage(channels[-1], mult * width, config, attention))
                channels.append(mult * width)
            if level < len(config.channel_mult) - 1:
                self.encoder.append(Downsample(channels[-1]))
                channels.append(channels[-1])
        self.middle = SketchMiddle(channels[-1], config)
        self.outputs = nn.ModuleList(nn.Conv2d(each, each, 1) for each in channels)
        self.middle_output = nn.Conv2d(channels[-1], channels[-1], 1)

    def forward(self, x_t: Tensor, t: Tensor, context: Tensor, sketch: Tensor) -> list[Tensor]:
        """One evaluation.

        Args:
            x_t: (B, C, T, h, w), the noisy latent.
            t: (B,) timesteps, 0…999.
            context: (B, L, D), text and image tokens.
            sketch: (B, 1, T, H, W), lines 1 and paper 0. H and W are 8 times h and w.

        Returns:
            For each skip connection, in the order that the UNet makes them, and last for its middle: (B·T, C', h', w').
        """
        frames, dtype = x_t.shape[2], self.conv_in.weight.dtype
        emb = self.time_embed(sinusoidal_embedding(t, self.config.embedding_channels).to(dtype))  # (B, 4·width)
        context = context.to(dtype)
        x, drawings = (rearrange(each.to(dtype), "b c t h w -> (b t) c h w") for each in (x_t, sketch))
        h = self.conv_in(x) + self.hint(drawings)
        added = [self.outputs[0](h)]
        for block, output in zip(self.encoder, self.outputs[1:], strict=True):
            h = block(h) if isinstance(block, Downsample) else block(h, emb, context, frames)
            added.append(output(h))
        return [*added, self.middle_output(self.middle(h, emb, context, frames))]
