"""The model in the package: it is whole, small, used when there is no other, and it moves a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cli.conftest import dcrafter  # noqa: F401
from cli.running import CAT, Run
from PIL import Image, ImageOps

from dcrafter.config import MODELS
from dcrafter.media.image import fit_image, open_image
from dcrafter.media.video import read_settings, read_video
from dcrafter.metrics.pixels import as_input, frame_difference, loop_gap, psnr
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.weights import hub
from dcrafter.weights.checkpoint import open_checkpoint


def test_it_is_whole_and_small() -> None:
    checkpoint = open_checkpoint(hub.EMBEDDED)
    assert checkpoint.config == MODELS["tiny"]
    checkpoint.check(DynamiCrafter.on_meta(checkpoint.config))
    assert hub.EMBEDDED.stat().st_size <= 48_000_000
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {torch.float16}


@pytest.fixture
def no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(hub, "_in_hugging_faces_cache", lambda _: None)


def frames_of(path: str) -> torch.Tensor:
    return torch.from_numpy(read_video(Path(path))[0])


@pytest.mark.usefixtures("no_other")
def test_a_first_command_moves_the_picture(dcrafter: Run) -> None:  # noqa: F811
    outcome = dcrafter("animate", CAT, "-p", "zoom in on a cat", "--seed", "1", "-o", "cat.apng", "--steps", "12")
    assert outcome.status == 0, outcome.stderr
    assert "the built-in `tiny` model" in outcome.stderr
    assert "dcrafter download 512" in outcome.stderr
    settings = read_settings(Path("cat.apng"))
    assert settings is not None
    assert (settings["model"], settings["width"], settings["height"]) == ("tiny", 128, 128)
    made = frames_of("cat.apng")
    picture = torch.from_numpy(np.array(fit_image(open_image(CAT), 256, 256, "crop")))
    assert psnr(as_input(made[:1]), as_input(picture[None])) > 30
    assert float(frame_difference(made[None])) > 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("no_other")
def test_it_loops_and_interpolates(dcrafter: Run) -> None:  # noqa: F811
    assert dcrafter("loop", CAT, "--seed", "1", "-o", "loop.apng", "--steps", "12").status == 0
    assert float(loop_gap(frames_of("loop.apng")[None])) < 1.5
    with Image.open(CAT) as cat:
        ImageOps.mirror(cat).save("mirrored.png")
    ends = (CAT, "mirrored.png")
    assert dcrafter("interpolate", *ends, "--seed", "1", "-o", "between.apng", "--steps", "12").status == 0
    made = as_input(frames_of("between.apng"))
    first, last = (as_input(torch.from_numpy(np.array(fit_image(open_image(p), 256, 256, "crop")))[None]) for p in ends)
    assert psnr(first, last) < 16
    assert psnr(made[:1], first) > 30
    assert psnr(made[-1:], last) > 30


@pytest.mark.usefixtures("no_other")
def test_a_model_by_its_name_needs_no_network(dcrafter: Run) -> None:  # noqa: F811
    outcome = dcrafter("animate", CAT, "-m", "tiny", "--offline", "--steps", "1", "-g", "1", "--frames", "2")
    assert outcome.status == 0, outcome.stderr
    assert "built-in" not in outcome.stderr
