from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from dcrafter.config import MODELS, ModelConfig
from dcrafter.limits import RANGES


def parts(config: Any) -> list[Any]:
    inner = [getattr(config, field.name) for field in fields(config)]
    return [config, *(part for each in inner if is_dataclass(each) for part in parts(each))]


def changed(path: str, value: Any) -> ModelConfig:
    values = json.loads(json.dumps(MODELS["tiny"].to_dict()))
    *outer, last = path.split(".")
    table = values
    for name in outer:
        table = table[name]
    table[last] = value
    return ModelConfig.from_dict(values)


def test_ranges_are_of_fields_that_exist() -> None:
    names = {type(part).__name__: {field.name for field in fields(part)} for part in parts(MODELS["toon"])}
    assert set(RANGES) <= set(names)
    assert all(set(ranges) <= names[kind] for kind, ranges in RANGES.items())


@pytest.mark.parametrize(
    "path",
    [
        "unet.num_res_blocks", "unet.transformer_depth", "unet.model_channels", "unet.init_attn_heads",
        "autoencoder.num_res_blocks", "autoencoder.decoder_res_blocks", "autoencoder.fold", "clip.vision.layers",
        "clip.vision.image_size", "clip.text.layers", "clip.text.vocab_size", "clip.text.context_length",
        "projector.depth", "projector.queries_per_frame", "projector.frames", "frames", "height", "steps",
        "schedule.num_timesteps", "schedule.rescale_steps", "motion.maximum",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [0, -1, 10**7, 10**400])
def test_no_number_asks_for_more_than_can_be_built(path: str, value: int) -> None:
    if path.startswith("motion") and value == 0:
        pytest.skip("a motion of 0 is one")
    with pytest.raises((ValueError, TypeError), match=path.rpartition(".")[2]):
        changed(path, value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("unet.channel_mult", []),
        ("unet.channel_mult", [1] * 9),
        ("unet.channel_mult", [1, 1000]),
        ("unet.channel_mult", [2, 2]),
        ("unet.model_channels", 33),
        ("unet.model_channels", 66),
        ("unet.head_channels", 1024),
        ("autoencoder.channels", 65),
        ("autoencoder.decoder_channels", 97),
        ("autoencoder.scale", float("nan")),
        ("autoencoder.scale", 0.0),
        ("clip.vision.width", 130),
        ("clip.vision.patch_size", 128.0),
        ("clip.text.heads", 5),
        ("clip.text.layers", 1),
        ("clip.text.mlp_ratio", float("inf")),
        ("schedule.beta_start", 0.4),
        ("guidance", float("nan")),
    ],
)
def test_sizes_that_make_no_model_are_refused(path: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        changed(path, value)


def test_many_blocks_of_moderate_numbers() -> None:
    values = MODELS["tiny"].to_dict()
    values["unet"] |= {"channel_mult": (1,) * 8, "num_res_blocks": 16, "transformer_depth": 16}
    with pytest.raises(ValueError, match="too many blocks"):
        ModelConfig.from_dict(values)
