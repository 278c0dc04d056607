"""Interpolations by ToonCrafter that follow line drawings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli.running import CAT, DATA, Run, sketch_encoder
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from dcrafter.media.video import read_settings

DC512 = DATA / "golden" / "dc512"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sketch") / "sketch_encoder.safetensors"
    save_file(sketch_encoder(), path)
    return path


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    """A folder with a drawing of the eighth frame."""
    image = Image.new("RGB", (64, 32), "white")
    ImageDraw.Draw(image).line((0, 0, 63, 31), fill="black", width=3)
    (tmp_path / "drawings").mkdir()
    image.save(tmp_path / "drawings" / "8.png")
    return tmp_path / "drawings"


@pytest.fixture
def latents(dcrafter: Run, toon: Path, tmp_path: Path) -> Callable[..., torch.Tensor]:
    def made(*options: str | Path) -> torch.Tensor:
        outcome = dcrafter(
            "interpolate", CAT, CAT, "--checkpoint", toon / "model.safetensors", "--model-config", toon / "config.json",
            "--device", "cpu", "--dtype", "float32", "--steps", "1", "--seed", "3", "--frames", "3", "--overwrite",
            "-o", "out.apng", "--save-latents", tmp_path / "latents.safetensors", *options,
        )  # fmt: skip
        assert outcome.status == 0, outcome.stderr
        return load_file(tmp_path / "latents.safetensors")["final_latents"]

    return made


@pytest.mark.slow
def test_a_drawing_changes_the_video_and_at_scale_0_nothing(
    latents: Callable[..., torch.Tensor], dcrafter: Run, encoder: Path, drawing: Path, tmp_path: Path
) -> None:
    plain = latents()
    sketched = ("--sketch", drawing, "--sketch-encoder", encoder)
    assert torch.equal(latents(*sketched, "--sketch-scale", "0"), plain)
    followed = latents(*sketched)
    assert not torch.allclose(followed, plain, atol=1e-3)
    settings = read_settings(tmp_path / "out.apng")
    assert settings is not None
    assert (settings["sketch"], settings["sketch_scale"]) == ("drawings", 0.6)
    assert len(settings["sketch_encoder"]) == 64
    assert torch.equal(latents("--from", tmp_path / "out.apng", "--sketch-encoder", encoder), followed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sketch", "drawings"), "a sketch needs the sketch encoder"),
        (("--sketch", "drawings", "--sketch-encoder", "ENCODER", CAT), "a sketch is of one interpolation"),
        (("--sketch", CAT, "--sketch-encoder", "ENCODER"), "is one drawing"),
        (("--sketch-encoder", str(DC512 / "model.safetensors")), "holds no sketch encoder"),
    ],
)
def test_what_a_sketch_needs(
    dcrafter: Run, toon: Path, encoder: Path, drawing: Path, options: tuple[str, ...], message: str
) -> None:
    given = [str(encoder) if each == "ENCODER" else each for each in options]
    model = ("--checkpoint", toon / "model.safetensors", "--model-config", toon / "config.json", "--steps", "1")
    outcome = dcrafter("interpolate", CAT, CAT, *model, "--device", "cpu", *given)
    assert outcome.status in (2, 4)
    assert message in outcome.stderr


def test_a_controlnet_of_another_kind_is_refused(dcrafter: Run, toon: Path, encoder: Path, tmp_path: Path) -> None:
    weights = load_file(encoder)
    weights["input_hint_block.0.weight"] = torch.zeros(16, 3, 3, 3)  # of colored images, as Stable Diffusion's are
    save_file(weights, tmp_path / "other.safetensors")
    model = ("--checkpoint", toon / "model.safetensors", "--model-config", toon / "config.json")
    outcome = dcrafter("interpolate", CAT, CAT, *model, "--sketch-encoder", tmp_path / "other.safetensors")
    assert outcome.status == 4
    assert "input_hint_block.0.weight is (16, 3, 3, 3), not (16, 1, 3, 3)" in outcome.stderr
    assert "Give ToonCrafter's: sketch_encoder.ckpt" in outcome.stderr


def test_other_models_follow_none(dcrafter: Run, drawing: Path) -> None:
    outcome = dcrafter("interpolate", CAT, CAT, "-m", "tiny", "--sketch", drawing)
    assert outcome.status == 2
    assert "the tiny model follows no sketch" in outcome.stderr
