"""What a configuration says about a checkpoint's keys, held against them before anything is built.

`Checkpoint.check` compares every key with a model's; this costs nothing, and leaves no layer to be built that a file
does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dcrafter.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor


def differences(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str]]:
    """Key or list of layers, what it is in the file, and what the configuration says.

    Of what a file does not hold, nothing is said. Keys are ours.
    """
    for prefix, wanted in _layers(config).items():
        found = {match[1] for key in tensors if (match := re.match(re.escape(prefix) + r"\.(\d+)\.", key))}
        if found and len(found) != wanted:
            yield prefix, f"{len(found)} layers", str(wanted)
    for key, shape in _shapes(config).items():
        if key in tensors and tuple(tensors[key].shape) != shape:
            yield key, str(tuple(tensors[key].shape)), str(shape)


def _layers(config: ModelConfig) -> dict[str, int]:
    """How many layers each list of them has."""
    unet, autoencoder = config.unet, config.autoencoder
    levels = len(unet.channel_mult)
    refinements = {"autoencoder.decoder.refinements": len(autoencoder.channel_mult) + 1}
    return (refinements if autoencoder.references else {}) | {
        "unet.encoder": levels * unet.num_res_blocks + levels - 1,
        "unet.decoder": levels * (unet.num_res_blocks + 1),
        "unet.middle.stage.spatial.blocks": unet.transformer_depth,
        "autoencoder.encoder.levels": len(autoencoder.channel_mult),
        "autoencoder.encoder.levels.0.blocks": autoencoder.num_res_blocks,
        "autoencoder.decoder.levels.0.blocks": autoencoder.decoder_res_blocks,
        "text_encoder.transformer.resblocks": config.clip.text.layers,
        "image_encoder.transformer.resblocks": config.clip.vision.layers,
        "projector.layers": config.projector.depth,
    }


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes that show the configuration's sizes, each at least once."""
    unet, autoencoder, query = config.unet, config.autoencoder, config.projector
    vision, text = config.clip.vision, config.clip.text
    width, deepest = unet.model_channels, unet.model_channels * unet.channel_mult[-1]
    folded = 3 * autoencoder.fold**2
    last = autoencoder.channel_mult[-1]
    patches = (vision.image_size // vision.patch_size) ** 2
    return {
        "unet.conv_in.weight": (width, unet.in_channels, 3, 3),
        "unet.conv_out.weight": (unet.out_channels, width, 3, 3),
        "unet.init_attn.proj_in.weight": (unet.init_attn_heads * unet.head_channels, width),
        "unet.middle.res.conv1.weight": (deepest, deepest, 3, 3),
        "unet.middle.stage.spatial.blocks.0.attn2.to_k.weight": (
            deepest // unet.head_channels * unet.head_channels,
            unet.context_dim,
        ),
        "autoencoder.encoder.conv_in.weight": (autoencoder.channels, folded, 3, 3),
        "autoencoder.encoder.conv_out.weight": (2 * autoencoder.latent_channels, autoencoder.channels * last, 3, 3),
        "autoencoder.decoder.conv_in.weight": (
            autoencoder.decoder_channels * last,
            autoencoder.latent_channels,
            3,
            3,
        ),
        "text_encoder.token_embedding.weight": (text.vocab_size, text.width),
        "text_encoder.positional_embedding": (text.context_length, text.width),
        "text_encoder.text_projection": (text.width, config.clip.embed_dim),
        "text_encoder.transformer.resblocks.0.mlp.c_fc.weight": (int(text.width * text.mlp_ratio), text.width),
        "image_encoder.conv1.weight": (vision.width, 3, vision.patch_size, vision.patch_size),
        "image_encoder.positional_embedding": (patches + 1, vision.width),
        "image_encoder.proj": (vision.width, config.clip.embed_dim),
        "image_encoder.transformer.resblocks.0.mlp.c_fc.weight": (int(vision.width * vision.mlp_ratio), vision.width),
        "projector.queries": (1, query.queries_per_frame * query.frames, query.dim),
        "projector.proj_in.weight": (query.dim, query.embedding_dim),
        "projector.proj_out.weight": (query.output_dim, query.dim),
        "projector.layers.0.attn.to_q.weight": (query.heads * query.head_channels, query.dim),
        "projector.layers.0.ff.1.weight": (query.dim * query.ff_mult, query.dim),
    }
