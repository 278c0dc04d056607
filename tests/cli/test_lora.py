"""--lora on the command line, in files of options, in batches and in --from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli.running import CAT, QUICK, Run

from dcrafter.media.video import read_settings, read_video
from dcrafter.weights.lora import save_lora

MODULE = "unet.encoder.0.spatial.blocks.0.attn1.to_q"
SMALL = (*QUICK, "--width", "64", "--height", "64", "--guidance", "1", "--frames", "2", "--seed", "1", "-f", "gif")


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    path = tmp_path / "style.safetensors"
    parts = {"A": torch.ones(1, 32), "B": torch.ones(32, 1)}
    save_lora({f"{MODULE}.lora_{name}.weight": value for name, value in parts.items()}, path, rank=1, alpha=1)
    return path


@pytest.mark.slow
def test_a_result_is_made_again_with_its_lora(dcrafter: Run, lora: Path, tmp_path: Path) -> None:
    made = dcrafter("animate", CAT, *SMALL, "--lora", f"{lora}:0.5", "--lora", lora, "-o", "cat.gif")
    assert made.status == 0, made.stderr
    record = read_settings(tmp_path / "cat.gif")["lora"]
    assert [(each["name"], each["scale"]) for each in record] == [("style.safetensors", 0.5), ("style.safetensors", 1)]
    again = dcrafter("animate", *SMALL, CAT, "--from", "cat.gif", "-o", "again.gif")
    assert again.status == 0, again.stderr
    assert read_settings(tmp_path / "again.gif") == read_settings(tmp_path / "cat.gif")
    other = dcrafter("animate", *SMALL, CAT, "--from", "cat.gif", "--lora", f"{lora}:0", "-o", "other.gif")
    assert "made with other weights" in other.stderr
    assert read_settings(tmp_path / "other.gif")["lora"][0]["scale"] == 0
    save_lora({f"{MODULE}.lora_{name}.weight": torch.zeros(shape) for name, shape in
               {"A": (1, 32), "B": (32, 1)}.items()}, lora, rank=1, alpha=1)  # fmt: skip
    changed = dcrafter("animate", *SMALL, CAT, "--from", "cat.gif", "-o", "changed.gif")
    assert changed.status == 2
    assert "the LoRA style.safetensors, with which cat.gif was made, is not here" in changed.stderr


@pytest.mark.slow
def test_toon_crafter_takes_a_lora_under_each_memory_plan(
    dcrafter: Run, lora: Path, toon: Path, tmp_path: Path
) -> None:
    made = {}
    for plan, scale in (("normal", 1), ("min", 1), ("min", 0)):
        outcome = dcrafter(
            "interpolate", CAT, CAT, "--checkpoint", toon / "model.safetensors", "--model-config", toon / "config.json",
            "--steps", "1", "-g", "1", "--seed", "1", "--dtype", "float32", "--device", "cpu", "--memory", plan,
            "--lora", f"{lora}:{scale}", "--frames", "3", "-o", "out.apng", "--overwrite",
        )  # fmt: skip
        assert outcome.status == 0, outcome.stderr
        made[plan, scale] = read_video(tmp_path / "out.apng")[0]
    assert np.array_equal(made["normal", 1], made["min", 1])
    assert not np.array_equal(made["min", 1], made["min", 0])


def test_a_batch_with_another_lora_is_another(dcrafter: Run, lora: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(CAT, folder)
    found = []
    for arguments in (("--lora", f"{lora}:0.5"), ("--lora", f"{lora}:0.5"), ("--lora", f"{lora}:1")):
        made = dcrafter("batch", folder, *SMALL, *arguments, "-o", "out/", "--json")
        assert made.status == 0, made.stderr
        found.append(json.loads(made.lines[0])["status"])
    assert found == ["done", "skipped", "done"]


def test_a_file_of_options_may_name_one_or_several(dcrafter: Run, lora: Path, tmp_path: Path) -> None:
    options = tmp_path / "mine.toml"
    for value, scales in ((f"'{lora}:0.25'", [0.25]), (f"['{lora}:0.25', '{lora}:2']", [0.25, 2])):
        options.write_text(f"lora = {value}\n")
        made = dcrafter("animate", CAT, *SMALL, "--config", options, "-o", "cat.gif", "--overwrite", "--json")
        assert made.status == 0, made.stderr
        assert [each["scale"] for each in json.loads(made.lines[0])["settings"]["lora"]] == scales


def test_what_it_cannot_be(dcrafter: Run, tmp_path: Path) -> None:
    for value, status, message in (
        ("none.safetensors", 4, "cannot read the LoRA none.safetensors"),
        ("none.safetensors:1e9", 2, "--lora must be FILE or FILE:SCALE"),
    ):
        outcome = dcrafter("animate", CAT, *SMALL, "--lora", value)
        assert (outcome.status, message in outcome.stderr) == (status, True)
