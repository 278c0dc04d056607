from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from models.test_unet import MICRO, inputs
from torch import Tensor

from dcrafter.config import MODELS, UNetConfig
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.models.layers import sinusoidal_embedding
from dcrafter.models.sketch_encoder import SketchEncoder
from dcrafter.models.unet import UNet3D
from dcrafter.weights.checkpoint import SKETCHES
from dcrafter.weights.keys import to_ours, to_published

CONFIG = replace(MICRO, in_channels=8, out_channels=4, channel_mult=(1, 2, 2), attention_resolutions=(1, 2))


def published(encoder: SketchEncoder, model: str) -> dict[str, Tensor]:
    """Its weights under the published names."""
    ours = {f"{SKETCHES}.{key}": value for key, value in encoder.state_dict().items()}
    names = to_published(ours, model)
    assert [to_ours(name) for name in names.values()] == [*ours]
    return {names[key].removeprefix(f"{SKETCHES}."): value for key, value in ours.items()}


def test_the_full_size_encoder_is_the_published_one_key_by_key(golden: Path) -> None:
    manifest = json.loads((golden / "manifest_sketch.json").read_text())
    encoder = DynamiCrafter.on_meta(MODELS["toon"]).add_sketch_encoder()
    assert {name: [*value.shape] for name, value in published(encoder, "toon").items()} == manifest
    assert sum(value.numel() for value in encoder.state_dict().values()) == 364_227_952


class ControlNet:
    """The arithmetic of arXiv 2302.05543 for one image, plainly, from weights under the published names."""

    def __init__(self, weights: dict[str, Tensor], config: UNetConfig) -> None:
        self.w, self.groups, self.head_channels = weights, config.norm_groups, config.head_channels

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.conv2d(x, weight, self.w[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.group_norm(x, self.groups, self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def residual(self, name: str, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv(f"{name}.in_layers.2", F.silu(self.norm(f"{name}.in_layers.0", x, 1e-5)))
        h = h + self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        h = self.conv(f"{name}.out_layers.3", F.silu(self.norm(f"{name}.out_layers.0", h, 1e-5)))
        return h + (self.conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in self.w else x)

    def attend(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (self.linear(f"{name}.to_{each}", y) for each, y in (("q", x), ("k", context), ("v", context)))
        heads = []
        for at in range(0, q.shape[-1], self.head_channels):
            part = slice(at, at + self.head_channels)
            scores = q[0, :, part] @ k[0, :, part].T / math.sqrt(self.head_channels)
            heads.append(scores.softmax(-1) @ v[0, :, part])
        return self.linear(f"{name}.to_out.0", torch.cat(heads, -1)[None])

    def transformer(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        h = self.linear(f"{name}.proj_in", self.norm(f"{name}.norm", x, 1e-6).flatten(2).mT)
        block = f"{name}.transformer_blocks.0"
        seen = self.layer_norm(f"{block}.norm1", h)
        h = h + self.attend(f"{block}.attn1", seen, seen)
        h = h + self.attend(f"{block}.attn2", self.layer_norm(f"{block}.norm2", h), context)
        value, gate = self.linear(f"{block}.ff.net.0.proj", self.layer_norm(f"{block}.norm3", h)).chunk(2, -1)
        h = h + self.linear(f"{block}.ff.net.2", value * F.gelu(gate))
        return x + self.linear(f"{name}.proj_out", h).mT.view_as(x)

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, hint: Tensor) -> list[Tensor]:
        emb = sinusoidal_embedding(t, self.w["time_embed.0.weight"].shape[1])
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", emb)))
        for i in range(0, 16, 2):
            halved = self.w[f"input_hint_block.{i}.weight"].shape[:2] in ((32, 16), (96, 32), (256, 96))
            hint = self.conv(f"input_hint_block.{i}", F.silu(hint) if i else hint, 2 if halved else 1)
        h, out, n = self.conv("input_blocks.0.0", x) + hint, [], 0
        while f"zero_convs.{n}.0.weight" in self.w:
            name = f"input_blocks.{n}"
            if n:
                down = f"{name}.0.op.weight" in self.w
                h = self.conv(f"{name}.0.op", h, 2) if down else self.residual(f"{name}.0", h, emb)
                h = self.transformer(f"{name}.1", h, context) if f"{name}.1.norm.weight" in self.w else h
            out.append(self.conv(f"zero_convs.{n}.0", h))
            n += 1
        h = self.transformer("middle_block.1", self.residual("middle_block.0", h, emb), context)
        return [*out, self.conv("middle_block_out.0", self.residual("middle_block.2", h, emb))]


def test_each_frame_is_controlnets_by_itself() -> None:
    torch.manual_seed(0)
    encoder = SketchEncoder(CONFIG).eval().requires_grad_(False)
    oracle = ControlNet(published(encoder, "toon"), CONFIG)
    x_t, context, sketch = torch.randn(2, 4, 3, 4, 8), torch.randn(2, 7, 12), torch.rand(2, 1, 3, 32, 64)
    t = torch.tensor([3, 737])
    made = encoder(x_t, t, context, sketch)
    assert len(made) == 7
    for b in range(2):
        for f in range(3):
            frame = x_t[b : b + 1, :, f], t[b : b + 1], context[b : b + 1], sketch[b : b + 1, :, f]
            for ours, theirs in zip(made, oracle(*frame), strict=True):
                torch.testing.assert_close(ours[3 * b + f : 3 * b + f + 1], theirs, rtol=1e-4, atol=1e-5)


def test_residuals_are_added_to_what_the_unet_skips_and_to_its_middle() -> None:
    torch.manual_seed(0)
    unet = UNet3D(MICRO).eval().requires_grad_(False)
    skipped: list[Tensor] = []
    for stage in unet.decoder:
        stage.register_forward_pre_hook(lambda stage, args: skipped.append(args[0]))
    plain = unet(*inputs(2))
    before = [*skipped]
    channels = [16, 16, 16, 32]  # of what is skipped, in the order of the encoder
    sizes = [(4, 6), (4, 6), (2, 3), (2, 3)]
    added = [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
    middle = torch.randn(2, 32, 2, 3)
    skipped.clear()
    assert not torch.allclose(unet(*inputs(2), [*added, middle]), plain, atol=1e-3)
    first = skipped[0] - before[0]  # what follows the middle sees it and the last of the skipped
    torch.testing.assert_close(first, torch.cat([middle, added[-1]], dim=1), rtol=0, atol=1e-4)
    for at, change in zip(range(1, 4), reversed(added[:-1]), strict=True):
        c = change.shape[1]
        torch.testing.assert_close(skipped[at][:, -c:] - before[at][:, -c:], change, rtol=0, atol=1e-4)
    torch.testing.assert_close(unet(*inputs(2), [0 * each for each in (*added, middle)]), plain)
