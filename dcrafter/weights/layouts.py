"""The names that a checkpoint's keys would have in a published file, whatever a copy of it made of them.

Cut copies hold some components alone, without the published prefixes or under others: `input_blocks.0.0.weight`,
`unet.input_blocks…`, `module.model._orig_mod.diffusion_model.input_blocks…`. OpenCLIP's own file has its two towers
under no prefix. Each component has keys that no other one has, and what stands before them is its prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import takewhile

from dcrafter.weights.keys import UNUSED

# A component's published prefix, and keys behind it that together mark it.
MARKS = {
    "model.diffusion_model.": ("input_blocks.0.0.weight", "out.2.weight"),
    "first_stage_model.": ("encoder.conv_in.weight", "decoder.conv_in.weight"),
    "image_proj_model.": ("latents", "layers.0.0.to_q.weight"),
    "embedder.model.visual.": ("ln_pre.weight", "transformer.resblocks.0.ln_1.weight"),
    "cond_stage_model.model.": ("token_embedding.weight", "transformer.resblocks.0.ln_1.weight"),
}
MAX_WRAPPERS = 4  # modules around all of it
COMPILED = "_orig_mod."  # torch.compile wraps a module in one of this name


def published_names(keys: Collection[str]) -> dict[str, str]:
    """Keys of a checkpoint of any layout → the published ones. Keys that belong to no component stay as they are."""
    names = {key: key.replace(COMPILED, "") for key in keys}
    for _ in range(MAX_WRAPPERS):
        heads = {name.partition(".")[:2] for name in names.values()}
        if len(heads) != 1 or len(names) == 1:
            break
        outer = "".join(*heads)  # all are within one module
        names = {key: name.removeprefix(outer) for key, name in names.items()}
    prefixes = {}
    for published, marks in MARKS.items():
        if (found := _prefix(published, marks, set(names.values()))) is not None:
            prefixes[found] = published
    return {key: _renamed(name, prefixes) for key, name in names.items()}


def _prefix(published: str, marks: tuple[str, ...], names: set[str]) -> str | None:
    """What stands before a component's keys: of several such prefixes, the one that ends most like the published."""
    first, *others = marks
    found = {name.removesuffix(first) for name in names if name.endswith(first)}
    found = {prefix for prefix in found if prefix.endswith(".") or not prefix}
    whole = [prefix for prefix in found if all(prefix + mark in names for mark in others)]
    return max(sorted(whole), key=lambda prefix: _alike(prefix, published), default=None)


def _alike(prefix: str, published: str) -> int:
    """How many segments at their ends are the same."""
    ends = zip(reversed(prefix.split(".")), reversed(published.split(".")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], ends)))


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    if UNUSED.fullmatch(name):
        return name
    own = [prefix for prefix in prefixes if name.startswith(prefix)]
    if not own:
        return name
    longest = max(own, key=len)
    return prefixes[longest] + name.removeprefix(longest)
