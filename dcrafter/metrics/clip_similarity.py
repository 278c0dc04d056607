"""CLIP-SIM: cosine similarities of embeddings by CLIP's two towers (arXiv 2103.00020)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def text_similarity(frame_embeddings: Tensor, text_embedding: Tensor) -> float:
    """Mean over frames of the similarity to the caption (DynamiCrafter, section 5): (T, D) and (D,) → -1 to 1."""
    return float(F.cosine_similarity(frame_embeddings.double(), text_embedding.double()[None], dim=-1).mean())


def frame_similarity(frame_embeddings: Tensor) -> float:
    """Mean similarity of consecutive frames (arXiv 2302.03011, section 4.2): (T, D), T ≥ 2 → -1 to 1."""
    frames = frame_embeddings.double()
    return float(F.cosine_similarity(frames[:-1], frames[1:], dim=-1).mean())
