"""What the benchmarks of computing share: models of random weights, the forms they run in, time and memory."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dcrafter.config import MODELS, ModelConfig
from dcrafter.models import fast, layers
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.models.unet import FrameConv
from dcrafter.runtime.allocator import keep_freed_memory
from dcrafter.runtime.machine import PeakMemory

CPU = torch.device("cpu")
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product is the machine's peak
PUBLISHED = ("evaluation",)  # the stages of which there is a published form here
BLOCK = 16_000_000  # random numbers, of which weights are repetitions

FULL = MODELS["512"]
CONFIGS: dict[str, ModelConfig] = {
    "tiny": MODELS["tiny"],
    # The published structure with narrower networks: about an eighth of its operations.
    "mid": replace(
        FULL,
        unet=replace(FULL.unet, model_channels=128, head_channels=32),
        autoencoder=replace(FULL.autoencoder, channels=64, decoder_channels=64),
        clip=replace(FULL.clip, vision=replace(FULL.clip.vision, layers=4), text=replace(FULL.clip.text, layers=3)),
    ),
    "full": FULL,
}
# For dry runs: every kind of layer, few of each.
SMALL = replace(
    FULL,
    width=32,
    height=32,
    unet=replace(
        FULL.unet, model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,),
        head_channels=16, context_dim=32,
    ),
    autoencoder=replace(
        FULL.autoencoder, channels=32, channel_mult=(1, 1, 1), num_res_blocks=1, decoder_channels=32,
        decoder_res_blocks=1,
    ),
    clip=replace(
        FULL.clip,
        embed_dim=32,
        vision=replace(FULL.clip.vision, image_size=32, layers=1, width=32, head_width=16, patch_size=16),
        text=replace(FULL.clip.text, width=32, heads=2, layers=2),
    ),
    projector=replace(
        FULL.projector, embedding_dim=32, dim=32, depth=1, heads=2, head_channels=16, output_dim=32
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What the steps of a generation take, in random numbers."""

    tokens: Tensor  # (1, L)
    pixels: Tensor  # (1, 3, H, W)
    x: Tensor  # (B, C, T, h, w)
    concat: Tensor  # as x
    text: Tensor  # (B, L, D)
    image: Tensor  # (B, M, D)
    t: Tensor  # (B,)
    fs: Tensor  # (B,)

    @staticmethod
    def make(config: ModelConfig, width: int, height: int, device: torch.device, branches: int = 1) -> Inputs:
        """For a video of this size; `branches` of guidance are evaluated at once."""
        torch.manual_seed(1)
        factor, dim, length = config.autoencoder.downsampling, config.unet.context_dim, config.clip.text.context_length
        latents = branches, config.unet.out_channels, config.frames, height // factor, width // factor
        queries = config.projector.queries_per_frame * config.projector.frames
        random = partial(torch.randn, device=device)
        return Inputs(
            torch.ones(1, length, dtype=torch.long, device=device),
            random(1, 3, height, width).clamp(-1, 1),
            random(latents),
            random(latents),
            random(branches, length, dim),
            random(branches, queries, dim),
            torch.full((branches,), 500, device=device),
            torch.full((branches,), 24, device=device),
        )


@dataclass(frozen=True)
class Stage:
    components: tuple[str, ...]
    run: Callable[[DynamiCrafter, Inputs], Tensor]


STAGES = {
    "text": Stage(("text_encoder",), lambda model, given: model.encode_text(given.tokens)),
    "image": Stage(("image_encoder", "projector"), lambda model, given: model.encode_image(given.pixels)),
    "encoding": Stage(("autoencoder",), lambda model, given: model.encode_frames(given.pixels, given.x[:1, :, 0])),
    "evaluation": Stage(
        ("unet",),
        lambda model, given: model.denoise(given.x, given.t, given.text, given.image, given.concat, given.fs),
    ),
    "decoding": Stage(("autoencoder",), lambda model, given: model.decode(given.x[:1, :, 0])),  # a frame
}


@cache
def operations(config: ModelConfig, stage: str, width: int, height: int, branches: int = 1) -> int:
    """Floating-point operations of a stage."""
    device = torch.device("meta")
    with device, FlopCounterMode(display=False) as counter:
        STAGES[stage].run(DynamiCrafter.on_meta(config), Inputs.make(config, width, height, device, branches))
    return counter.get_total_flops()


def fill(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module random weights, small ones, so that values stay finite."""
    block, state = random_block(device, dtype), {}
    for key, value in module.state_dict().items():
        count = value.numel()
        source = block if count <= BLOCK else block.repeat(-(-count // BLOCK))
        state[key] = source[:count].reshape(value.shape).clone()
    module.load_state_dict(state, assign=True)


@cache
def random_block(device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return (torch.randn(BLOCK, generator=generator, device=device) * 0.02).to(dtype)


# Forms


def as_plain(module: nn.Module) -> None:
    """The modules as they are written."""


def as_fast(module: nn.Module) -> None:
    """The form that a pipeline gives the parts it computes most in."""
    weight = next(module.parameters())
    if weight.is_cuda:
        fast.order_channels_last(module)
    elif fast.supported(weight.device, weight.dtype):
        fast.pack(module)


def as_published(module: nn.Module) -> None:
    """The operators of the published code: convolutions over time in three dimensions; see `published_operators`."""

    def convolve(layer: FrameConv, x: Tensor) -> Tensor:
        weight = layer.weight[..., None, None]
        return F.conv3d(x[..., None], weight, layer.bias, padding=(1, 0, 0))[..., 0]

    for layer in module.modules():
        if isinstance(layer, FrameConv):
            layer.forward = partial(convolve, layer)  # type: ignore[method-assign]


@contextmanager
def published_operators(given: Inputs) -> Iterator[Inputs]:
    """Attention by stored scores on a CPU (on a GPU xformers' kernel, which is PyTorch's), the text for each frame."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v

    on_cpu = given.x.device.type == "cpu"
    with patch.object(layers, "fused_attention", attend) if on_cpu else nullcontext():
        yield replace(given, text=given.text.repeat_interleave(given.x.shape[2], 0))


FORMS: dict[str, Callable[[nn.Module], None]] = {"published": as_published, "plain": as_plain, "fast": as_fast}


# Measures


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def least_seconds(run: Callable[[], object], device: torch.device, runs: int) -> float:
    """The least time of some runs; of one thread on a CPU what it computed, which other processes disturb little."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for _ in range(runs):
        start = clock()
        run()
        synchronize(device)
        seconds.append(clock() - start)
    return min(seconds)


@cache
def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in products of large matrices: on a CPU with packed weights."""
    side = SIDE[device.type]
    layer = nn.Linear(side, side, device=device, dtype=dtype).requires_grad_(False)
    x = torch.randn(side, side, device=device, dtype=dtype)
    if fast.supported(device, dtype):
        fast.pack(layer)
    return 2 * side**3 / least_seconds(lambda: layer(x), device, 10)


class Memory:
    """The most bytes that tensors take inside, above those that were there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.watch = device, PeakMemory()

    def __enter__(self) -> Memory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            self.before = self.watch.__enter__().bytes
        return self

    def __exit__(self, *error: Any) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.before
        else:
            self.watch.__exit__(*error)
            self.bytes = self.watch.bytes - self.before


@dataclass(frozen=True)
class Result:
    model: str
    stage: str
    form: str
    dtype: str
    seconds: float  # of an evaluation a branch, of a decoded frame
    gflops: float  # a second
    peak_share: float
    memory: int  # bytes above the weights

    def __str__(self) -> str:
        return (
            f"{self.model:5} {self.stage:10} {self.form:9} {self.dtype:9} {self.seconds:7.3f} {self.gflops:8.0f} "
            f"{self.peak_share:8.0%} {self.memory / 1e6:10.0f} MB"
        )


def measure(model: str, form: str, options: argparse.Namespace) -> list[Result]:
    """All stages in one form, each with its components alone in memory."""
    torch.set_num_threads(options.threads)
    config, name = CONFIGS[model], "float32" if form == "published" else options.dtype
    dtype = getattr(torch, name)
    width, height = (config.width, config.height) if model == "tiny" else options.size
    results = []
    for stage in [each for each in options.stages if form != "published" or each in PUBLISHED]:
        branches = options.branches if stage == "evaluation" else 1
        structure, given = DynamiCrafter.on_meta(config), Inputs.make(config, width, height, CPU, branches)
        with torch.inference_mode(), published_operators(given) if form == "published" else nullcontext(given) as given:
            for component in STAGES[stage].components:
                part = structure.get_submodule(component)
                fill(part, CPU, dtype)
                FORMS[form](part)
            with keep_freed_memory() if form == "fast" else nullcontext(), Memory(CPU) as memory:
                seconds = least_seconds(partial(STAGES[stage].run, structure, given), CPU, options.runs)
        speed = operations(config, stage, width, height, branches) / seconds
        share = speed / peak(CPU, dtype)
        results.append(Result(model, stage, form, name, seconds / branches, speed / 1e9, share, memory.bytes))
    return results
