from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dcrafter.config import MODELS, UNetConfig
from dcrafter.models.unet import DeepFeatures, Downsample, FrameConv, TemporalConv, UNet3D, clips

MICRO = UNetConfig(
    in_channels=6,
    out_channels=3,
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(1, 2),
    head_channels=8,
    init_attn_heads=2,
    context_dim=12,
    image_tokens_per_frame=2,
    norm_groups=4,
)


def inputs(frames: int, dtype: torch.dtype = torch.float32, tokens: int | None = None) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, 6, frames, 4, 6), (1, 5, 12), (1, tokens or 2 * frames, 12)]
    x, text, image = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return [x, torch.tensor([737]), text, image, torch.tensor([24])]


@pytest.fixture
def unet() -> UNet3D:
    torch.manual_seed(0)
    return UNet3D(MICRO).eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_runs_in_half_types_near_float32(unet: UNet3D, dtype: torch.dtype) -> None:
    exact = unet(*inputs(4))
    out = unet.to(dtype)(*inputs(4, dtype))
    assert out.dtype == dtype
    assert float((out.float() - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("frames", [1, 3, 16, 20])
def test_any_number_of_frames(unet: UNet3D, frames: int) -> None:
    assert unet(*inputs(frames)).shape == (1, 3, frames, 4, 6)


def test_each_frame_sees_its_own_image_tokens_only_where_the_count_says_so(unet: UNet3D) -> None:
    """With 2·T tokens a frame reads its own two; with any other count all frames read all tokens."""
    seen: list[tuple[int, ...]] = []
    layer = unet.dual_attentions()[0].to_k_ip
    layer.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape)))
    unet(*inputs(4))
    unet(*inputs(4, tokens=7))
    assert seen == [(4, 2, 12), (1, 7, 12)]


def test_context_scale_reaches_the_layers_in_the_papers_order() -> None:
    with torch.device("meta"):
        full = UNet3D(MODELS["512"].unet)
    layers = full.dual_attentions()
    assert len(layers) == MODELS["512"].unet.dual_attention_layers == 16
    widths = [layer.to_q.in_features for layer in layers]
    down, up = [320, 320, 640, 640, 1280, 1280], [1280] * 3 + [640] * 3 + [320] * 3
    assert widths == [*down, 1280, *up]
    full.set_context_scale([float(i) for i in range(16)])
    assert [layer.context_scale for layer in layers] == [float(i) for i in range(16)]
    with pytest.raises(ValueError, match="shorter"):
        full.set_context_scale([1.0])


def test_dual_attention_layers_are_counted_right_for_the_registry() -> None:
    for config in MODELS.values():
        with torch.device("meta"):
            assert len(UNet3D(config.unet).dual_attentions()) == config.unet.dual_attention_layers


def test_frame_convolution_is_the_three_by_one_by_one_one() -> None:
    conv = FrameConv(6)
    x = torch.randn(2, 6, 5, 12)
    reference = nn.functional.conv3d(
        x.unflatten(-1, (3, 4)), conv.weight[..., None, None], conv.bias, padding=(1, 0, 0)
    )
    torch.testing.assert_close(conv(x), reference.flatten(-2))


def test_temporal_convolution_normalises_each_video_over_all_its_frames() -> None:
    torch.manual_seed(0)
    layer = TemporalConv(8, groups=2)
    one, other = torch.randn(3, 8, 2, 2), 10 * torch.randn(3, 8, 2, 2)
    together = layer(torch.cat([one, other]), frames=3)
    torch.testing.assert_close(together[:3], layer(one, frames=3))
    assert not torch.allclose(layer(one, frames=3)[0], layer(one[:1], frames=1)[0])


@pytest.mark.parametrize("videos", [1, 2])
def test_norms_over_a_clip_keep_frames_channels_last(videos: int) -> None:
    x = torch.randn(3 * videos, 8, 2, 2).to(memory_format=torch.channels_last)
    seen = clips(x, frames=3)
    assert torch.equal(seen[0, :, 1], x[1].flatten(1))
    assert seen.data_ptr() == x.data_ptr()
    assert nn.functional.group_norm(seen, 2).stride() == seen.stride()


def test_published_structure() -> None:
    """Where the published model changes size, and attention at the first three of its four levels."""
    with torch.device("meta"):
        full = UNet3D(MODELS["256"].unet)
    encoder = [isinstance(block, Downsample) for block in full.encoder]
    assert encoder == [False, False, True] * 3 + [False, False]
    assert len(full.decoder) == 12
    assert [block.up is not None for block in full.decoder] == [False, False, True] * 3 + [False] * 3
    assert [block.spatial is not None for block in full.decoder] == [False] * 3 + [True] * 9


@pytest.mark.parametrize("blocks", [1, 2])
def test_deep_features_stand_for_the_deep_blocks(blocks: int) -> None:
    torch.manual_seed(0)
    unet = UNet3D(replace(MICRO, num_res_blocks=blocks)).eval().requires_grad_(False)
    used: list[nn.Module] = []
    for block in (*unet.encoder, unet.middle, *unet.decoder):
        block.register_forward_pre_hook(lambda module, args: used.append(module))
    x, *conditions = inputs(4)
    deep = DeepFeatures()
    whole = unet(x, *conditions, deep=deep)
    assert whole.equal(unet(x, *conditions))
    used.clear()
    deep.anew = False
    assert unet(x, *conditions, deep=deep).equal(whole)
    assert used == [*unet.encoder[: blocks - 1], *unet.decoder[-blocks:]]
    assert not unet(x + 1, *conditions, deep=deep).equal(whole)


def test_micro_sizes_reach_everything() -> None:
    """Nothing is hard-coded: another width, depth and context run too."""
    config = replace(MICRO, model_channels=32, context_dim=20, transformer_depth=2, learnable_image_scale=True)
    x, t, _, _, fs = inputs(4)
    unet = UNet3D(config)
    assert unet(x, t, torch.randn(1, 3, 20), torch.randn(1, 8, 20), fs).shape == (1, 3, 4, 4, 6)
    assert len(unet.dual_attentions()) == config.dual_attention_layers


@pytest.mark.slow
@torch.inference_mode()
def test_blocks_of_a_kind_are_compiled_once() -> None:
    from torch._dynamo.testing import CompileCounter

    unet = UNet3D(replace(MICRO, channel_mult=(1,), num_res_blocks=2)).eval().requires_grad_(False)
    exact, counter = unet(*inputs(4)), CompileCounter()
    unet.compile_blocks(backend=counter, fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(unet(*inputs(4)), exact)
        assert counter.frame_count == 4  # residual blocks of two widths, a transformer in space and one in time
        weights = {key: value.clone() for key, value in unet.state_dict().items()}
        unet.load_state_dict(weights, assign=True)  # as loading a component anew does
