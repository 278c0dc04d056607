from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcrafter.config import MODELS, UNetConfig
from dcrafter.errors import UsageError
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.models.unet import UNet3D
from dcrafter.tiny.widen import main, turned, widen, wider
from dcrafter.weights.checkpoint import open_checkpoint

NARROW = UNetConfig(
    in_channels=4, out_channels=2, model_channels=32, channel_mult=(1, 1), num_res_blocks=1,
    attention_resolutions=(1, 2), head_channels=16, init_attn_heads=2, context_dim=8, image_tokens_per_frame=2,
    learnable_image_scale=True, norm_groups=8,
)  # fmt: skip
FRAMES = 3


def inputs(config: UNetConfig) -> tuple[Tensor, ...]:
    image = torch.randn(2, config.image_tokens_per_frame * FRAMES, config.context_dim)
    text, fs = torch.randn(2, 5, config.context_dim), torch.tensor([8, 12])
    return torch.randn(2, config.in_channels, FRAMES, 8, 8), torch.tensor([0, 777]), text, image, fs


def trained(config: UNetConfig) -> UNet3D:
    """A UNet with no value of its normalizations and gates as initialized."""
    unet = UNet3D(config)
    for parameter in unet.parameters():
        if parameter.ndim < 2:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    return unet


@pytest.mark.parametrize("channels", [48, 64])
def test_the_wide_one_computes_what_the_narrow_one_does(channels: int) -> None:
    torch.manual_seed(0)
    config = wider(NARROW, channels)
    assert (config.model_channels, config.norm_groups, config.time_channels) == (channels, channels // 4, 32)
    narrow, wide = trained(NARROW), UNet3D(config)
    given = inputs(NARROW)
    expected = narrow(*given)
    assert not torch.allclose(wide(*given), expected, atol=0.1)
    widen(narrow, wide)
    torch.testing.assert_close(wide(*given), expected, atol=1e-5, rtol=1e-5)


def test_what_is_new_learns_from_the_first_step_on() -> None:
    """Nothing is dead on both sides: after a step by gradients every new weight has one."""
    torch.manual_seed(0)
    wide = UNet3D(wider(NARROW, 48))
    widen(trained(NARROW), wide)
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        wide(*inputs(NARROW)).square().mean().backward()
        optimizer.step()
    for name, parameter in wide.named_parameters():
        if parameter.ndim > 1:
            assert parameter.grad is not None
            assert (parameter.grad.flatten(1).abs().amax(dim=1) > 0).float().mean() > 0.9, name


def test_a_turned_stream_keeps_mean_and_variance() -> None:
    x, space = torch.randn(5, 12).double() + 3, turned(12, 20)
    wide = x @ space.up.T
    torch.testing.assert_close(wide.mean(1), x.mean(1))
    torch.testing.assert_close(wide.var(1, unbiased=False), x.var(1, unbiased=False))
    torch.testing.assert_close(wide @ space.down.T, x)


def test_channels_that_make_no_heads_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 32"):
        wider(MODELS["tiny"].unet, 144)


def test_the_built_in_model_wider_is_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = Path(__file__).parents[2] / "dcrafter" / "weights" / "tiny.safetensors"
    monkeypatch.setattr("sys.argv", ["widen", str(packaged), str(tmp_path / "wide.safetensors"), "--channels", "160"])
    main()
    wide = open_checkpoint(tmp_path / "wide.safetensors", model="tiny")
    wide.check(DynamiCrafter.on_meta(wide.config))
    assert wide.config.unet.model_channels == 160
    assert wide.config.unet.norm_groups == 40
