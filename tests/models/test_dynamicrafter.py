from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from dcrafter.config import MODELS, CLIPConfig, TextConfig, VisionConfig
from dcrafter.media.image import fit_image, open_image, to_tensor
from dcrafter.models.clip import TextEncoder, clip_pixels
from dcrafter.models.dynamicrafter import DynamiCrafter, detail_guidance
from dcrafter.weights.keys import to_ours, to_published, trailing_ones

CLIP = CLIPConfig(
    embed_dim=10,
    vision=VisionConfig(image_size=32, layers=2, width=16, head_width=8, patch_size=16),
    text=TextConfig(width=16, heads=2, layers=3),
)


@pytest.mark.parametrize(
    ("manifest", "model"), [("256", "256"), ("512", "512"), ("512", "1024"), ("512", "512-interp")]
)
def test_full_size_models_are_the_published_ones_key_by_key(golden: Path, manifest: str, model: str) -> None:
    published = json.loads((golden / f"manifest_{manifest}.json").read_text())
    ours = DynamiCrafter.on_meta(MODELS[model]).state_dict()
    names = to_published(ours, model)
    shapes = {name: [*ours[key].shape] + [1] * trailing_ones(name) for key, name in names.items()}
    assert shapes == {key: shape for key, shape in published.items() if to_ours(key) is not None}
    assert {to_ours(name) for name in names.values()} == set(ours)
    unused = [key for key in published if to_ours(key) is None]
    assert len(unused) == {"256": 18, "512": 19}[manifest]  # 12 or 13 schedule tables, 6 text leftovers


def test_toon_crafters_autoencoder_is_the_published_one_key_by_key(golden: Path) -> None:
    published = json.loads((golden / "manifest_toon.json").read_text())
    ours = DynamiCrafter.on_meta(MODELS["toon"]).state_dict()
    names = to_published((key for key in ours if key.startswith("autoencoder.")), "toon")
    assert {name: [*ours[key].shape] + [1] * trailing_ones(name) for key, name in names.items()} == published
    assert [to_ours(name) for name in names.values()] == [*names]
    assert len(names) == 396
    others = DynamiCrafter.on_meta(MODELS["512-interp"]).state_dict()
    rest = {key: value.shape for key, value in ours.items() if key not in names}
    assert rest == {key: value.shape for key, value in others.items() if not key.startswith("autoencoder.")}


@pytest.mark.parametrize(("number", "height", "width"), [(0, 320, 512), (1, 256, 256), (2, 576, 1024)])
def test_pictures_reach_clip_as_published(golden: Path, number: int, height: int, width: int) -> None:
    recorded = load_file(golden / "preprocess.safetensors")
    picture = fit_image(open_image(golden / f"preprocess_{number}.png"), width, height)
    pixels = to_tensor(picture)
    sums = torch.stack([pixels.double().sum(), pixels.double().square().sum()])
    torch.testing.assert_close(sums, recorded[f"{number}.model_input_sha"], rtol=1e-6, atol=0)
    difference = clip_pixels(pixels[None], 224)[0] - recorded[f"{number}.clip_pixels"]
    assert float(difference.abs().max()) < 1e-4


def test_enlarging_for_clip_does_not_blur() -> None:
    x = torch.rand(1, 3, 20, 20) * 2 - 1
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    plain = F.interpolate(x, (32, 32), mode="bicubic", align_corners=True)
    expected = ((plain + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(clip_pixels(x, 32), expected)


def test_text_tower_is_causal_and_takes_the_last_layer_but_one() -> None:
    torch.manual_seed(0)
    tower = TextEncoder(CLIP).requires_grad_(False).eval()
    tokens = torch.tensor([[49406, 320, 2368, 49407, 0], [49406, 320, 2368, 530, 49407]])
    out = tower(tokens)
    torch.testing.assert_close(out[0, :3], out[1, :3])
    assert not torch.allclose(out[0, 3], out[1, 3])
    tower.transformer.resblocks[-1].ln_1.weight.mul_(3)
    torch.testing.assert_close(tower(tokens), out)


def test_detail_guidance_repeats_a_picture_and_leaves_the_middle_empty_between_two() -> None:
    one, two = torch.randn(1, 4, 2, 3), torch.randn(2, 4, 2, 3)
    repeated = detail_guidance(one, 5)
    assert repeated.shape == (1, 4, 5, 2, 3)
    assert all(torch.equal(repeated[0, :, i], one[0]) for i in range(5))
    between = detail_guidance(two, 5)
    assert between.shape == (1, 4, 5, 2, 3)
    assert torch.equal(between[0, :, 0], two[0])
    assert torch.equal(between[0, :, 4], two[1])
    assert not between[0, :, 1:4].any()
