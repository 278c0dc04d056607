from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dcrafter.config import MODELS, ModelConfig
from dcrafter.errors import UsageError
from dcrafter.settings import Options, Settings, options_of, resolve, video_size


def test_what_is_left_out_follows_the_model() -> None:
    old = resolve(MODELS["256"], "animate", "", 0, {})
    new = resolve(MODELS["1024"], "animate", "", 0, {"steps": None, "fps": None})
    assert (old.width, old.height, old.motion, old.spacing, old.guidance_rescale) == (256, 256, 3, "uniform", 0.0)
    assert (new.width, new.height, new.motion, new.spacing) == (1024, 576, 10, "uniform_trailing")
    assert (new.steps, new.eta, new.guidance, new.guidance_rescale, new.fps) == (50, 1.0, 7.5, 0.7, 8)
    assert new.frames == 16
    assert resolve(MODELS["512-interp"], "loop", "", 0, {}).frames == 15


def test_high_motion_is_a_high_stride_or_a_low_rate() -> None:
    def raw(model: str, motion: str | int) -> int:
        command = MODELS[model].commands[0]
        return resolve(MODELS[model], command, "", 0, {"motion": motion}).motion

    assert raw("256", "high") > raw("256", "medium") > raw("256", "low")
    for model in ("512", "1024", "512-interp", "tiny"):
        assert raw(model, "high") < raw(model, "medium") < raw(model, "low")
        assert raw(model, 7) == raw(model, "7") == 7


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("1.2", [1.2] * 16),
        (0.5, [0.5] * 16),
        ("7-9:0.8", [1.0] * 6 + [0.8] * 3 + [1.0] * 7),
        ("16:0", [1.0] * 15 + [0.0]),
        ("1-2:2, 3:.5", [2.0, 2.0, 0.5] + [1.0] * 13),
    ],
)
def test_context_scale_by_layers(scale: Any, expected: list[float]) -> None:
    settings = resolve(MODELS["512"], "animate", "", 0, {"context_scale": scale})
    assert list(settings.context_scale) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"steps": 1001},
        {"eta": 1.5},
        {"eta": float("nan")},
        {"guidance": float("inf")},
        {"image_guidance": float("nan")},
        {"guidance_rescale": -0.1},
        {"frames": 1001},
        {"window": 1},
        {"overlap": 16},
        {"fps": 0},
        {"width": 500},
        {"width": 64.5},
        {"steps": "many"},
        {"height": 0},
        {"fit": "squeeze"},
        {"motion": "wild"},
        {"motion": "-3"},
        {"context_scale": "7-19:0.8"},
        {"context_scale": "9-7:0.8"},
        {"context_scale": "much"},
        {"guidance_interval": "0.9-0.2"},
        {"guidance_interval": "0-1.5"},
        {"guidance_interval": "0.5"},
        {"deep_every": 0},
    ],
)
def test_values_without_a_meaning_name_their_option(options: Any) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} must be"):
        resolve(MODELS["512"], "animate", "", 0, options)


def test_options_come_out_as_plain_values() -> None:
    options: Any = {"steps": "20", "width": np.float32(512), "eta": 1, "guidance_rescale": np.float64(0.5), "fit": None}
    settings = resolve(MODELS["512"], "animate", "", 0, options)
    assert json.dumps(settings.to_dict())
    assert (settings.steps, settings.width, settings.fit) == (20, 512, "crop")
    assert [type(v) for v in (settings.steps, settings.width, settings.eta)] == [int, int, float]


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="no option guidence, step"):
        resolve(MODELS["512"], "animate", "", 0, {"step": 5, "guidence": 3})  # type: ignore[typeddict-unknown-key]


def test_a_size_that_does_not_fit_comes_with_one_that_does() -> None:
    with pytest.raises(UsageError, match="multiple of 64, such as 512"):
        resolve(MODELS["512"], "animate", "", 0, {"width": 500})


def test_settings_are_plain_values() -> None:
    plain = resolve(MODELS["256"], "animate", "a cat", 3, {"context_scale": "2:0.5"}).to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert resolve(MODELS["256"], "animate", "a cat", 3, {}).to_dict()["context_scale"] == 1.0


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_a_configuration_survives_a_header(config: ModelConfig) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(TypeError, match="unet has no field depth"):
        ModelConfig.from_dict(config.to_dict() | {"unet": {"depth": 3}})


def test_type_checkers_know_each_option() -> None:
    assert set(Options.__annotations__) == {*options_of(Settings), "fast"}


def test_fast_is_short_for_what_nothing_else_is_asked_for() -> None:
    found = resolve(MODELS["512"], "animate", "", 0, {"fast": True, "steps": None, "deep_every": 3})
    assert (found.sampler, found.steps, found.guidance_every, found.deep_every, found.eta) == ("dpm++", 13, 2, 3, 0.0)
    quick = replace(MODELS["512"], steps=6)
    assert resolve(quick, "animate", "", 0, {"fast": True}) == resolve(quick, "animate", "", 0, {})


def test_a_models_own_eta_and_final_rescale_are_its_samplers() -> None:
    def chosen(**options: Any) -> tuple[str, int, float, bool]:
        found = resolve(MODELS["tiny"], "animate", "", 0, Options(**options))
        return found.sampler, found.steps, found.eta, found.final_rescale

    assert chosen() == ("ddim", 6, 0.0, True)
    assert chosen(eta=1.0, final_rescale=False) == ("ddim", 6, 1.0, False)
    assert chosen(sampler="dpm++") == ("dpm++", 6, 0.0, True)
    other = replace(MODELS["tiny"], sampler="dpm++", eta=0.5, final_rescale=False)
    assert resolve(other, "animate", "", 0, {"sampler": "ddim"}).eta == 1.0


def test_options_of_another_command_are_refused() -> None:
    assert resolve(MODELS["tiny"], "loop", "", 0, {"repeat": 3, "segments": 1}).repeat == 3
    with pytest.raises(UsageError, match="--repeat must be left to `loop`, not 3"):
        resolve(MODELS["tiny"], "animate", "", 0, {"repeat": 3})


def test_lengths_follow_from_each_other() -> None:
    def lengths(command: Any, **options: Any) -> tuple[int, int, int, int]:
        settings = resolve(MODELS["tiny"], command, "", 0, options)  # type: ignore[arg-type]
        return settings.frames, settings.window, settings.overlap, settings.sampled_frames

    assert lengths("animate") == (16, 16, 4, 16)
    assert lengths("animate", frames=5) == (5, 16, 4, 16)
    assert lengths("animate", frames=48, overlap=8) == (48, 16, 8, 48)
    assert lengths("animate", window=24) == (24, 24, 6, 24)
    assert lengths("animate", window=8) == (8, 8, 2, 8)
    assert lengths("interpolate", frames=48) == (48, 48, 12, 48)  # whole
    assert lengths("interpolate", frames=48, window=16) == (48, 16, 4, 48)
    assert lengths("loop", frames=47) == (47, 48, 12, 48)
    assert lengths("loop", window=8) == (7, 8, 2, 8)


def test_a_size_as_the_image_has_its_shape_and_the_models_area() -> None:
    settings = resolve(MODELS["512"], "animate", "", 0, {"size": "as-input"}, image_size=(4000, 3000))
    assert (settings.width, settings.height, settings.fit) == (448, 320, "stretch")
    assert video_size(MODELS["512"], settings, (801, 601)) == (801, 601)
    width, height = video_size(MODELS["512"], settings, (8000, 6000))
    assert (width / height, width * height) == (pytest.approx(4 / 3, rel=1e-3), pytest.approx(3840 * 2160, rel=1e-3))
    narrow = resolve(MODELS["512"], "animate", "", 0, {"size": "as-input"}, image_size=(3, 10_000))
    assert (narrow.width, narrow.height) == (64, 23360)
    usual = resolve(MODELS["tiny"], "animate", "", 0, {}, image_size=(30, 40))
    assert video_size(MODELS["tiny"], usual, (30, 40)) == (256, 256)
