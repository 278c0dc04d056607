"""AutoencoderKL (arXiv 2112.10752): frames to latents and back, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dcrafter.config import AutoencoderConfig
from dcrafter.models.layers import Upsample, attention, plus, silu
from dcrafter.models.strips import in_strips, norm_silu


def group_norm(channels: int, config: AutoencoderConfig) -> nn.GroupNorm:
    return nn.GroupNorm(config.norm_groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, config)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, config)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = norm_silu(self.norm1, x)
        h = in_strips(lambda x: self.conv1(first(x)), x)
        second = norm_silu(self.norm2, h)
        return in_strips(lambda h, x: plus(self.shortcut(x), self.conv2, second(h)), h, x)


class AttentionBlock(nn.Module):
    """Single-head self-attention among the positions."""

    def __init__(self, channels: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.norm = group_norm(channels, config)
        self.q, self.k, self.v, self.proj_out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = rearrange(self.norm(x), "b c h w -> b (h w) c").contiguous()
        h = attention(self.q(h), self.k(h), self.v(h), heads=1)
        out = plus(rearrange(x, "b c h w -> b (h w) c"), self.proj_out, h)
        return rearrange(out, "b (h w) c -> b c h w", h=x.shape[-2])


class Downsample(nn.Module):
    """Halves the size; pads right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """Residual blocks at one size, then maybe a change of size."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        blocks: int,
        config: AutoencoderConfig,
        resample: nn.Module,
        block: type[ResnetBlock] = ResnetBlock,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(block(channels if i else in_channels, channels, config) for i in range(blocks)))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(self.blocks(x))


def middle(channels: int, config: AutoencoderConfig, block: type[ResnetBlock] = ResnetBlock) -> nn.Sequential:
    return nn.Sequential(
        block(channels, channels, config), AttentionBlock(channels, config), block(channels, channels, config)
    )


class Encoder(nn.Module):
    """(n, 3, H, W) → mean and log-variance (n, 2·latent_channels, h, w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in config.channel_mult]
        self.fold = config.fold
        self.conv_in = nn.Conv2d(3 * config.fold**2, config.channels, 3, padding=1)
        self.levels = nn.ModuleList()  # from the full size down
        for i, width in enumerate(widths):
            resample = Downsample(width) if i < len(widths) - 1 else nn.Identity()
            before = widths[i - 1] if i else config.channels
            self.levels.append(Level(before, width, config.num_res_blocks, config, resample))
        self.middle = middle(widths[-1], config)
        self.norm_out = group_norm(widths[-1], config)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(x, self.fold))
        for level in self.levels:
            h = level(h)
        return self.conv_out(silu(self.norm_out(self.middle(h))))


class Decoder(nn.Module):
    """(n, latent_channels, h, w) → (n, 3, H, W)."""

    def __init__(self, config: AutoencoderConfig, block: type[ResnetBlock] = ResnetBlock) -> None:
        super().__init__()
        widths = [config.decoder_channels * mult for mult in config.channel_mult]
        self.fold = config.fold
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.middle = middle(widths[-1], config, block)
        self.levels = nn.ModuleList()  # numbered like the encoder's, run from the smallest up
        for i, width in enumerate(widths):
            resample = Upsample(width) if i else nn.Identity()
            before = widths[min(i + 1, len(widths) - 1)]
            self.levels.append(Level(before, width, config.decoder_res_blocks, config, resample, block))
        self.norm_out = group_norm(widths[0], config)
        self.conv_out = nn.Conv2d(widths[0], 3 * config.fold**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.middle(self.conv_in(z))
        for level in reversed(cast(Sequence[Level], self.levels)):
            for block in (*level.blocks, level.resample):  # one by one, so that nothing else holds what goes in
                h = block(h)
        prepare = norm_silu(self.norm_out, h)
        return F.pixel_shuffle(in_strips(lambda h: self.conv_out(prepare(h)), h), self.fold)


class DecodingStep(NamedTuple):
    """Step `done` (from 1) of `total` is done; `output` is something of what it gave, or after the last the videos."""

    done: int
    total: int
    output: Tensor


class AutoencoderKL(nn.Module):
    """Both halves. Latents that leave and enter are scaled by `config.scale` to about unit variance."""

    def __init__(self, config: AutoencoderConfig, decoder: Decoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.frames_at_once = 1
        self.encoder = Encoder(config)
        self.decoder = decoder or Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def moments(self, x: Tensor) -> Tensor:
        """(n, 3, H, W) in [-1, 1] → mean and log-variance before their clamp, (n, 2C, h, w)."""
        return self.quant_conv(self.encoder(x.to(self.quant_conv.weight.dtype)))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, H, W) in [-1, 1] → mean and log-variance, each (n, C, h, w), before scaling."""
        mean, logvar = self.moments(x).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, x: Tensor, noise: Tensor) -> Tensor:
        """(n, 3, H, W) in [-1, 1] and standard normal noise (n, C, h, w) → scaled latents, float32."""
        mean, logvar = (moment.float() for moment in self.posterior(x))
        return (mean + torch.exp(0.5 * logvar) * noise) * self.config.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (n, C, h, w) → pixels (n, 3, H, W), about [-1, 1]."""
        return self.decoder(self.post_quant_conv(self.unscaled(latents)))

    def decode_clips(
        self, latents: Tensor, kept: Sequence[int], references: Tensor | None = None
    ) -> Iterator[DecodingStep]:
        """Decode videos, here `frames_at_once` by `frames_at_once`.

        Args:
            latents: scaled, (B, C, T, h, w).
            kept: which n of the T frames are wanted.
            references: each video's images, (B, 2, 3, H, W) in [-1, 1], for a decoder that sees them.

        Yields:
            Each step; the output of the last is (B, 3, n, H, W), about [-1, 1], float32 on the CPU.
        """
        frames: list[Tensor] = []
        for start in range(0, len(kept), self.frames_at_once):
            some = [latents[:, :, number] for number in kept[start : start + self.frames_at_once]]
            frames += self.decode(torch.cat(some)).float().cpu().chunk(len(some))
            if len(frames) < len(kept):
                yield DecodingStep(len(frames), len(kept), frames[-1])
        yield DecodingStep(len(kept), len(kept), torch.stack(frames, dim=2))

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents as the decoder takes them."""
        return (latents.float() / self.config.scale).to(self.quant_conv.weight.dtype)
