"""Extractors, with stand-in weights."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from dcrafter.errors import InputError, UsageError, WeightsError
from dcrafter.metrics.features import embedding_features, open_extractor, stack_features
from dcrafter.metrics.i3d import I3D, pad_same
from dcrafter.metrics.perceptual import open_distance

FRAMES = torch.randint(0, 256, (9, 40, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def i3d() -> I3D:
    torch.manual_seed(0)
    return I3D().eval()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_i3d_is_read_from_a_state_dict(i3d: I3D, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"i3d{suffix}"
    if suffix == ".pt":
        torch.save(i3d.state_dict(), path)
    else:
        save_file(i3d.state_dict(), path)
    found = open_extractor(str(path))(FRAMES)
    clip = FRAMES.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    scaled = torch.nn.functional.interpolate(clip, (9, 224, 224), mode="trilinear", align_corners=False)
    with torch.inference_mode():
        assert found == pytest.approx(i3d(scaled)[0], abs=1e-4)


def test_i3d_has_the_published_layout(i3d: I3D) -> None:
    keys = i3d.state_dict()
    assert keys["Mixed_4e.b1b.conv3d.weight"].shape == (288, 144, 3, 3, 3)
    assert keys["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)
    assert len(keys) == 57 * 6 + 2  # a convolution and five of batch norm in each unit
    assert sum(parameter.numel() for parameter in i3d.parameters()) == 12_697_264


def test_padding_is_tensorflows() -> None:
    """The output is the size over the stride, rounded up, and the odd one of the padding goes behind."""
    assert pad_same(torch.zeros(1, 1, 16, 224, 7), (7, 7, 7), (2, 2, 2)).shape == (1, 1, 21, 229, 13)
    assert pad_same(torch.ones(1, 1, 1, 1, 2), (1, 1, 2), (1, 1, 1)).flatten().tolist() == [1, 1, 0]


class Scripted(nn.Module):
    """Of the interface of FVD's published TorchScript file: frames of 0 to 255 at any size."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert rescale
        assert resize
        assert return_features
        return x.mean(dim=(2, 3, 4))


def test_the_published_torchscript_scales_by_itself(tmp_path: Path) -> None:
    with warnings.catch_warnings():  # TorchScript is deprecated
        warnings.simplefilter("ignore")
        torch.jit.script(Scripted()).save(str(tmp_path / "i3d.pt"))
    extract = open_extractor(str(tmp_path / "i3d.pt"))
    assert extract(FRAMES) == pytest.approx(FRAMES.float().mean(dim=(0, 1, 2)), rel=1e-5)


def test_what_is_no_i3d_is_refused(tmp_path: Path) -> None:
    (tmp_path / "i3d.pt").write_bytes(b"nothing")
    for name in ("i3d.pt", "missing.safetensors"):
        with pytest.raises(WeightsError, match="is no usable I3D"):
            open_extractor(str(tmp_path / name))


def test_a_video_model_of_transformers_is_opened_by_its_folder(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    VideoMAEModel(config).save_pretrained(tmp_path)
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    extract = open_extractor(str(tmp_path))
    found = extract(FRAMES)
    assert found.shape == (32,)
    assert torch.equal(found, extract(FRAMES))
    assert not torch.equal(found, extract(FRAMES.flip(0)))
    with pytest.raises(WeightsError, match="is no usable video model"):
        open_extractor(str(tmp_path / "nothing"), offline=True)


def test_embeddings_stand_in_for_features() -> None:
    frames = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    found = embedding_features(frames)
    assert found.shape == (16,)
    assert torch.allclose(found, embedding_features(3 * frames))
    shuffled = embedding_features(frames[torch.tensor([2, 0, 4, 1, 3])])
    assert torch.allclose(found[:8], shuffled[:8])
    assert not torch.allclose(found[8:], shuffled[8:])
    with pytest.raises(InputError):
        stack_features([found])


def test_lpips_is_driven_by_its_package(tmp_path: Path) -> None:
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    with warnings.catch_warnings():  # it builds its trunk in a deprecated way
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net="alex", pnet_rand=True, pretrained=False, verbose=False).eval()
    torch.save(model.state_dict(), tmp_path / "lpips.pt")
    image = FRAMES[0].repeat(2, 2, 1)
    frames = torch.stack([image, image.flip(0)])
    found = open_distance("lpips", tmp_path / "lpips.pt")(image, frames)
    pixels = frames.permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        theirs = model(pixels[:1].expand_as(pixels), pixels, normalize=True).flatten()
    assert found == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    assert found[0] < found[1]


@pytest.mark.slow
def test_dreamsim_is_driven_by_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its smallest model, of a single block, with random weights in the files that the package looks for."""
    pytest.importorskip("dreamsim")
    peft = pytest.importorskip("peft")
    from dreamsim.config import dreamsim_args
    from dreamsim.feature_extraction import load_clip_as_dino as loader
    from dreamsim.model import PerceptualModel

    torch.manual_seed(0)
    small = partial(loader.VisionTransformer, embed_dim=768, depth=1, num_heads=12, qkv_bias=True)
    monkeypatch.setattr(loader, "vit_base", small)
    trunk = small(patch_size=32)
    trunk.pos_drop = nn.LayerNorm(768)
    weights = {**trunk.state_dict(), "proj": torch.randn(768, 512) / 28}
    torch.save({"state_dict": weights}, tmp_path / "clip_vitb32_pretrain.pth.tar")
    options = {**dreamsim_args["model_config"]["clip_vitb32"], "device": "cpu", "load_dir": str(tmp_path)}
    lora = peft.LoraConfig(r=4, lora_alpha=0.5, lora_dropout=0.1, bias="none", target_modules=["qkv"])
    model = peft.get_peft_model(PerceptualModel(**options, normalize_embeds=True), lora).eval()
    model.save_pretrained(tmp_path / "clip_vitb32_single_lora")
    image = FRAMES[0]
    found = open_distance("dreamsim", tmp_path)(image, torch.stack([image, image.flip(0), FRAMES[1]]))
    scaled = [Image.fromarray(each.numpy()).resize((224, 224), Image.Resampling.BICUBIC) for each in FRAMES[:2]]
    with torch.inference_mode():
        one, other = (model.embed(torch.tensor(np.asarray(each)).permute(2, 0, 1)[None] / 255) for each in scaled)
    assert found[0] == pytest.approx(0, abs=1e-5)
    assert found[2] == pytest.approx(1 - float((one * other).sum()), abs=1e-5)
    assert found[1:].min() > 1e-4


def test_a_distance_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dreamsim", None)
    with pytest.raises(UsageError, match="dreamsim is not installed"):
        open_distance("dreamsim")
    pytest.importorskip("lpips")
    with pytest.raises(WeightsError, match="weights of lpips"):
        open_distance("lpips", tmp_path / "missing.pt")
