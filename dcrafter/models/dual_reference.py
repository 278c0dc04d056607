"""ToonCrafter's autoencoder (arXiv 2405.17933): decodes over time, with detail from a first and a last image.

The frames of a clip are a list that each step replaces one by one, so that what is largest is in memory twice at most:
as it is, and between the two convolutions over time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dcrafter.config import AutoencoderConfig
from dcrafter.generators import Returning, drain
from dcrafter.models.autoencoder import AutoencoderKL, Decoder, DecodingStep, Level, ResnetBlock, group_norm
from dcrafter.models.layers import Attention, attention

QUERIES = 1024  # attended at once: some devices hold all scores in memory


class TimeNorm(nn.GroupNorm):
    """GroupNorm with the statistics of all T frames, each (1, C, h, w)."""

    def forward(self, frames: Sequence[Tensor]) -> Iterator[Tensor]:  # type: ignore[override]
        grouped = (frame.float().reshape(self.num_groups, -1) for frame in frames)
        moments = [torch.var_mean(group, dim=1, correction=0) for group in grouped]
        var, mean = (torch.stack(each) for each in zip(*moments, strict=True))  # (T, groups)
        var, mean = var.mean(0) + mean.var(0, correction=0), mean.mean(0)

        def per_channel(x: Tensor) -> Tensor:
            return x.repeat_interleave(self.num_channels // self.num_groups)[:, None, None]

        scale = per_channel((var + self.eps).rsqrt()) * self.weight[:, None, None]  # (C, 1, 1), float32
        shift = self.bias[:, None, None] - per_channel(mean) * scale
        for frame in frames:
            yield (frame * scale + shift).to(frame.dtype)


class TimeConv(nn.Conv1d):
    """A convolution over three of T frames, each (1, C, h, w), at every position; zeros beyond the ends."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:  # type: ignore[override]
        weight = rearrange(self.weight, "o i k -> o (k i) 1 1")
        coming = iter(frames)
        here = next(coming)
        before = nothing = torch.zeros_like(here)
        for after in chain(coming, [nothing]):
            yield F.conv2d(torch.cat([before, here, after], dim=1), weight, self.bias)
            before, here = here, after


class VideoBlock(ResnetBlock):
    """A residual block of each frame, then one over time, mixed in by a learned factor."""

    def __init__(self, in_channels: int, out_channels: int, config: AutoencoderConfig) -> None:
        super().__init__(in_channels, out_channels, config)
        self.time_norm1, self.time_norm2 = (TimeNorm(config.norm_groups, out_channels) for _ in range(2))
        self.time_conv1, self.time_conv2 = (TimeConv(out_channels) for _ in range(2))
        self.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, frames: list[Tensor], *before: Callable[[Tensor], Tensor]) -> None:  # type: ignore[override]
        """Replace frames, each (1, C, h, w) after what is to be done `before`.

        Frame by frame: enlarged ones with the channels of the level below are larger than any that are kept.
        """
        replace(frames, *before, super().forward)
        hidden = [*self.time_conv1(map(F.silu, self.time_norm1(frames)))]
        share = self.mix_factor.sigmoid()
        for t, change in enumerate(self.time_conv2(map(F.silu, self.time_norm2(hidden)))):
            frames[t] = frames[t] + share * change


class Combiner(nn.Module):
    """Adds a reference to the frame that shows it."""

    def __init__(self, channels: int, reference_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(reference_channels, channels, 1)

    def prepare(self, features: Tensor) -> Tensor:
        """What `forward` takes, of the features (2, C', h, w) of first and last image."""
        return self.conv(features)

    def forward(self, frames: list[Tensor], prepared: Tensor) -> None:
        """Replace frames, each (1, C, h, w)."""
        frames[0] = frames[0] + prepared[:1]
        frames[-1] = frames[-1] + prepared[1:]


class ReferenceAttention(Attention):
    """Attention of every frame's positions to those of both references."""

    def __init__(self, channels: int, reference_channels: int, config: AutoencoderConfig) -> None:
        assert config.references is not None
        heads, head_channels = config.references.heads, config.references.head_channels
        super().__init__(channels, heads, head_channels, context_dim=reference_channels)
        self.norm = group_norm(channels, config)

    def prepare(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (1, 2·h·w, heads·d), the same for all frames, of features (2, C', h, w)."""
        tokens = rearrange(features, "n c h w -> 1 (n h w) c")
        return self.to_k(tokens), self.to_v(tokens)

    def forward(self, frames: list[Tensor], prepared: tuple[Tensor, Tensor]) -> None:  # type: ignore[override]
        """Replace frames, each (1, C, h, w)."""
        for t, frame in enumerate(frames):
            q = self.to_q(rearrange(self.norm(frame), "n c h w -> n (h w) c").contiguous())
            out = torch.cat([attention(some, *prepared, self.heads) for some in q.split(QUERIES, dim=1)], dim=1)
            frames[t] = frame + rearrange(self.to_out(out), "n (h w) c -> n c h w", h=frame.shape[-2])


class DualReferenceDecoder(Decoder):
    """A decoder of clips; `forward` of its parent is not used."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config, VideoBlock)
        assert config.references is not None
        self.refinements = nn.ModuleList()  # by level, and last the one before the output
        for level, mult in enumerate(config.channel_mult):
            width, reference_width = config.decoder_channels * mult, config.channels * mult
            attends = level in config.references.attention_levels
            self.refinements.append(
                ReferenceAttention(width, reference_width, config) if attends else Combiner(width, reference_width)
            )
        self.refinements.append(Combiner(self.conv_out.in_channels, config.channels))
        self.time_mix = TimeConv(self.conv_out.out_channels)
        self.steps = 1 + len(config.channel_mult) * config.decoder_res_blocks  # that `decode` yields

    def prepare(self, features: Sequence[Tensor]) -> list[Any]:
        """What `decode` takes of references' features: once for all that is decoded beside them."""
        refinements = cast(Iterable[Combiner | ReferenceAttention], self.refinements)
        return [refinement.prepare(each) for refinement, each in zip(refinements, features, strict=True)]

    def decode(self, z: Tensor, prepared: Sequence[Any] | None = None) -> Generator[Tensor, None, Tensor]:
        """Decode one clip, latents (T, latent_channels, h, w) → (T, 3, H, W). Without references nothing is refined.

        Yields:
            The first frame as it is after each step, so that a caller may look at it.
        """
        frames = [*torch.split(z, 1)]
        first, attend, second = self.middle
        first(frames, self.conv_in)
        second(frames, attend)
        yield frames[0]
        resample: nn.Module = nn.Identity()
        for number, level in reversed([*enumerate(cast(Iterable[Level], self.levels))]):
            for block in level.blocks:
                block(frames, resample)
                resample = nn.Identity()
                yield frames[0]
            resample = level.resample
            if prepared is not None:
                self.refinements[number](frames, prepared[number])
        replace(frames, self.norm_out, F.silu)
        if prepared is not None:
            self.refinements[-1](frames, prepared[-1])
        replace(frames, self.conv_out)
        return F.pixel_shuffle(torch.cat([*self.time_mix(frames)]), self.fold)


class DualReferenceAutoencoder(AutoencoderKL):
    """AutoencoderKL whose decoder sees clips and references. It leaves out `post_quant_conv`, as published."""

    decoder: DualReferenceDecoder

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config, DualReferenceDecoder(config))

    def reference_features(self, images: Tensor) -> list[Tensor]:
        """(2, 3, H, W) in [-1, 1] → what the encoder has of each level, (2, C, h, w), and last of its first layer."""
        images = images.to(self.quant_conv.weight)
        first = self.encoder.conv_in(F.pixel_unshuffle(images, self.encoder.fold))
        features, h = [], first
        for level in cast(Iterable[Level], self.encoder.levels):
            features.append(level.blocks(h))
            h = level.resample(features[-1])
        return [*features, first]

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (n, C, h, w) → pixels (n, 3, H, W), each a clip of its own, without references."""
        return torch.cat([drain(self.decoder.decode(z)) for z in torch.split(self.unscaled(latents), 1)])

    def decode_clips(
        self, latents: Tensor, kept: Sequence[int], references: Tensor | None = None
    ) -> Iterator[DecodingStep]:
        """See `AutoencoderKL.decode_clips`. All frames are decoded, whichever are kept: they are one clip."""
        clips = rearrange(self.unscaled(latents), "b c t h w -> b t c h w")
        total = len(clips) * passes(clips.shape[1]) * self.decoder.steps + 1
        done, decoded = 0, []
        for number, z in enumerate(clips):
            prepared = None
            if references is not None:
                prepared = self.decoder.prepare(self.reference_features(references[number]))
            clip = Returning(self._decode_twice(z, prepared))
            for frame in clip:
                done += 1
                yield DecodingStep(done, total, frame)
            decoded.append(clip.value[[*kept]].float().cpu())
        yield DecodingStep(total, total, rearrange(torch.stack(decoded), "b t c h w -> b c t h w"))

    def _decode_twice(self, z: Tensor, prepared: Sequence[Any] | None) -> Generator[Tensor, None, Tensor]:
        """As published: without the second frame and the last but one once more, from where the middle two come."""
        clip = yield from self.decoder.decode(z, prepared)
        if passes(len(z)) == 2:
            others, middle = [0, *range(2, len(z) - 2), len(z) - 1], len(z) // 2
            again = yield from self.decoder.decode(z[others], prepared)
            clip[middle - 1 : middle + 1] = again[middle - 2 : middle]
        return clip


def passes(frames: int) -> int:
    """How often a clip of so many frames is decoded. Of fewer than six, the middle two would be those left out."""
    return 2 if frames >= 6 else 1


def replace(frames: list[Tensor], *functions: Callable[[Tensor], Tensor]) -> None:
    """Replace each frame by what functions make of it, one after the other."""
    for t, frame in enumerate(frames):
        for function in functions:
            frame = function(frame)
        frames[t] = frame
