"""The five components together, and the steps that lead through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dcrafter.config import ModelConfig
from dcrafter.models.autoencoder import AutoencoderKL, DecodingStep
from dcrafter.models.clip import ImageEncoder, TextEncoder, clip_pixels
from dcrafter.models.dual_reference import DualReferenceAutoencoder
from dcrafter.models.projector import QueryTransformer
from dcrafter.models.reference_decoder import Reference, compose
from dcrafter.models.sketch_encoder import SketchEncoder
from dcrafter.models.unet import DeepFeatures, UNet3D


@dataclass(frozen=True, eq=False)
class References:
    """Images that a decoder may take detail from, the same number n for each of B videos."""

    images: Tensor  # (B, n, 3, H, W) in [-1, 1], at the output size
    frames: tuple[int | None, ...]  # n: the frame of the clip (T for the one after its last) that shows it, if any
    closeups: Tensor | None = None  # (B, n, 3, 2H, 2W) in [-1, 1], for what the clip zooms in on


class _Uninitialized(TorchFunctionMode):
    """Skip random initialization: for tensors on meta PyTorch would import its compiler, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):  # torch.nn.init's and torch.Tensor's
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class DynamiCrafter(nn.Module):
    """A model whole (paper, figure 1). Its children are the components; a checkpoint may fill them singly.

    There may be a sketch encoder beside them. Each step runs in the type and on the device of the component that it
    needs, and returns float32.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = TextEncoder(config.clip)
        self.image_encoder = ImageEncoder(config.clip)
        self.projector = QueryTransformer(config.projector)
        kind = AutoencoderKL if config.autoencoder.references is None else DualReferenceAutoencoder
        self.autoencoder: AutoencoderKL = kind(config.autoencoder)
        self.unet = UNet3D(config.unet)
        self.sketch_encoder: SketchEncoder | None = None

    @classmethod
    def on_meta(cls, config: ModelConfig) -> DynamiCrafter:
        """The structure without any memory for weights."""
        with torch.device("meta"), _Uninitialized():
            return cls(config).eval().requires_grad_(False)

    def add_sketch_encoder(self) -> SketchEncoder:
        """Give it the structure of a sketch encoder, without any memory for weights."""
        with torch.device("meta"), _Uninitialized():
            self.sketch_encoder = SketchEncoder(self.config.unet).eval().requires_grad_(False)
        return self.sketch_encoder

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) token ids → text context (B, L, D). Uses text_encoder."""
        return self.text_encoder(tokens).float()

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → image context (B, queries, D). Uses image_encoder and projector.

        All zeros (mid-grey) gives the unconditional context.
        """
        tokens = self.image_encoder(clip_pixels(pixels, self.config.clip.vision.image_size))
        return self.projector(tokens if self.config.projector.tokens == "all" else tokens[:, :1]).float()

    def encode_frames(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """(n, 3, H, W) in [-1, 1] and one posterior draw each (n, C, h, w) → latents. Uses autoencoder."""
        return self.autoencoder.encode(pixels, noise)

    def denoise(
        self,
        x_t: Tensor,
        t: Tensor,
        text: Tensor,
        image: Tensor,
        concat_latents: Tensor,
        fs: Tensor,
        residuals: Sequence[Tensor] = (),
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """One evaluation: x_t and concat_latents (B, C, T, h, w), t and fs (B,) → eps or v. Uses unet."""
        return self.unet(torch.cat([x_t, concat_latents], dim=1), t, text, image, fs, residuals, deep).float()

    def follow_sketch(
        self, x_t: Tensor, t: Tensor, text: Tensor, image: Tensor, sketch: Tensor, scale: float
    ) -> list[Tensor]:
        """`denoise`'s residuals for a sketch (B, 1, T, H, W), of lines 1 on paper 0. Uses sketch_encoder."""
        assert self.sketch_encoder is not None
        added = self.sketch_encoder(x_t, t, torch.cat([text, image], dim=1), sketch)
        return [scale * each for each in added]

    def decode(self, latents: Tensor) -> Tensor:
        """(n, C, h, w) → pixels (n, 3, H, W), clamped to [-1, 1]. Uses autoencoder."""
        return self.autoencoder.decode(latents).float().clamp(-1, 1)

    def decode_clips(
        self, latents: Tensor, kept: Sequence[int] | None = None, references: References | None = None
    ) -> Iterator[DecodingStep]:
        """Decode videos. Uses autoencoder.

        Args:
            latents: (B, C, T, h, w).
            kept: which n of the frames are wanted; by default all.
            references: what the videos were made from. Without them frames have less detail, or a smaller size.

        Yields:
            Each step; the output of the last is (B, 3, n, H, W) in [-1, 1], float32 on the CPU.
        """
        kept = range(latents.shape[2]) if kept is None else kept
        for step in self.autoencoder.decode_clips(latents, kept, None if references is None else references.images):
            if step.done < step.total:
                yield step
        videos = step.output.clamp(-1, 1)
        if references is not None and self.config.output_scale > 1:
            videos = self.refine(videos, references)
        yield step._replace(output=videos)

    def refine(self, frames: Tensor, references: References) -> Tensor:
        """Decoded clips (B, 3, T, h, w) in [-1, 1] → at the output size, with detail of the references."""
        clips = []
        closeups = references.images if references.closeups is None else references.closeups
        for clip, images, larger in zip(frames, references.images, closeups, strict=True):
            coarse = clip.transpose(0, 1).add(1) / 2
            used = []
            for image, closeup, frame in zip(images[:, None], larger[:, None], references.frames, strict=True):
                # The frame after a loop's last is its first again.
                shown = self._coarse(image) if frame is None else coarse[frame % len(coarse)][None]
                used.append(Reference((image + 1) / 2, shown, frame, (closeup + 1) / 2))
            clips.append(compose(coarse, used).mul(2).sub(1).transpose(0, 1))
        return torch.stack(clips)

    def _coarse(self, image: Tensor) -> Tensor:
        """An image (1, 3, H, W) in [-1, 1] at the output size → its decoding at the input's, (1, 3, h, w) in [0, 1]."""
        small = F.avg_pool2d(image, self.config.output_scale).to(self.autoencoder.quant_conv.weight.device)
        factor = self.config.autoencoder.downsampling
        noise = small.new_zeros(
            1, self.config.autoencoder.latent_channels, small.shape[-2] // factor, small.shape[-1] // factor
        )
        return ((self.decode(self.encode_frames(small, noise)) + 1) / 2).to(image)


def detail_guidance(latents: Tensor, frames: int) -> Tensor:
    """Visual detail guidance (paper, section 3.2): what is concatenated to the noisy latent.

    (1, C, h, w), the picture's latent → (1, C, T, h, w), repeated over the frames.
    (2, C, h, w), first and last frame → the same, zero between them (paper, section 6).
    """
    if len(latents) == 1:
        return repeat(latents, "b c h w -> b c t h w", t=frames)
    first, last = latents
    between = torch.zeros_like(first)[:, None].expand(-1, frames - 2, -1, -1)
    return torch.cat([first[:, None], between, last[:, None]], dim=1)[None]
