"""The paper's bases: their layouts at full size on the meta device, and the stages that begin from them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training.micro import TRAIN, awake, recipe, run

from dcrafter.config import MODELS
from dcrafter.errors import InputError, WeightsError
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.training import denoiser
from dcrafter.training.denoiser import DenoiserStage
from dcrafter.weights.bases import UNET, is_base, open_base, to_base
from dcrafter.weights.checkpoint import save_checkpoint
from dcrafter.weights.keys import to_published, trailing_ones

ADDED = re.compile(r".*\.attn2\.(to_[kv]_ip\.weight|alpha)")  # by DynamiCrafter to VideoCrafter's UNet
MIDDLE = re.compile(rf"{UNET}middle_block\.3\.")
UP = re.compile(rf"({UNET}output_blocks\.\d+\.)3\.")
TEMPORAL = re.compile(rf"{UNET}((input_blocks|output_blocks)\.\d+|middle_block)\.2\.(norm|proj|transformer)"
                      rf"|{UNET}(init_attn|fps_embedding)\.|.*\.temopral_conv\.")  # fmt: skip
# Parameters of the UNets: Stable Diffusion 2.1's is a published number.
STABLE_DIFFUSION = 865_910_724


def published(model: DynamiCrafter) -> dict[str, Tensor]:
    """A model's tensors under the published names of the 512's family, in the published shapes."""
    own = model.state_dict()
    named = to_published(own, "512")
    return {named[key]: v.reshape(v.shape + (1,) * trailing_ones(named[key])) for key, v in own.items()}


def videocrafter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layout of VideoCrafter's text-to-video checkpoints (its class LatentDiffusion, `inference_t2v_512_v2.0`)."""
    kept = {key: value for key, value in tensors.items() if not ADDED.fullmatch(key)}
    kept = {key: value for key, value in kept.items() if not key.startswith(("image_proj_model.", "embedder."))}
    first = f"{UNET}input_blocks.0.0.weight"
    return kept | {first: kept[first][:, :4].clone(), "betas": torch.zeros(1000), "scale_arr": torch.ones(1000)}


def stable_diffusion(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layout of Stable Diffusion 2.1's checkpoints: no temporal layers, and numbers without them."""
    kept = {key: value for key, value in videocrafter(tensors).items() if not TEMPORAL.match(key)}
    named = {MIDDLE.sub(f"{UNET}middle_block.2.", UP.sub(r"\g<1>2.", key)): value for key, value in kept.items()}
    return named | {"model_ema.decay": torch.ones(()), "model_ema.num_updates": torch.zeros((), dtype=torch.int32)}


def openclip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's own file: both towers."""
    text = {key.removeprefix("cond_stage_model.model."): v for key, v in tensors.items() if "cond_stage_" in key}
    seen = {key.removeprefix("embedder.model."): v for key, v in tensors.items() if key.startswith("embedder.model.v")}
    return text | seen


def missing(found: dict[str, Tensor], model: DynamiCrafter) -> set[str]:
    """What a model has and a file has not; all that the file has must be there, in the same shape."""
    own = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in found.items()} == {key: own[key] for key in found}
    return own.keys() - found.keys()


def full_size() -> dict[str, Tensor]:
    manifest = json.loads((Path(__file__).parents[1] / "data" / "golden" / "manifest_512.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in manifest.items()}


def test_full_size_videocrafter() -> None:
    model = DynamiCrafter.on_meta(MODELS["256"])
    raw = videocrafter(full_size())
    assert is_base(raw)
    lacking = missing(to_base(Path("model.ckpt"), raw), model)
    assert {key.split(".")[0] for key in lacking} == {"image_encoder", "projector", "unet"}
    assert {key for key in lacking if key.startswith("unet.")} == {
        key for key in model.state_dict() if re.search(r"attn2\.(to_[kv]_ip\.weight|alpha)$", key)
    }


def test_full_size_stable_diffusion() -> None:
    model = DynamiCrafter.on_meta(MODELS["256"])
    raw = stable_diffusion(full_size())
    assert sum(value.numel() for key, value in raw.items() if key.startswith(UNET)) == STABLE_DIFFUSION
    assert f"{UNET}middle_block.2.out_layers.3.weight" in raw
    assert {"2.conv.weight", "1.conv.weight"} <= {key.split(".", 4)[-1] for key in raw if "output_blocks" in key}
    found = to_base(Path("v2-1_512-ema-pruned.ckpt"), raw)
    assert found["unet.conv_in.weight"].shape == (320, 8, 3, 3)
    lacking = missing(found, model)
    of_unet = {key for key in lacking if key.startswith("unet.")}
    new = re.compile(
        r"unet\.(fs_embed|init_attn)\.|.*\.(temporal|temporal_conv)\.|.*attn2\.(to_[kv]_ip\.weight|alpha)$"
    )
    assert all(new.match(key) for key in of_unet)
    assert {key.split(".")[0] for key in lacking} == {"image_encoder", "projector", "unet"}


def test_full_size_openclip() -> None:
    model = DynamiCrafter.on_meta(MODELS["256"])
    lacking = missing(to_base(Path("open_clip.safetensors"), openclip(full_size())), model)
    assert {key.split(".")[0] for key in lacking} == {"autoencoder", "projector", "unet"}


def test_what_is_no_base(tmp_path: Path) -> None:
    assert not is_base(full_size())
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match="holds no DynamiCrafter model"):
        open_base(tmp_path / "other.ckpt")


@pytest.fixture
def files(tmp_path: Path, videos: Path) -> dict[str, Path]:
    """Each base in small, in its published layout; their weights differ."""
    made = {}
    for number, (name, layout) in enumerate(
        {"videocrafter": videocrafter, "stable diffusion": stable_diffusion, "openclip": openclip}.items()
    ):
        model = awake(DenoiserStage(recipe("detail"), videos, plan_only=False)).model
        tensors = {key: (value + number).clone() for key, value in published(model).items()}
        made[name] = tmp_path / f"{name}.ckpt"
        torch.save({"state_dict": layout(tensors)}, made[name])
    return made


@pytest.mark.slow
def test_each_stage_takes_a_step_from_its_bases(
    files: dict[str, Path], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVALUATION_CLIPS", "SHOWN", "STEPS"):
        monkeypatch.setattr(denoiser, name, 1)
    monkeypatch.setattr(DenoiserStage, "evaluate", lambda _: {})
    monkeypatch.setattr(DenoiserStage, "preview", lambda _: torch.zeros(2, 2, 3, dtype=torch.uint8))
    runs: dict[str, Path] = {}
    starts = {
        "context": lambda: [files["openclip"], files["stable diffusion"]],
        "adaptation": lambda: [runs["context"], files["videocrafter"]],
        "detail": lambda: [runs["adaptation"]],
    }
    train = replace(TRAIN, steps=1, learning_rate=1e-4)
    for name, start in starts.items():
        stage = DenoiserStage(recipe(name, train), videos)
        with pytest.raises(InputError, match="needs a trained"):
            stage.load_weights([files["openclip" if name == "context" else "videocrafter"]])
        stage.load_weights(start())
        before = {key: value.clone() for key, value in stage.model.state_dict().items()}
        for key, value in (open_base(start()[-1])).items():
            assert torch.equal(before[key], value.float()), key  # the last file wins
        if name == "adaptation":  # of Stable Diffusion's run come the image's parts
            taken = open_base(runs["context"])
            for key in ("projector.queries", "unet.encoder.0.spatial.blocks.0.attn2.to_v_ip.weight"):
                assert torch.equal(before[key], taken[key].float())
        run(stage, tmp_path / name, train)
        runs[name] = tmp_path / name / "weights.safetensors"
        assert any(not torch.equal(value, before[key]) for key, value in stage.trained().items())


@pytest.mark.slow
def test_a_model_begins_from_one_of_another_size(videos: Path, tmp_path: Path) -> None:
    """512 → 1024: the same layers, another schedule and size."""
    stage = DenoiserStage(recipe("detail"), videos)
    save_checkpoint(stage.model.state_dict(), stage.config, tmp_path / "small.safetensors")
    larger = recipe("detail")
    larger = replace(larger, config={**larger.config, "height": 64, "width": 64, "schedule": {"rescale_base": 0.3}})
    other = DenoiserStage(larger, videos, plan_only=False)
    other.load_weights([tmp_path / "small.safetensors"])
    assert other.process.config.rescale_base == 0.3
    assert all(torch.equal(v, other.model.state_dict()[k]) for k, v in stage.model.state_dict().items()
               if k.startswith("unet."))  # fmt: skip
