"""Which parameters each stage trains: the UNet's groups, and the paper's stages (section 3.3) in terms of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.models.layers import DualCrossAttention
from dcrafter.models.unet import ResBlock, SpatialTransformer, TemporalConv, TemporalTransformer, UNet3D
from dcrafter.training.recipe import Conditioning

Group = Literal["temporal", "spatial", "image attention", "embeddings"]


@dataclass(frozen=True)
class StageParts:
    """The groups of the UNet that a stage trains, and what the denoiser is given.

    With `context` it trains the query transformer too.
    """

    groups: tuple[Group, ...]
    context: bool = True  # the image context stream
    detail: bool = False  # visual detail guidance
    single_frames: bool = False  # one frame a clip: the temporal layers are left out
    needed: tuple[str, ...] = (
        "text_encoder",
        "autoencoder",
        "unet",
        "image_encoder",
        "projector",
    )  # components trained before
    fresh: tuple[Group, ...] = ()  # groups of the UNet that need not have been


STAGES: dict[str, StageParts] = {
    "text-to-video": StageParts(
        ("temporal", "spatial", "embeddings"), context=False, needed=("text_encoder", "autoencoder")
    ),
    "context": StageParts(
        ("image attention",),
        single_frames=True,
        needed=("text_encoder", "autoencoder", "unet", "image_encoder"),
        fresh=("image attention", "temporal", "embeddings"),  # of Stable Diffusion
    ),
    "adaptation": StageParts(("spatial", "image attention")),
    "detail": StageParts(("spatial", "image attention"), detail=True),
    "one-stage": StageParts(
        ("spatial", "image attention"),
        detail=True,
        needed=("text_encoder", "autoencoder", "unet", "image_encoder"),
        fresh=("image attention",),
    ),
}
"""The paper's stages by their names in recipes (section 3.3), and what it compares them with: one stage (figure 5b)."""


def parameter_groups(unet: UNet3D) -> dict[str, Group]:
    """The group that each of the UNet's parameters belongs to."""
    groups: dict[str, Group] = {name: "spatial" for name, _ in unet.named_parameters()}
    for prefix, module in unet.named_modules():
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters()]
        if isinstance(module, TemporalConv | TemporalTransformer):
            groups |= dict.fromkeys(names, "temporal")
        elif isinstance(module, DualCrossAttention):
            added = ("to_k_ip.weight", "to_v_ip.weight", "alpha")
            groups |= {name: "image attention" for name in names if name.removeprefix(f"{prefix}.") in added}
        elif prefix in ("time_embed", "fs_embed"):
            groups |= dict.fromkeys(names, "embeddings")
    return groups


@torch.no_grad()
def initialize(unet: UNet3D) -> None:
    """Residual branches, the image's attention and its latent start at zero, and so does the prediction."""
    silent: list[nn.Module] = [unet.conv_out]
    for module in unet.modules():
        match module:
            case ResBlock():
                silent.append(module.conv2)
            case TemporalConv():
                silent.append(module.convs[-1])
            case SpatialTransformer() | TemporalTransformer():
                silent.append(module.proj_out)
            case DualCrossAttention():
                silent.append(module.to_v_ip)
    for module in silent:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    unet.conv_in.weight[:, unet.config.in_channels // 2 :] = 0


def freeze(model: DynamiCrafter, parts: StageParts, options: Conditioning) -> None:
    """Require gradients for what a stage trains, and for nothing else."""
    groups = parameter_groups(model.unet)
    context = parts.context and options.context
    trained = set(parts.groups)
    if options.train == "everything":
        trained |= {"temporal", "spatial", "embeddings"}
    if not context:
        trained.discard("image attention")
    for name, parameter in model.unet.named_parameters():
        is_kept_scale = name.endswith(".alpha") and not options.learn_scale
        parameter.requires_grad_(groups[name] in trained and not is_kept_scale)
    trains = {"projector": context, "text_encoder": options.text_encoder}
    for name, component in model.named_children():
        if name != "unet":
            component.requires_grad_(trains.get(name, False))


def add_dropout(unet: UNet3D, share: float) -> None:
    """Dropout where the released code has it: before a residual block's second convolution, and before each of the
    temporal convolutions but the first. Only in training."""

    def drop(module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (F.dropout(given[0], share, module.training), *given[1:])

    for block in unet.modules():
        if isinstance(block, ResBlock):
            for convolution in (block.conv2, *list(block.temporal_conv.convs)[1:]):
                convolution.register_forward_pre_hook(drop)


@torch.no_grad()
def silence(unet: UNet3D, options: Conditioning) -> None:
    """Set to zero what a recipe leaves out, so that the model does without it too."""
    for layer in unet.dual_attentions():
        if not options.context:
            layer.to_v_ip.weight.zero_()
        if not options.learn_scale and layer.alpha is not None:
            layer.alpha.zero_()  # λ is 1
    if not options.detail:
        unet.conv_in.weight[:, unet.config.in_channels // 2 :] = 0
