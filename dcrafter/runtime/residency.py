"""Which components of a model have weights in memory, and in which memory plan and type they run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from dcrafter.errors import NumericalError, OutOfMemoryError
from dcrafter.events import Loading, MemoryDowngraded
from dcrafter.generators import drain, lag
from dcrafter.models import fast
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.runtime import estimate
from dcrafter.runtime.allocator import keep_freed_memory, return_freed_memory
from dcrafter.runtime.devices import begin_download, free_memory
from dcrafter.runtime.streaming import Streaming, streamed_blocks
from dcrafter.settings import MEMORY_PLANS, Settings
from dcrafter.weights.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

PACKED = ("unet", "sketch_encoder", "autoencoder")  # the components that run long enough to be worth it
SLICES = 8  # of feed-forward layers where memory is scarce


Event = TypeVar("Event")
Result = TypeVar("Result")


class Residency:
    """Loads the components of a model when they are needed and releases the others: the peak is the largest one.

    Memory plans, each slower and smaller: `normal`; `low` computes feed-forward layers in slices and has every second
    block of the UNet in memory only while it runs, `min` every block of it and of CLIP's towers.
    """

    def __init__(self, model: DynamiCrafter, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.checkpoint = model, checkpoint
        self.device, self.dtype = device, dtype
        self.plan = "normal"
        self.keep_decoder = False  # beside the UNet, so that one video after the other swaps nothing
        self._least = "normal"  # the first plan that did not run out of memory
        self._loaded: tuple[tuple[str, ...], torch.dtype, str] = ((), dtype, "")  # components, type, plan
        self._streaming: list[Streaming] = []

    # Components

    def ensure_loaded(self, *components: str, dtype: torch.dtype | None = None) -> Generator[Loading, None, None]:
        """Load these components (children of the model, by name); release the others if any was missing."""
        dtype = dtype or self.dtype
        loaded, *how = self._loaded
        if set(components) <= set(loaded) and how == [dtype, self.plan]:
            return
        self.release()
        with self._exact_memory():
            for name in components:
                streamed = streamed_blocks(self.model, name, self.plan)
                steps = self.checkpoint.load(
                    self.model, name, device=self.device, dtype=dtype, leave_out=tuple(streamed)
                )
                for done, total in steps:
                    yield Loading(name, done, total)
                self._pack(name, dtype)
                if streamed:
                    self._streaming.append(self._stream(name, streamed, dtype))
        self._loaded = (components, dtype, self.plan)

    def ensure_unet_loaded(self, *others: str) -> Generator[Loading, None, None]:
        """Load the UNet and others, and beside them the autoencoder where that is to stay."""
        return self.ensure_loaded("unet", *others, *(["autoencoder"] if self.keep_decoder else []))

    def release(self) -> None:
        """Give back the memory of all weights."""
        self._loaded = ((), self.dtype, "")
        while self._streaming:
            self._streaming.pop().close()
        for module in self.model.children():
            _to_meta(module)

    def _stream(self, name: str, blocks: dict[str, nn.Module], dtype: torch.dtype) -> Streaming:
        """Load the blocks of a component when they run."""

        def load(path: str) -> None:
            drain(self.checkpoint.load(self.model, f"{name}.{path}", device=self.device, dtype=dtype))
            self._pack(f"{name}.{path}", dtype)

        return Streaming(blocks, load, _to_meta, self.device)

    def _pack(self, name: str, dtype: torch.dtype) -> None:
        """Give a loaded part its faster form, where there is one; a CPU's has nothing left to compile."""
        part, component = self.model.get_submodule(name), self.model.get_submodule(name.split(".")[0])
        compiled = any(module._compiled_call_impl is not None for module in component.modules())
        if name.split(".")[0] not in PACKED:
            return
        if self.device.type == "cuda":
            fast.order_channels_last(part)
        elif fast.supported(self.device, dtype) and not compiled:
            fast.pack(part)

    def working_memory(self) -> AbstractContextManager[None]:
        """What evaluations of a loaded component run in: with memory to spare, a CPU keeps what tensors give back."""
        return keep_freed_memory() if self.device.type == "cpu" and self.plan == "normal" else self._exact_memory()

    def _exact_memory(self) -> AbstractContextManager[None]:
        return return_freed_memory() if self.device.type == "cpu" else nullcontext()

    def run_finite(self, run: Callable[[], Tensor], *components: str) -> Tensor:
        """The result of `run`; run it again with its components in float32 if that is not finite.

        Raises NumericalError if it still is not.
        """
        while True:
            with self.working_memory():  # else the next component's weights stay in what this one's left of the heap
                out = run()
            if out.isfinite().all():
                return out
            self._change_to_float32(*components)

    def follow_finite(
        self, run: Callable[[], Iterator[tuple[Event, Tensor]]], *components: str
    ) -> Generator[Event, None, Tensor]:
        """Events of what runs in steps, each with a tensor; begins again in float32 after the first not finite.

        A GPU has the next step queued when one is waited for, so that it never idles and the events keep its pace.
        Returns the last step's tensor.
        """
        queued = 1 if self.device.type == "cuda" else 0
        checked = ((step, begin_download(step[1].isfinite().all())) for step in run())
        for step, is_finite in lag(checked, queued):
            if not is_finite():
                break
            yield step[0]
        else:
            return step[1]
        self._change_to_float32(*components)
        return (yield from self.follow_finite(run, *components))

    def _change_to_float32(self, *components: str) -> None:
        """Load components once more, in float32. Raises NumericalError where that is what they were in."""
        if self._loaded[1] == torch.float32:
            raise NumericalError(
                f"the {components[0]} gave NaN or infinite values", "The checkpoint may be damaged; verify it"
            )
        logger.warning("%s gave NaN or infinite values in %s; going on in float32", components[0], self.dtype)
        drain(self.ensure_loaded(*components, dtype=torch.float32))

    # Memory plans

    def choose_plan(self, settings: Settings, plan: str = "auto", room: int | None = None) -> None:
        """Follow a memory plan, or a smaller one if memory ran out with it before.

        Args:
            settings: What will be generated.
            plan: `auto` is the first that fits into `room`.
            room: Bytes, by default what is free now.
        """
        if plan == "auto":
            room = free_memory(self.device) if room is None else room
            plan = estimate.plan_for(self.model, settings, self.dtype, room, self.device)
        self._follow(max(plan, self._least, key=MEMORY_PLANS.index))

    def frames_at_once(self, latents: Tensor) -> int:
        """How many frames to decode together: on a GPU what takes no more memory than sampling, elsewhere one."""
        if self.device.type != "cuda" or self.plan != "normal":
            return 1
        videos, _, _, height, width = latents.shape
        return max(1, estimate.images_at_once(self.model, height * width) // videos)

    def downgrade_plan(self) -> bool:
        """Release everything and follow the next smaller plan. False if there is none."""
        self.keep_decoder = False
        self.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = MEMORY_PLANS[MEMORY_PLANS.index(self.plan) + 1 :]
        if smaller:
            self._least = smaller[0]
            self._follow(self._least)
        return bool(smaller)

    def retry_with_less(
        self, attempt: Callable[[], Generator[Event, None, Result]]
    ) -> Generator[Event | MemoryDowngraded, None, Result]:
        """Events of `attempt()`; where it runs out of memory, once more with the next smaller plan, down to the last.

        Raises whatever the last attempt does.
        """
        while True:
            try:
                return (yield from attempt())
            except Exception as error:
                if not OutOfMemoryError.means(error) or not self.downgrade_plan():
                    raise
            yield MemoryDowngraded(self.plan)  # here, where the failed attempt's tensors are gone

    def _follow(self, plan: str) -> None:
        self.plan = plan
        self.model.unet.set_slices(1 if plan == "normal" else SLICES)


def _to_meta(module: nn.Module) -> None:
    """Give back the memory of a module's weights."""
    fast.unpack(module)
    for layer in module.modules():
        for name, weight in layer.named_parameters(recurse=False):
            if not weight.is_meta:
                setattr(layer, name, nn.Parameter(weight.to("meta"), requires_grad=weight.requires_grad))
