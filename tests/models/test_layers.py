from __future__ import annotations

import pytest
import torch
from torch import nn

from dcrafter.models import layers
from dcrafter.models.layers import Attention, DualCrossAttention, attention, sinusoidal_embedding


def textbook_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
    scores = split[0] @ split[1].transpose(-1, -2) / split[0].shape[-1] ** 0.5
    return (scores.softmax(-1) @ split[2]).transpose(1, 2).flatten(2)


def test_frames_that_share_a_context_see_it_as_if_it_were_repeated() -> None:
    q, k, v = torch.randn(6, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    repeated = textbook_attention(q, k.repeat_interleave(3, 0), v.repeat_interleave(3, 0), heads=2)
    torch.testing.assert_close(attention(q, k, v, heads=2), repeated)


def test_batch_times_heads_never_exceeds_a_grid_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MAX_ATTENTION_BATCH", 12)
    seen = []
    original = nn.functional.scaled_dot_product_attention

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append(q.shape[0] * q.shape[1])
        return original(q, k, v)

    q, k, v = torch.randn(10, 3, 20), torch.randn(10, 4, 20), torch.randn(10, 4, 20)
    expected = attention(q, k, v, heads=5)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    torch.testing.assert_close(attention(q, k, v, heads=5), expected)
    assert len(seen) == 5
    assert max(seen) <= 12


def test_the_learned_scale_gates_the_image_only() -> None:
    layer = DualCrossAttention(8, heads=2, head_channels=4, context_dim=6, learnable_scale=True)
    assert layer.alpha is not None
    x, text, image = torch.randn(4, 5, 8), torch.randn(2, 7, 6), torch.randn(4, 3, 6)
    with torch.no_grad():
        layer.alpha.fill_(-30.0)  # tanh(alpha) + 1 = 0
        only_text = layer.to_out(attention(layer.to_q(x), layer.to_k(text), layer.to_v(text), heads=2))
        torch.testing.assert_close(layer(x, text, image), only_text)
        layer.alpha.fill_(30.0)
        layer.context_scale = 0.5
        at_one = layer(x, text, image)
        torch.testing.assert_close(layer.image_scale(), torch.tensor(1.0))
    assert not torch.allclose(at_one, only_text)


def test_embeddings_have_cosines_first() -> None:
    emb = sinusoidal_embedding(torch.tensor([0, 3]), 8)
    torch.testing.assert_close(emb[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    angle = torch.tensor(3.0)
    torch.testing.assert_close(emb[1, [0, 4]], torch.stack([angle.cos(), angle.sin()]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_statistics_of_group_norm_are_float32_in_every_type(dtype: torch.dtype) -> None:
    """A mean of 100 with a deviation of 1 over 10⁵ values: sums in the type itself would be far off."""
    x = (100 + torch.randn(1, 32, 16, 400)).to(dtype)
    norm = nn.GroupNorm(1, 32)
    expected = norm.double()(x.double())
    got = norm.to(dtype)(x)
    # Float32's own sums of values 100 times their deviation are good to about 1e-4.
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=max(8 * torch.finfo(dtype).eps, 1e-4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_softmax_over_many_keys_is_accumulated_in_float32(dtype: torch.dtype) -> None:
    """The mean of 9,216 equal values is that value; summed in bfloat16 it would stop growing at 256."""
    q, k = torch.zeros(1, 4, 16, dtype=dtype), torch.zeros(1, 9216, 16, dtype=dtype)
    v = torch.full((1, 9216, 16), 0.7, dtype=dtype)
    out = attention(q, k, v, heads=1)
    torch.testing.assert_close(out, torch.full_like(out, 0.7), rtol=0.01, atol=0)


def test_self_attention_matches_the_textbook() -> None:
    layer, x = Attention(8, heads=2, head_channels=4), torch.randn(3, 5, 8)
    expected = layer.to_out(textbook_attention(layer.to_q(x), layer.to_k(x), layer.to_v(x), heads=2))
    torch.testing.assert_close(layer(x), expected)
