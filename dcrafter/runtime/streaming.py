"""Weights that are in memory only while they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import cycle, islice
from typing import Protocol, cast

import torch
from torch import nn

from dcrafter.models.dynamicrafter import DynamiCrafter


class Blocks(Protocol):
    """A component that runs block by block."""

    def blocks(self) -> dict[str, nn.Module]: ...


class Streaming:
    """Reads the weights of each block while those before it compute, and frees them behind it."""

    def __init__(
        self,
        blocks: Mapping[str, nn.Module],
        load: Callable[[str], None],
        free: Callable[[nn.Module], None],
        device: torch.device,
    ) -> None:
        """
        Args:
            blocks: By name, in the order in which they run; behind the last comes the first again.
            load: Gives a block its weights, by its name.
            free: Takes them away.
            device: Where they go.
        """
        self._load, self._device = load, device
        self._reader = ThreadPoolExecutor(1)
        self._coming: dict[str, Future[None]] = {}
        on_gpu = device.type == "cuda" and torch.cuda.is_available()
        # A stream of its own, so that copies overlap with products.
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._handles = []
        for (name, block), following in zip(blocks.items(), islice(cycle(blocks), 1, None), strict=False):
            self._handles.append(block.register_forward_pre_hook(self._before(name, following)))
            self._handles.append(block.register_forward_hook(lambda block, *_: free(block)))

    def close(self) -> None:
        """Read nothing more; what has been read stays."""
        for handle in self._handles:
            handle.remove()
        self._reader.shutdown()

    def _before(self, name: str, following: str) -> Callable[[nn.Module, object], None]:
        def prepare(block: nn.Module, _: object) -> None:
            self._begin(name)
            self._coming.pop(name).result()
            if self._stream:  # their memory is not given to others before this block has computed
                for parameter in block.parameters():
                    parameter.record_stream(torch.cuda.current_stream(self._device))
            self._begin(following)

        return prepare

    def _begin(self, name: str) -> None:
        if name not in self._coming:
            self._coming[name] = self._reader.submit(self._read, name)

    @torch.inference_mode()
    def _read(self, name: str) -> None:
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            self._load(name)
        if self._stream:
            self._stream.synchronize()


def streamed_blocks(model: DynamiCrafter, component: str, plan: str) -> dict[str, nn.Module]:
    """The blocks of a component that a memory plan loads only while they run, by name, in the order of running."""
    if (component, plan) == ("unet", "low"):
        return dict(list(model.unet.blocks().items())[1::2])  # what is read meanwhile has a block's time for it
    if component in ("unet", "text_encoder", "image_encoder") and plan == "min":
        return cast(Blocks, model.get_submodule(component)).blocks()
    return {}
