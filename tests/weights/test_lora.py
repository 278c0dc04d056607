"""LoRA files: what they change, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import open_golden
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dcrafter.errors import UsageError, WeightsError
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.pipeline import Pipeline
from dcrafter.settings import Options
from dcrafter.weights.checkpoint import Checkpoint
from dcrafter.weights.keys import to_published
from dcrafter.weights.lora import METADATA, parse_lora, save_lora, with_loras

QUICK: Options = {"steps": 1, "width": 64, "height": 64, "guidance": 1.0}
MODULE = "unet.encoder.0.spatial.blocks.0.attn1.to_q"
CONV = "unet.encoder.0.res.conv1"


@pytest.fixture
def base(golden: Path) -> Checkpoint:
    return open_golden(golden / "dc256").checkpoint


def with_unet(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> DynamiCrafter:
    """A model with its UNet in memory, its layers in their plain forms."""
    model = DynamiCrafter.on_meta(checkpoint.config)
    for _ in checkpoint.load(model, "unet", device=torch.device("cpu"), dtype=dtype):
        pass
    return model


def loaded(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The UNet's weights as they come into memory."""
    return {f"unet.{name}": value for name, value in with_unet(checkpoint, dtype).unet.state_dict().items()}


def factors(checkpoint: Checkpoint, module: str, rank: int = 2) -> dict[str, Tensor]:
    weight = checkpoint.tensors[f"{module}.weight"]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn((rank, *weight.shape[1:]), generator=generator)
    b = torch.randn((len(weight), rank, *[1] * (weight.ndim - 2)), generator=generator)
    return {"A": a, "B": b}


def product(parts: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Σ_r B[o, r] A[r, …], written out."""
    return torch.einsum("or,r...->o...", parts["B"].reshape(len(like), -1), parts["A"]).reshape(like.shape)


@pytest.mark.parametrize("module", [MODULE, CONV])
def test_a_weight_gets_its_change_and_no_other(base: Checkpoint, tmp_path: Path, module: str) -> None:
    parts = factors(base, module)
    path = tmp_path / "style.safetensors"
    save_lora({f"{module}.lora_{k}.weight": value for k, value in parts.items()}, path, rank=2, alpha=4)
    before, after = loaded(base), loaded(with_loras(base, [f"{path}:0.5"]))
    name = f"{module}.weight"
    torch.testing.assert_close(after[name], before[name] + 0.5 * (4 / 2) * product(parts, before[name]))
    assert all(torch.equal(after[other], value) for other, value in before.items() if other != name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_0_gives_the_base_bit_for_bit(base: Checkpoint, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "style.safetensors"
    save_lora({f"{MODULE}.lora_{k}.weight": v for k, v in factors(base, MODULE).items()}, path, rank=2, alpha=2)
    silent = with_loras(base, [f"{path}:0"])
    before, after = loaded(base, dtype), loaded(silent, dtype)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert silent.fingerprint == base.fingerprint != with_loras(base, [str(path)]).fingerprint


def test_two_add_up_in_their_order(base: Checkpoint, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for path in paths:
        save_lora({f"{MODULE}.lora_{k}.weight": v for k, v in factors(base, MODULE).items()}, path, rank=2, alpha=2)
    once, twice = (loaded(with_loras(base, [f"{path}:{s}" for path in paths]))[f"{MODULE}.weight"] for s in (0.5, 1))
    start = base.tensors[f"{MODULE}.weight"].float()
    torch.testing.assert_close(twice - start, 2 * (once - start))


@pytest.mark.slow
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_what_peft_saves_computes_what_peft_computes(golden: Path, tmp_path: Path, whole: bool, rslora: bool) -> None:
    fresh = open_golden(golden / "dc256")
    model = with_unet(fresh.checkpoint)
    unet = model.unet
    x, t = torch.randn(1, 8, 16, 8, 8), torch.tensor([3])
    text = torch.randn(1, 77, fresh.config.unet.context_dim)
    image = torch.randn(1, 16 * 16, fresh.config.unet.context_dim)
    config = LoraConfig(r=4, lora_alpha=2, target_modules=rf"{'unet.' * whole}(en|de)coder.*(to_q|ff\.proj_in)",
                        use_rslora=rslora, init_lora_weights=False)  # fmt: skip
    torch.manual_seed(0)
    adapted = get_peft_model(model if whole else unet, config)
    with torch.no_grad():
        expected = (adapted.base_model.model.unet if whole else adapted)(x, t, text, image, t)
    adapted.save_pretrained(tmp_path / "saved")
    pipe = Pipeline(with_loras(fresh.checkpoint, [str(tmp_path / "saved")]), fresh.device, fresh.dtype)
    for _ in pipe.residency.ensure_loaded("unet"):
        pass
    with torch.no_grad():
        torch.testing.assert_close(pipe.model.unet(x, t, text, image, t), expected, rtol=1e-4, atol=1e-4)


def test_peft_reads_our_file(base: Checkpoint, tmp_path: Path) -> None:
    parts = factors(base, MODULE)
    path = tmp_path / "adapter_model.safetensors"
    save_lora({f"{MODULE}.lora_{k}.weight": value for k, value in parts.items()}, path, rank=2, alpha=4)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=[MODULE])
    config.save_pretrained(tmp_path)
    read = PeftModel.from_pretrained(with_unet(base), str(tmp_path))
    assert torch.equal(read.base_model.model.get_submodule(MODULE).lora_B["default"].weight, parts["B"])


def test_other_names_for_the_same(base: Checkpoint, tmp_path: Path) -> None:
    parts = factors(base, MODULE)
    published = to_published([f"{MODULE}.weight"], "256")[f"{MODULE}.weight"].removesuffix(".weight")
    bare = published.removeprefix("model.diffusion_model.")
    up, down = parts["B"], parts["A"]
    alpha = torch.tensor(4.0)
    files: list[dict[str, Any]] = [
        {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down, f"{module}.alpha": alpha}
        for module in (MODULE, published, bare, MODULE.removeprefix("unet."))
    ]
    found = []
    for i, tensors in enumerate(files):
        save_file(tensors, tmp_path / f"{i}.safetensors")
        found.append(loaded(with_loras(base, [str(tmp_path / f"{i}.safetensors")]))[f"{MODULE}.weight"])
    start = base.tensors[f"{MODULE}.weight"].float()
    for each in found:
        torch.testing.assert_close(each, start + 2 * product(parts, start))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.nothing.lora_A.weight": (2, 3), "unet.nothing.lora_B.weight": (3, 2)}, "256 model has no unet.nothing"),
        ({f"{MODULE}.lora_A.weight": (2, 32)}, "one factor of two"),
        ({f"{MODULE}.lora_A.weight": (2, 7), f"{MODULE}.lora_B.weight": (7, 2)}, "weight is"),
        ({f"{MODULE}.lora_magnitude_vector": (7,)}, "no LoRA factor"),
        ({}, "holds no tensors"),
    ],
)
def test_what_does_not_fit(base: Checkpoint, tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, path)
    with pytest.raises(WeightsError, match=message):
        with_loras(base, [str(path)])


@pytest.mark.parametrize(
    ("header", "alpha", "rank", "message"),
    [
        ("[]", None, 2, "no table"),
        ('{"alpha_pattern": {"(a+)+b": 1}}', None, 2, "no module's name"),
        ('{"alpha_pattern": [1]}', None, 2, "cannot read the LoRA"),
        ('{"lora_alpha": 1e999}', None, 2, "an alpha of inf"),
        ("[" * 100_000, None, 2, "cannot read the LoRA"),
        ("{}", (2,), 2, "no single number"),
        ("{}", None, 0, "weight is"),
    ],
)
def test_a_strangers_header(
    base: Checkpoint, tmp_path: Path, header: str, alpha: tuple[int, ...] | None, rank: int, message: str
) -> None:
    out, into = base.tensors[f"{MODULE}.weight"].shape
    tensors = {f"{MODULE}.lora_A.weight": torch.ones(rank, into), f"{MODULE}.lora_B.weight": torch.ones(out, rank)}
    if alpha:
        tensors[f"{MODULE}.alpha"] = torch.ones(alpha)
    path = tmp_path / "strange.safetensors"
    save_file(tensors, path, {METADATA: header})
    with pytest.raises(WeightsError, match=message):
        with_loras(base, [str(path)])


def test_no_file_or_no_scale(base: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not one")
    for name in ("text.safetensors", "missing.safetensors"):
        with pytest.raises(WeightsError, match="cannot read the LoRA") as caught:
            with_loras(base, [str(tmp_path / name)])
        assert str(caught.value).count(name) == 1
    with pytest.raises(UsageError, match="-100 to 100"):
        with_loras(base, ["a.safetensors:1000"])
    assert parse_lora("C:\\style.safetensors") == (Path("C:\\style.safetensors"), 1.0)
    assert parse_lora("style.safetensors:-0.5") == (Path("style.safetensors"), -0.5)


@pytest.mark.slow
def test_a_video_says_what_was_merged(base: Checkpoint, golden: Path, cat: Path, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    save_lora({f"{MODULE}.lora_{k}.weight": v for k, v in factors(base, MODULE).items()}, path, rank=2, alpha=2)
    plain = open_golden(golden / "dc256")
    styled, silent = (
        Pipeline(with_loras(base, [f"{path}:{scale}"]), plain.device, plain.dtype).animate(cat, seed=1, **QUICK)
        for scale in (0.8, 0)
    )
    video = plain.animate(cat, seed=1, **QUICK)
    assert [(each["name"], each["scale"]) for each in styled.settings["lora"]] == [("style.safetensors", 0.8)]
    assert len(styled.settings["lora"][0]["hash"]) == 64
    assert styled.settings["checkpoint"] != video.settings["checkpoint"]
    assert "lora" not in video.settings
    assert not torch.equal(styled.latents, video.latents)
    assert torch.equal(silent.latents, video.latents)
    assert np.array_equal(silent.frames, video.frames)


def test_each_plan_merges_alike(base: Checkpoint, golden: Path, cat: Path, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    save_lora({f"{MODULE}.lora_{k}.weight": v for k, v in factors(base, MODULE).items()}, path, rank=2, alpha=2)
    plain = open_golden(golden / "dc256")
    latents = []
    for plan in ("normal", "min"):
        pipe = Pipeline(with_loras(base, [str(path)]), plain.device, plain.dtype)
        pipe.residency.plan = plan
        latents.append(pipe.animate(cat, seed=1, **QUICK).latents)
    torch.testing.assert_close(latents[0], latents[1])


def test_the_header_says_rank_and_alpha(base: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    parts = {f"{MODULE}.lora_{k}.weight": value for k, value in factors(base, MODULE).items()}
    save_lora(parts, path, rank=2, alpha=4, model="256")
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()[METADATA]) == {"r": 2, "lora_alpha": 4, "model": "256"}
