"""Published names ↔ ours: keys and shapes, as rules."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dcrafter.weights.families import family

# Each rule is a stretch of a published key and ours for it. They are applied from top to bottom, and for the way
# back from bottom to top; {n} stands for a number, {n+1} for the next one.
RULES = [
    # the components
    ("model.diffusion_model.", "unet."),
    ("first_stage_model.", "autoencoder."),
    ("cond_stage_model.model.", "text_encoder."),
    ("embedder.model.visual.", "image_encoder."),
    ("image_proj_model.", "projector."),
    # the UNet's blocks
    ("unet.framestride_embed.", "unet.fs_embed."),
    ("unet.fps_embedding.", "unet.fs_embed."),
    ("unet.input_blocks.0.0.", "unet.conv_in."),
    ("unet.init_attn.0.", "unet.init_attn."),
    ("unet.input_blocks.{n+1}.0.op.", "unet.encoder.{n}.conv."),
    ("unet.input_blocks.{n+1}.0.", "unet.encoder.{n}.res."),
    ("unet.input_blocks.{n+1}.1.", "unet.encoder.{n}.spatial."),
    ("unet.input_blocks.{n+1}.2.", "unet.encoder.{n}.temporal."),
    ("unet.middle_block.0.", "unet.middle.stage.res."),
    ("unet.middle_block.1.", "unet.middle.stage.spatial."),
    ("unet.middle_block.2.", "unet.middle.stage.temporal."),
    ("unet.middle_block.3.", "unet.middle.res."),
    ("unet.output_blocks.{n}.1.conv.", "unet.decoder.{n}.up.conv."),  # a level without attention
    ("unet.output_blocks.{n}.3.conv.", "unet.decoder.{n}.up.conv."),
    ("unet.output_blocks.{n}.0.", "unet.decoder.{n}.res."),
    ("unet.output_blocks.{n}.1.", "unet.decoder.{n}.spatial."),
    ("unet.output_blocks.{n}.2.", "unet.decoder.{n}.temporal."),
    ("unet.out.0.", "unet.norm_out."),
    ("unet.out.2.", "unet.conv_out."),
    # the sketch encoder, a file of its own
    ("sketch_encoder.input_hint_block.", "sketch_encoder.hint."),
    ("sketch_encoder.input_blocks.0.0.", "sketch_encoder.conv_in."),
    ("sketch_encoder.input_blocks.{n+1}.0.op.", "sketch_encoder.encoder.{n}.conv."),
    ("sketch_encoder.input_blocks.{n+1}.0.", "sketch_encoder.encoder.{n}.res."),
    ("sketch_encoder.input_blocks.{n+1}.1.", "sketch_encoder.encoder.{n}.spatial."),
    ("sketch_encoder.middle_block.0.", "sketch_encoder.middle.stage.res."),
    ("sketch_encoder.middle_block.1.", "sketch_encoder.middle.stage.spatial."),
    ("sketch_encoder.middle_block.2.", "sketch_encoder.middle.res."),
    ("sketch_encoder.middle_block_out.0.", "sketch_encoder.middle_output."),
    ("sketch_encoder.zero_convs.{n}.0.", "sketch_encoder.outputs.{n}."),
    # inside a residual block
    (".res.in_layers.0.", ".res.norm1."),
    (".res.in_layers.2.", ".res.conv1."),
    (".res.emb_layers.1.", ".res.embed."),
    (".res.out_layers.0.", ".res.norm2."),
    (".res.out_layers.3.", ".res.conv2."),
    (".res.skip_connection.", ".res.skip."),
    (".temopral_conv.conv{n+1}.3.", ".temporal_conv.convs.{n}."),
    (".temopral_conv.conv1.2.", ".temporal_conv.convs.0."),  # the first has no dropout before it
    (".temopral_conv.conv{n+1}.0.", ".temporal_conv.norms.{n}."),
    # inside a transformer
    (".transformer_blocks.{n}.", ".blocks.{n}."),
    (".attn1.to_out.0.", ".attn1.to_out."),
    (".attn2.to_out.0.", ".attn2.to_out."),
    (".ff.net.0.proj.", ".ff.proj_in."),
    (".ff.net.2.", ".ff.proj_out."),
    # the autoencoder
    ("autoencoder.encoder.down.{n}.block.", "autoencoder.encoder.levels.{n}.blocks."),
    ("autoencoder.encoder.down.{n}.downsample.", "autoencoder.encoder.levels.{n}.resample."),
    ("autoencoder.decoder.up.{n}.block.", "autoencoder.decoder.levels.{n}.blocks."),
    ("autoencoder.decoder.up.{n}.upsample.", "autoencoder.decoder.levels.{n}.resample."),
    ("autoencoder.decoder.attn_refinement.", "autoencoder.decoder.refinements."),
    ("autoencoder.decoder.conv_out.time_mix_conv.", "autoencoder.decoder.time_mix."),
    (".time_stack.in_layers.0.", ".time_norm1."),
    (".time_stack.in_layers.2.", ".time_conv1."),
    (".time_stack.out_layers.0.", ".time_norm2."),
    (".time_stack.out_layers.3.", ".time_conv2."),
    (".refinements.{n}.to_out.0.", ".refinements.{n}.to_out."),
    (".mid.block_1.", ".middle.0."),
    (".mid.attn_1.", ".middle.1."),
    (".mid.block_2.", ".middle.2."),
    (".nin_shortcut.", ".shortcut."),
    # the query transformer
    ("projector.latents", "projector.queries"),
    ("projector.layers.{n}.0.", "projector.layers.{n}.attn."),
    ("projector.layers.{n}.attn.norm1.", "projector.layers.{n}.attn.norm_tokens."),
    ("projector.layers.{n}.attn.norm2.", "projector.layers.{n}.attn.norm_queries."),
    ("projector.layers.{n}.1.", "projector.layers.{n}.ff."),
]

# Schedule tables, which we compute; averages kept for training; and what the image tower's CLIP has of a text side.
UNUSED = re.compile(
    r"(betas|scale_arr|scale_factor|logvar|model_ema\..*|(log_|sqrt_)?(one_minus_)?alphas_cumprod(_prev)?|sqrt_recipm?1?_alphas_cumprod"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])"
    r"|embedder\.model\.(positional_embedding|text_projection|logit_scale|(token_embedding|ln_final|transformer)\..*)"
    r"|(embedder|cond_stage_model)\.model\.attn_mask)"
)

# Kernels of size 1 that we hold as plain matrices, or one-dimensional: how many trailing ones theirs have.
TRAILING_ONES = [
    (re.compile(r".*\.temopral_conv\.conv\d\.[23]\.weight"), 2),
    (re.compile(r".*\.init_attn\.0\.proj_(in|out)\.weight"), 1),
    (re.compile(r".*\.mid\.attn_1\.(q|k|v|proj_out)\.weight"), 2),
    (re.compile(r".*\.(time_stack\.(in_layers\.2|out_layers\.3)|time_mix_conv)\.weight"), 2),
]


def _rewriter(source: str, target: str) -> tuple[re.Pattern[str], str, int]:
    """A rule's one direction: what to find, what to put, and what to add to the number found."""
    offset = ("{n+1}" in target) - ("{n+1}" in source)
    pattern = re.escape(source.replace("{n+1}", "{n}")).replace(re.escape("{n}"), r"(\d+)")
    start = "" if source.startswith(".") else "^"
    return re.compile(start + pattern), target.replace("{n+1}", "{n}"), offset


_TO_OURS = [_rewriter(published, ours) for published, ours in RULES]
_TO_PUBLISHED = [_rewriter(ours, published) for published, ours in reversed(RULES)]


def _rewrite(key: str, rewriters: list[tuple[re.Pattern[str], str, int]]) -> str:
    for pattern, target, offset in rewriters:
        if match := pattern.search(key):
            number = int(match[1]) + offset if match.groups() else None
            key = key[: match.start()] + target.replace("{n}", str(number)) + key[match.end() :]
    return key


def to_ours(key: str) -> str | None:
    """Our name of a published key; None where the key holds nothing that we read."""
    return None if UNUSED.fullmatch(key) else _rewrite(key, _TO_OURS)


def to_published(keys: Iterable[str], model: str) -> dict[str, str]:
    """Our keys of a whole model → the published ones, as a registry model calls them."""
    names = {key: _rewrite(key, _TO_PUBLISHED) for key in keys}
    levels_with_attention = {key.split(".spatial.")[0] for key in names if ".spatial." in key}
    renamed = family(model).renamed
    for key, name in names.items():
        if ".up.conv." in key and key.split(".up.")[0] not in levels_with_attention:
            name = re.sub(r"\.3\.conv\.", ".1.conv.", name)
        for usual, own in renamed.items():
            name = name.replace(usual, own)
        names[key] = name
    return names


def trailing_ones(published_key: str) -> int:
    """How many trailing dimensions of 1 a published weight has that ours has not."""
    return next((ones for pattern, ones in TRAILING_ONES if pattern.fullmatch(published_key)), 0)
