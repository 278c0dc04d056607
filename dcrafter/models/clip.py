"""CLIP's two towers (arXiv 2103.00020) of any size, and the way of images into the image tower.

DynamiCrafter reads the text behind the last block but one, and the image as all tokens behind the last block. Modules
are named as in OpenCLIP's checkpoints.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dcrafter.config import CLIPConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Block(nn.Module):
    """Attention and feed-forward layer, each behind a layer norm and beside a residual connection."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, hidden), gelu=nn.GELU(), c_proj=nn.Linear(hidden, width))
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, width) → the same; `mask` (L, L) is added to the attention scores."""
        x = x + self.attend(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention. The module's own forward multiplies a transposed x, and bfloat16 then copies its weights L
        times."""
        parts = F.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (rearrange(part, "b l (a d) -> b a l d", a=self.attn.num_heads) for part in parts)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.attn.out_proj(rearrange(out, "b a l d -> b l (a d)"))


class Transformer(nn.Module):
    """Blocks one after another."""

    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None, *, layers: int | None = None) -> Tensor:
        """(B, L, width) → the same, by the first `layers` blocks (all if None; negative counts from the end)."""
        for block in self.resblocks[:layers]:
            x = block(x, mask)
        return x


class Tower(nn.Module):
    """What both towers have."""

    transformer: Transformer

    def blocks(self) -> dict[str, nn.Module]:
        """The parts by name that run one after another and hold nearly all weights."""
        return {f"transformer.resblocks.{i}": block for i, block in enumerate(self.transformer.resblocks)}


class TextEncoder(Tower):
    """Tokens (B, L) → penultimate features with the final layer norm, (B, L, width)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        text = config.text
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.transformer = Transformer(text.width, text.layers, text.heads, text.mlp_ratio)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.full((), math.log(1 / 0.07)))
        self._initialize()

    def _initialize(self) -> None:
        """Random weights as CLIP's training begins with."""
        width, layers = self.text_projection.shape[0], len(self.transformer.resblocks)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        for block in self.transformer.resblocks:
            assert isinstance(block, Block)
            assert isinstance(block.mlp.c_fc, nn.Linear)
            assert isinstance(block.mlp.c_proj, nn.Linear)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.ln_final(self._blocks(tokens, layers=-1))

    def similarity_features(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) → CLIP's text features (B, embed_dim), not normalized."""
        x = self.ln_final(self._blocks(tokens))
        end_of_text = tokens.argmax(dim=-1)  # the highest token
        return x[torch.arange(len(x)), end_of_text] @ self.text_projection

    def _blocks(self, tokens: Tensor, layers: int | None = None) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]  # (B, L, width)
        mask = torch.full(2 * x.shape[1:2], -torch.inf, device=x.device, dtype=x.dtype).triu(1)  # causal
        return self.transformer(x, mask, layers=layers)


class ImageEncoder(Tower):
    """CLIP pixels (B, 3, S, S) → all tokens behind the last block, class token first, (B, K+1, width)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        vision = config.vision
        width, scale = vision.width, vision.width**-0.5
        patches = (vision.image_size // vision.patch_size) ** 2
        self.conv1 = nn.Conv2d(3, width, vision.patch_size, stride=vision.patch_size, bias=False)
        self.class_embedding = nn.Parameter(nn.init.normal_(torch.empty(width), std=scale))
        self.positional_embedding = nn.Parameter(nn.init.normal_(torch.empty(patches + 1, width), std=scale))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, vision.layers, width // vision.head_width, vision.mlp_ratio)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(nn.init.normal_(torch.empty(width, config.embed_dim), std=scale))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels.to(self.conv1.weight.dtype)).flatten(2).mT  # (B, K, width)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        return self.transformer(self.ln_pre(x + self.positional_embedding.to(x.dtype)))

    def similarity_features(self, tokens: Tensor) -> Tensor:
        """The tokens that `forward` gives → CLIP's image features (B, embed_dim), not normalized."""
        return self.ln_post(tokens[:, 0]) @ self.proj


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
