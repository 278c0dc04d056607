"""What memory a training step takes, found on the meta device: nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.models.unet import UNet3D, UNetStage
from dcrafter.training.inputs import Inputs


class _Attention(torch.autograd.Function):
    """Attention that keeps what a fused kernel keeps: inputs and output, not the matrix of scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("a plan runs the forward pass only")


class _Fused(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args)
        return func(*args, **(kwargs or {}))


def kept_bytes(run: Callable[[], object], parts: Iterable[nn.Module]) -> tuple[int, list[int]]:
    """Bytes that `run` on the meta device keeps for a backward pass, without parameters and with fused attention.

    Returns the total, and the bytes kept within each call of one of `parts`, none of which contains another; a
    part's first input counts as outside it.
    """
    kept: dict[int, Tensor] = {}
    within: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def so_far() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    def enter(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        keep(given[0])
        within.append(-so_far())

    def leave(*_: object) -> None:
        within[-1] += so_far()

    handles = []
    for part in parts:
        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _Fused():
        run()
    for handle in handles:
        handle.remove()
    return so_far(), within


def unet_stages(unet: UNet3D) -> list[UNetStage]:
    """The modules that are recomputed one by one where activations are checkpointed."""
    return [module for module in unet.modules() if isinstance(module, UNetStage)]


def activation_bytes(
    model: DynamiCrafter, batch: int, dtype: torch.dtype, *, context: bool, single: bool, checkpointing: bool
) -> int:
    """Bytes beside the weights that a batch's passes through the UNet take at most, about.

    That is what is kept for the backward pass, or, with `checkpointing`, what goes into each stage of the UNet and
    then all of the largest one, which is evaluated anew; and in a half type the weights' copies in it. Attention
    counts as on a GPU; the plain one that a CPU gets keeps its matrices too.

    Args:
        model: on the meta device; its UNet is changed to `dtype`.
        batch: number of clips.
        dtype: of the passes.
        context: whether there is an image context.
        single: whether a clip is one frame.
        checkpointing: whether activations are recomputed.
    """
    config, unet, factor = model.config, model.unet, model.config.autoencoder.downsampling
    frames = 1 if single else config.frames
    tokens = config.unet.image_tokens_per_frame * frames if context else 1
    size = (batch, config.autoencoder.latent_channels, frames, config.height // factor, config.width // factor)
    unet.to(dtype)
    unet.set_temporal(not single)

    def run() -> None:
        text = torch.empty(batch, config.clip.text.context_length, config.unet.context_dim)
        image = torch.empty(batch, tokens, config.unet.context_dim)
        inputs = Inputs(torch.empty(size), text, image, torch.empty(size), torch.ones(batch))
        inputs.denoise(unet, torch.empty(size), torch.ones(batch))

    kept, within = kept_bytes(run, unet_stages(unet))
    copies = sum(value.numel() for value in unet.parameters()) * dtype.itemsize if dtype.itemsize == 2 else 0
    if not checkpointing:
        return kept + copies
    return kept - sum(within) + max([copies, *within])
