"""Embeddings, attention, feed-forward: what the denoiser and the other networks are built from."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dcrafter.models.strips import in_strips

# CUDA's attention kernels put batch × heads into a grid dimension of 16 bits.
MAX_ATTENTION_BATCH = 65_535
MAX_SCORES = 2**24  # of attention that are in memory at a time, where they are at all


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """(B,) numbers → (B, dim) float32: cosines first, then sines (arXiv 1706.03762, section 3.5)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=t.device))
    angles = t.float()[:, None] * frequencies  # (B, dim/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def silu(x: Tensor) -> Tensor:
    """SiLU of what nothing else needs, in its own memory: a third of the time on a CPU."""
    return F.silu(x, inplace=True)


def plus(x: Tensor, layer: nn.Module, h: Tensor) -> Tensor:
    """x + layer(h), which layers in their fast form compute in one operation (`models.fast`)."""
    fused = getattr(layer, "plus", None)
    return x + layer(h) if fused is None else fused(x, h)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention of q (F, N, heads·d) to k, v (G, M, heads·d), where G divides F → (F, N, heads·d).

    Frames that share a context (F/G consecutive ones) are attended as one long sequence, so that keys and
    values are never repeated. Scores are accumulated in float32 by the kernels whatever the type.
    """
    frames, shared = q.shape[0], q.shape[0] // k.shape[0]
    q = rearrange(q, "(g s) n (a d) -> g a (s n) d", s=shared, a=heads)
    k, v = (rearrange(x, "g m (a d) -> g a m d", a=heads) for x in (k, v))
    by_products = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.is_grad_enabled() and not has_amx()
    out = attention_by_products(q, k, v) if by_products else fused_attention(q, k, v)
    return rearrange(out, "g a (s n) d -> (g s) n (a d)", g=frames // shared, s=shared)


@cache
def has_amx() -> bool:
    """Whether the CPU has matrix units. Without, PyTorch's fused kernel takes bfloat16 twice as long as products do."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (G, a, n, d) to k, v (G, a, m, d) by PyTorch's kernels, which store no scores → (G, a, n, d)."""
    limit = max(1, MAX_ATTENTION_BATCH // q.shape[1])
    parts = [
        F.scaled_dot_product_attention(*qkv) for qkv in zip(*(torch.split(x, limit) for x in (q, k, v)), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attention_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by two matrix products, of at most `MAX_SCORES` scores at a time."""
    (g, a, n, d), m = q.shape, k.shape[2]
    q = (q * d**-0.5).reshape(g * a, n, d)
    k, v = k.reshape(g * a, m, d), v.reshape(g * a, m, d)
    out = torch.empty_like(q)
    sequences, rows = max(1, MAX_SCORES // (n * m)), max(1, MAX_SCORES // m)
    for i in range(0, g * a, sequences):
        part = slice(i, i + sequences)
        for j in range(0, n, rows):
            scores = torch.bmm(q[part, j : j + rows], k[part].transpose(1, 2))  # (sequences, rows, m)
            torch.bmm(scores.softmax(-1), v[part], out=out[part, j : j + rows])
    return out.view(g, a, n, d)


class Attention(nn.Module):
    """Attention of a sequence to itself. `context_dim` is for classes that take keys and values from elsewhere."""

    def __init__(self, dim: int, heads: int, head_channels: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_channels
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim or dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim or dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """(F, N, dim) → (F, N, dim)."""
        return self.to_out(self.attend(x, *context))

    def attend(self, x: Tensor) -> Tensor:
        """All but the last projection: (F, N, dim) → (F, N, heads·d)."""
        return attention(*self.project(x), self.heads)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a sequence."""
        return self.to_q(x), self.to_k(x), self.to_v(x)


class FrameAttention(Attention):
    """Attention among the frames at every position: (B, T, n, dim) → the same."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (rearrange(part, "b t n c -> (b n) t c") for part in self.project(x))
        out = attention(q, k, v, self.heads)
        return rearrange(out, "(b n) t c -> b t n c", b=len(x)).contiguous()


class CrossAttention(Attention):
    """Attention to a context."""

    def attend(self, x: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        """x (F, N, dim), context (B, L, context_dim), where B divides F → (F, N, heads·d)."""
        return attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads)


class DualCrossAttention(Attention):
    """Text and image attended with the same queries and separate keys and values (paper, equation 2).

    The image's part is weighted by λ: tanh(alpha) + 1 where the checkpoint learned it, 1 elsewhere, times
    `context_scale`, the manual control of the paper's figure 2a.
    """

    def __init__(self, dim: int, heads: int, head_channels: int, context_dim: int, learnable_scale: bool) -> None:
        super().__init__(dim, heads, head_channels, context_dim)
        inner = heads * head_channels
        self.to_k_ip = nn.Linear(context_dim, inner, bias=False)
        self.to_v_ip = nn.Linear(context_dim, inner, bias=False)
        self.alpha = nn.Parameter(torch.zeros(())) if learnable_scale else None
        self.context_scale = 1.0

    def attend(self, x: Tensor, text: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        """x (F, N, dim), text (B, L, context_dim), image (B or F, M, context_dim) → (F, N, heads·d)."""
        q = self.to_q(x)
        from_text = attention(q, self.to_k(text), self.to_v(text), self.heads)
        from_image = attention(q, self.to_k_ip(image), self.image_scale() * self.to_v_ip(image), self.heads)
        return from_text + from_image

    def image_scale(self) -> Tensor | float:
        """λ of this layer."""
        if self.alpha is None:
            return self.context_scale
        return (self.alpha.tanh() + 1) * self.context_scale


class FeedForward(nn.Module):
    """GEGLU (arXiv 2002.05202): (…, dim) → the same. In `slices` it needs less memory."""

    def __init__(self, dim: int, mult: int = 4) -> None:
        super().__init__()
        self.slices = 1
        self.proj_in = nn.Linear(dim, 2 * dim * mult)
        self.proj_out = nn.Linear(dim * mult, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.slices > 1:
            parts = x.flatten(0, -2).tensor_split(self.slices)
            return torch.cat([self.proj_out(self.hidden(part)) for part in parts]).view_as(x)
        return self.proj_out(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim · mult)."""
        x, gate = self.proj_in(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class TransformerBlock(nn.Module):
    """Self-attention, a second attention (dual cross-attention, or self-attention again), feed-forward."""

    def __init__(self, dim: int, attn1: Attention, attn2: Attention) -> None:
        super().__init__()
        self.attn1, self.attn2, self.ff = attn1, attn2, FeedForward(dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """x (F, N, dim), and what the second attention takes beside it → (F, N, dim)."""
        x = plus(x, self.attn1.to_out, self.attn1.attend(self.norm1(x)))
        x = plus(x, self.attn2.to_out, self.attn2.attend(self.norm2(x), *context))
        return plus(x, self.ff, self.norm3(x))


class Upsample(nn.Module):
    """Twice the size: (n, C, h, w) → (n, C, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return in_strips(lambda x: self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), x, scale=2)
