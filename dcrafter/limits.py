"""How large a model's configuration may be.

Configurations come out of files by strangers, and a model is built from them: a few hundred bytes must not ask for
a million layers. The limits are many times the published models, and a model within them is built in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

WIDTH = (1, 16_384)  # channels, or features of a token
LAYERS = (1, 128)
HEADS = (1, 256)
MULTIPLIERS = (1, 16)
GROUPS = (1, 256)
FACTOR = (1e-6, 100)
MAX_LENGTH = 8  # numbers in a row: levels of a UNet
MAX_BLOCKS = 512  # of a UNet, all levels together
OTHERS = (0, 65_536)  # numbers of fields that are not below

# Least and greatest value of each field of `config`'s dataclasses, by class; in a row, of each number in it.
RANGES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "UNetConfig": {
        "in_channels": WIDTH,
        "out_channels": WIDTH,
        "model_channels": (2, 4096),
        "channel_mult": MULTIPLIERS,
        "num_res_blocks": (1, 16),
        "attention_resolutions": (1, 128),
        "head_channels": (1, 1024),
        "init_attn_heads": HEADS,
        "transformer_depth": (1, 16),
        "context_dim": WIDTH,
        "image_tokens_per_frame": (1, 1024),
        "norm_groups": GROUPS,
        "time_channels": (0, 4096),
    },
    "AutoencoderConfig": {
        "latent_channels": (1, 1024),
        "channels": (1, 4096),
        "channel_mult": MULTIPLIERS,
        "num_res_blocks": (1, 16),
        "decoder_channels": (1, 4096),
        "decoder_res_blocks": (1, 17),
        "fold": (1, 16),
        "scale": FACTOR,
        "norm_groups": GROUPS,
    },
    "ReferenceConfig": {
        "attention_levels": (0, MAX_LENGTH),
        "heads": HEADS,
        "head_channels": (1, 1024),
    },
    "VisionConfig": {
        "image_size": (8, 1024),
        "layers": LAYERS,
        "width": WIDTH,
        "head_width": (1, 1024),
        "patch_size": (1, 128),
        "mlp_ratio": (0.25, 16),
    },
    "TextConfig": {
        "context_length": (8, 1024),
        "vocab_size": (49_408, 1_000_000),  # the tokenizer gives numbers below the least
        "width": WIDTH,
        "heads": HEADS,
        "layers": (2, 128),  # the last but one is read
        "mlp_ratio": (0.25, 16),
    },
    "CLIPConfig": {"embed_dim": WIDTH},
    "QueryTransformerConfig": {
        "embedding_dim": WIDTH,
        "dim": WIDTH,
        "depth": LAYERS,
        "heads": HEADS,
        "head_channels": (1, 1024),
        "ff_mult": (1, 16),
        "queries_per_frame": (1, 1024),
        "frames": (1, 256),
        "output_dim": WIDTH,
    },
    "ScheduleConfig": {
        "num_timesteps": (2, 10_000),
        "beta_start": (1e-9, 0.5),
        "beta_end": (1e-9, 0.5),
        "rescale_base": (1e-3, 1),
        "rescale_steps": (1, 10_000),
    },
    "Motion": dict.fromkeys(("minimum", "maximum", "default", "low", "medium", "high"), (0, 1000)),
    "ModelConfig": {
        "height": (8, 8192),
        "width": (8, 8192),
        "frames": (2, 256),
        "steps": (1, 10_000),
        "eta": (0, 1),
        "guidance": (0, 100),
        "guidance_rescale": (0, 1),
    },
}


def check_ranges(part: Any) -> None:
    """Raises ValueError where a number of a configuration, or of a part of it, is outside of what is sane."""
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value):
            check_ranges(value)
            continue
        row = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and not 1 <= len(value) <= MAX_LENGTH:
            raise ValueError(f"{type(part).__name__}.{field.name} has {len(value)} values, not 1 to {MAX_LENGTH}")
        least, greatest = RANGES.get(type(part).__name__, {}).get(field.name, OTHERS)
        for number in row:
            if isinstance(number, int | float) and not least <= number <= greatest:
                said = f"{number:g}" if abs(number) < 1e300 else "a huge number"
                raise ValueError(f"{type(part).__name__}.{field.name} must be {least:g} to {greatest:g}, not {said}")


def check_consistent(config: Any) -> None:
    """Raises ValueError where a ModelConfig's sizes, each in range, do not make a model together."""
    unet, autoencoder, vision, text = config.unet, config.autoencoder, config.clip.vision, config.clip.text
    schedule = config.schedule
    heads = max(1, vision.width // vision.head_width)
    levels = len(unet.channel_mult)
    wrong = {
        "UNetConfig.model_channels must be even": unet.model_channels % 2,
        "UNetConfig.time_channels must be even": unet.time_channels % 2,
        "UNetConfig.model_channels must be a multiple of its norm_groups": unet.model_channels % unet.norm_groups,
        "UNetConfig.head_channels is more than model_channels": unet.head_channels > unet.model_channels,
        "UNetConfig.channel_mult must begin with 1": unet.channel_mult[0] != 1,
        "UNetConfig has too many blocks": levels * (2 * unet.num_res_blocks + 1) * unet.transformer_depth > MAX_BLOCKS,
        "AutoencoderConfig.channels must be a multiple of its norm_groups": autoencoder.channels
        % autoencoder.norm_groups,
        "AutoencoderConfig.decoder_channels must be a multiple of its norm_groups": autoencoder.decoder_channels
        % autoencoder.norm_groups,
        "VisionConfig.width must be a multiple of its heads": vision.width % heads,
        "VisionConfig.image_size is less than a patch": vision.image_size < vision.patch_size,
        "TextConfig.width must be a multiple of its heads": text.width % text.heads,
        "ScheduleConfig.beta_end is not above beta_start": schedule.beta_end <= schedule.beta_start,
        "Motion.maximum is below its minimum": config.motion.maximum < config.motion.minimum,
    }
    for complaint, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(complaint)
