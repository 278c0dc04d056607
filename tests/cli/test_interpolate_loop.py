from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli.running import CAT, DATA, QUICK, Run
from golden import relative_error
from safetensors.torch import load_file

from dcrafter.media.video import read_settings, read_video

DC512 = DATA / "golden" / "dc512"
MODEL = (
    "--checkpoint", str(DC512 / "model.safetensors"), "--model-config", str(DC512 / "config.json"),
    "--device", "cpu", "--dtype", "float32", "--width", "64", "--height", "64", "--steps", "1", "-g", "1",
)  # fmt: skip
GIRLS = (str(DC512 / "interpolate_input0.png"), str(DC512 / "interpolate_input1.png"))


@pytest.mark.parametrize(("command", "case"), [("interpolate", "interpolate"), ("animate", "multicfg")])
def test_recorded_noise_ends_in_the_recorded_latents(dcrafter: Run, tmp_path: Path, command: str, case: str) -> None:
    told = json.loads((DC512 / f"{case}.json").read_text())
    guidance = ["--image-guidance", told["cfg_image"]] if told["cfg_image"] is not None else []
    arguments = [
        command, *(DC512 / name for name in told["images"]), "-p", told["prompt"],
        "--checkpoint", DC512 / "model.safetensors", "--model-config", DC512 / "config.json",
        "--device", "cpu", "--dtype", "float32", "--width", told["width"], "--height", told["height"],
        "--steps", told["steps"], "--eta", told["eta"], "-g", told["cfg_scale"], *guidance,
        "--guidance-rescale", told["guidance_rescale"], "--motion", told["fs"],
        "--noise", DC512 / f"{case}.safetensors", "--save-latents", tmp_path / "latents.safetensors",
    ]  # fmt: skip
    outcome = dcrafter(*arguments)
    assert outcome.status == 0, outcome.stderr
    made = load_file(tmp_path / "latents.safetensors")["final_latents"]
    recorded = load_file(DC512 / f"{case}.safetensors")["final_latents"]
    assert relative_error(made, recorded) < 1e-4


@pytest.mark.slow
def test_toon_crafter_interpolates_and_loops(dcrafter: Run, toon: Path, tmp_path: Path) -> None:
    model = (
        "--checkpoint", toon / "model.safetensors", "--model-config", toon / "config.json", "--device", "cpu",
        "--steps", "1", "-g", "1", "--seed", "3", "--dtype", "float32",
    )  # fmt: skip
    outcome = dcrafter("interpolate", *GIRLS, *model, "-o", "all.apng")
    assert outcome.status == 0, outcome.stderr
    assert dcrafter("interpolate", *GIRLS, *model, "-o", "few.apng", "--frames", "3").status == 0
    (every, _), (few, _) = (read_video(tmp_path / name) for name in ("all.apng", "few.apng"))
    settings = read_settings(tmp_path / "all.apng")
    assert settings is not None
    assert (settings["model"], settings["motion"], settings["guidance_rescale"]) == ("toon", 10, 0.7)
    assert every.shape == (16, 32, 64, 3)
    assert np.array_equal(few, every[[0, 8, 15]])
    assert dcrafter("loop", CAT, *model, "-o", "loop.apng").status == 0
    assert len(read_video(tmp_path / "loop.apng")[0]) == 15


@pytest.mark.slow
def test_keyframes_are_chained_and_joints_kept_once(dcrafter: Run) -> None:
    for options, frames in (((), 16 + 15), (("--trim-keyframes",), 15 + 15), (("--frames", "4"), 4 + 3)):
        name = f"{frames}.apng"
        outcome = dcrafter("interpolate", *GIRLS, CAT, *MODEL, "--seed", "3", "-o", name, *options)
        assert outcome.status == 0, outcome.stderr
        assert "part 1/2" in outcome.stderr
        assert read_video(Path(name))[0].shape[0] == frames
    whole, trimmed = (read_video(Path(f"{n}.apng"))[0] for n in (31, 30))
    assert np.array_equal(np.delete(whole, 15, axis=0), trimmed)


def test_an_interpolation_needs_two_pictures(dcrafter: Run) -> None:
    outcome = dcrafter("interpolate", CAT, *MODEL)
    assert outcome.status == 2
    assert "needs two images" in outcome.stderr


def test_a_loop_is_repeated_without_its_last_frame(dcrafter: Run) -> None:
    outcome = dcrafter("loop", CAT, *MODEL, "--seed", "1", "--repeat", "3", "-o", "cat.apng")
    assert outcome.status == 0, outcome.stderr
    frames, _ = read_video(Path("cat.apng"))
    assert len(frames) == 45
    assert np.array_equal(frames[:15], frames[15:30])
    assert not np.array_equal(frames[0], frames[14])


def test_segments_go_on_from_what_was_shown(dcrafter: Run) -> None:
    arguments = ("animate", CAT, *QUICK, "--seed", "1")
    assert dcrafter(*arguments, "-o", "one.apng").status == 0
    outcome = dcrafter(*arguments, "--segments", "2", "-o", "two.apng")
    assert outcome.status == 0, outcome.stderr
    assert "part 2/2" in outcome.stderr
    one, two = (read_video(Path(name))[0] for name in ("one.apng", "two.apng"))
    assert len(two) == 16 + 15
    assert np.array_equal(two[:16], one)
    settings = read_settings(Path("two.apng"))
    assert settings is not None
    assert settings["segments"] == 2


def test_colours_are_those_of_the_picture(dcrafter: Run) -> None:
    arguments = ("animate", CAT, *QUICK, "--seed", "1")
    assert dcrafter(*arguments, "--color-match", "-o", "cat.apng").status == 0
    frames, _ = read_video(Path("cat.apng"))
    from PIL import Image

    picture = np.asarray(Image.open(CAT).convert("RGB").resize((64, 64)))
    assert np.abs(frames[0].mean((0, 1)) - picture.mean((0, 1))).max() < 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("loop", CAT, "-m", "512"), "the model 512 does not loop. Use 512-interp or toon or tiny"),
        (("animate", CAT, "-m", "512-interp"), "the model 512-interp does not animate"),
        (("loop", CAT, "--segments", "2"), "No such option: --segments"),
        (("animate", CAT, *QUICK, "--sampler", "euler"), "--sampler"),
    ],
)
def test_what_does_not_go_together(dcrafter: Run, arguments: tuple[str, ...], message: str) -> None:
    outcome = dcrafter(*arguments)
    assert outcome.status == 2
    assert message in outcome.stderr


def test_fast_is_another_sampler(dcrafter: Run) -> None:
    assert dcrafter("animate", CAT, *QUICK, "--fast", "--frames", "2", "-o", "cat.apng").status == 0
    settings = read_settings(Path("cat.apng"))
    assert settings is not None
    assert (settings["sampler"], settings["steps"], settings["eta"]) == ("dpm++", 1, 0.0)  # --steps was given


@pytest.mark.parametrize(("options", "warned"), [(("--window", "16"), True), ((), False), (("--window", "41"), False)])
def test_windows_that_see_neither_image_are_warned_of(dcrafter: Run, options: tuple[str, ...], warned: bool) -> None:
    outcome = dcrafter("loop", CAT, "-m", "tiny", "--frames", "40", *options, "--dry-run")
    assert outcome.status == 0
    assert ("most windows of 16 frames see neither" in outcome.stderr) == warned
