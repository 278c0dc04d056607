"""OpenCLIP's two towers, read where DynamiCrafter reads them, and the picture's way into the image tower.

open_clip_torch builds the towers (arXiv 2103.00020); any size will do. The text is taken behind the last block
but one, the image as all tokens behind the last block.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from dcrafter.config import CLIPConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class TextEncoder(TextTransformer):  # type: ignore[misc]
    """Tokens (B, L) → penultimate features with the final layer norm, (B, L, width)."""

    def __init__(self, config: CLIPConfig) -> None:
        text = config.text
        super().__init__(
            context_length=text.context_length,
            vocab_size=text.vocab_size,
            width=text.width,
            heads=text.heads,
            layers=text.layers,
            mlp_ratio=text.mlp_ratio,
            output_dim=config.embed_dim,
        )
        self.attn_mask = None  # made when needed: it is no weight, and would stay behind on the meta device
        self.logit_scale = nn.Parameter(torch.full((), math.log(1 / 0.07)))

    def forward(self, tokens: Tensor) -> Tensor:
        _, (penultimate,) = self._blocks(tokens, indices=[-2], stop_early=True)
        return self.ln_final(penultimate)

    def similarity_features(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) → CLIP's text features (B, embed_dim), not normalised."""
        x, _ = self._blocks(tokens, indices=[-1], stop_early=False)
        end_of_text = tokens.argmax(dim=-1)  # the highest token
        return self.ln_final(x)[torch.arange(len(x)), end_of_text] @ self.text_projection

    def _blocks(self, tokens: Tensor, indices: list[int], stop_early: bool) -> tuple[Tensor, list[Tensor]]:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        mask = torch.full(2 * x.shape[1:2], -torch.inf, device=x.device, dtype=x.dtype).triu(1)
        return self.transformer.forward_intermediates(x, attn_mask=mask, indices=indices, stop_early=stop_early)


class ImageEncoder(VisionTransformer):  # type: ignore[misc]
    """CLIP pixels (B, 3, S, S) → all tokens behind the last block, class token first, (B, K+1, width)."""

    def __init__(self, config: CLIPConfig) -> None:
        vision = config.vision
        super().__init__(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            width=vision.width,
            layers=vision.layers,
            heads=vision.width // vision.head_width,
            mlp_ratio=vision.mlp_ratio,
            output_dim=config.embed_dim,
        )

    def forward(self, pixels: Tensor) -> Tensor:
        out = self.forward_intermediates(
            pixels.to(self.conv1.weight.dtype),
            indices=1,
            output_fmt="NLC",
            intermediates_only=True,
            output_extra_tokens=True,
        )
        return torch.cat(out["image_intermediates_prefix"] + out["image_intermediates"], dim=1)

    def similarity_features(self, tokens: Tensor) -> Tensor:
        """The tokens that `forward` gives → CLIP's image features (B, embed_dim), not normalised."""
        return self.ln_post(tokens[:, 0]) @ self.proj


@functools.cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenize(texts: list[str], context_length: int = 77) -> Tensor:
    """→ (n, context_length) token ids, padded with 0. What does not fit is cut: see `is_cut`."""
    return _tokenizer()(texts, context_length)


def is_cut(text: str, context_length: int = 77) -> bool:
    """Whether a text has more tokens than the tower reads (start and end take two places)."""
    return len(_tokenizer().encode(text)) > context_length - 2


def clip_pixels(pixels: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] → (B, 3, size, size) normalised for the image tower, float32.

    The aspect ratio is not kept: bicubic with aligned corners, behind a Gaussian blur where an axis shrinks.
    """
    x = pixels.float()
    factors = [side / size for side in x.shape[-2:]]
    if max(factors) > 1:
        for axis, factor in zip((-2, -1), factors, strict=True):
            x = _gaussian_blur(x, max((factor - 1) / 2, 0.001), axis)
    x = F.interpolate(x, (size, size), mode="bicubic", align_corners=True)
    mean, std = (x.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((x + 1) / 2 - mean) / std


def _gaussian_blur(x: Tensor, sigma: float, axis: int) -> Tensor:
    """Along one axis (-2 or -1) of (B, C, H, W), with reflected borders."""
    kernel = int(max(4 * sigma, 3))
    radius = (kernel + 1 - kernel % 2) // 2
    positions = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-(positions**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    across = axis == -1
    x = F.pad(x, (radius, radius, 0, 0) if across else (0, 0, radius, radius), mode="reflect")
    shape = (1, 1, 1, -1) if across else (1, 1, -1, 1)
    channels = x.shape[1]
    return F.conv2d(x, weights.view(shape).expand(channels, *(-1,) * 3), groups=channels)
