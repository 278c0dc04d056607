"""The fast forms against the plain ones."""

from __future__ import annotations

import copy

import pytest
import torch
from models.test_unet import MICRO, inputs
from torch import Tensor, nn

from dcrafter.config import MODELS
from dcrafter.models import fast, layers
from dcrafter.models.autoencoder import AutoencoderKL
from dcrafter.models.layers import attention_by_products, fused_attention
from dcrafter.models.unet import UNet3D

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not fast.supported(CPU, torch.float32), reason="no packed layers on this machine")


def parts() -> dict[str, tuple[nn.Module, list[Tensor]]]:
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(MODELS["tiny"].autoencoder)
    return {
        "unet": (UNet3D(MICRO), inputs(4)),
        "decoder": (autoencoder.decoder, [torch.randn(1, 32, 4, 4)]),
        "encoder": (autoencoder.encoder, [torch.randn(1, 3, 64, 64)]),
    }


@pytest.mark.parametrize("wide", [1, 320], ids=["channels last", "channels first"])
@pytest.mark.parametrize("name", parts())
@torch.inference_mode()
def test_packed_parts_give_the_plain_ones_numbers(name: str, wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "WIDE", wide)
    part, given = parts()[name]
    plain = part.eval().requires_grad_(False)
    packed = copy.deepcopy(plain)
    fast.pack(packed)
    torch.testing.assert_close(packed(*given), plain(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not fast.supported(CPU, torch.bfloat16), reason="no bfloat16 on this machine")
@torch.inference_mode()
def test_in_bfloat16_they_are_as_near_to_float32_as_the_plain_ones() -> None:
    part, given = parts()["unet"]
    exact = part.eval()(*given)
    plain = part.bfloat16()
    error = (plain(*given) - exact).norm()
    fast.pack(plain)
    assert (plain(*given) - exact).norm() < 1.2 * error


@torch.inference_mode()
def test_packed_layers_hold_no_weights_of_their_own_and_can_be_loaded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "WIDE", 1)
    unet, given = parts()["unet"]
    weights = {key: value.clone() for key, value in unet.state_dict().items()}
    expected = unet(*given)
    fast.pack(unet)
    assert unet.encoder[0].res.embed.weight.is_meta
    assert unet.encoder[0].res.conv1.weight.is_meta
    assert unet.state_dict().keys() == weights.keys()
    fast.unpack(unet)
    unet.load_state_dict(weights, assign=True)
    assert torch.equal(unet(*given), expected)


@pytest.mark.parametrize("rows", [1, 3, 5, 100])
@torch.inference_mode()
def test_feed_forward_is_the_plain_one_however_it_is_sliced(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "HIDDEN", 32 * rows)
    plain, x = layers.FeedForward(8), torch.randn(2, 5, 8)
    packed = copy.deepcopy(plain)
    fast.pack(packed)
    torch.testing.assert_close(layers.plus(x, packed, 2 * x), x + plain(2 * x))
    torch.testing.assert_close(packed(x), plain(x))


@torch.inference_mode()
def test_a_packed_layer_adds_what_is_in_another_layout() -> None:
    x = torch.randn(2, 3, 4, 5)
    plain = nn.Linear(5, 5)
    packed = nn.Sequential(copy.deepcopy(plain))
    fast.pack(packed)
    added = torch.randn(2, 4, 3, 5).transpose(1, 2)
    torch.testing.assert_close(layers.plus(added, packed[0], x), added + plain(x))


@pytest.mark.parametrize("amx", [False, True])
@torch.inference_mode()
def test_without_matrix_units_attention_in_bfloat16_is_by_products(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(layers, "has_amx", lambda: amx)
    for form in (attention_by_products, fused_attention):
        monkeypatch.setattr(layers, form.__name__, lambda *qkv, form=form: used.append(form) or form(*qkv))
    q = torch.randn(2, 4, 16, dtype=torch.bfloat16)
    layers.attention(q, q, q, heads=2)
    layers.attention(*3 * [q.float()], heads=2)
    assert used == [fused_attention if amx else attention_by_products, fused_attention]


@pytest.mark.parametrize("limit", [1, 40, 10**6])
@torch.inference_mode()
def test_attention_by_products_is_the_fused_one_however_it_is_sliced(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MAX_SCORES", limit)
    q, k, v = torch.randn(3, 2, 5, 8), torch.randn(3, 2, 7, 8), torch.randn(3, 2, 7, 8)
    torch.testing.assert_close(attention_by_products(q, k, v), fused_attention(q, k, v))
