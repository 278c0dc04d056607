"""The query transformer 𝒫: image tokens to text-aligned image context (paper, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcrafter.config import QueryTransformerConfig
from dcrafter.models.layers import attention


class QueryAttention(nn.Module):
    """Queries attend to the image tokens and to themselves (arXiv 2204.14198, section 2.1)."""

    def __init__(self, config: QueryTransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        inner = config.heads * config.head_channels
        self.norm_tokens = nn.LayerNorm(config.dim)
        self.norm_queries = nn.LayerNorm(config.dim)
        self.to_q = nn.Linear(config.dim, inner, bias=False)
        self.to_kv = nn.Linear(config.dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.dim, bias=False)

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """tokens (B, K, dim), queries (B, Q, dim) → (B, Q, dim)."""
        queries = self.norm_queries(queries)
        k, v = self.to_kv(torch.cat([self.norm_tokens(tokens), queries], dim=1)).chunk(2, dim=-1)
        return self.to_out(attention(self.to_q(queries), k, v, self.heads))


class QueryLayer(nn.Module):
    def __init__(self, config: QueryTransformerConfig) -> None:
        super().__init__()
        inner = config.dim * config.ff_mult
        self.attn = QueryAttention(config)
        self.ff = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Linear(config.dim, inner, bias=False),
            nn.GELU(),
            nn.Linear(inner, config.dim, bias=False),
        )

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        queries = queries + self.attn(tokens, queries)
        return queries + self.ff(queries)


class QueryTransformer(nn.Module):
    """(B, K, embedding_dim) image tokens → (B, queries_per_frame·frames, output_dim)."""

    def __init__(self, config: QueryTransformerConfig) -> None:
        super().__init__()
        queries = config.queries_per_frame * config.frames
        self.queries = nn.Parameter(nn.init.normal_(torch.empty(1, queries, config.dim), std=config.dim**-0.5))
        self.proj_in = nn.Linear(config.embedding_dim, config.dim)
        self.layers = nn.ModuleList(QueryLayer(config) for _ in range(config.depth))
        self.proj_out = nn.Linear(config.dim, config.output_dim)
        self.norm_out = nn.LayerNorm(config.output_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.proj_in(tokens)
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(tokens, queries)
        return self.norm_out(self.proj_out(queries))
