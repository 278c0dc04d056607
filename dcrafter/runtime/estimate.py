"""What a generation will take, memory and time, before it begins. Rules of thumb, for choices and warnings only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dcrafter.config import ModelConfig
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.models.unet import DeepFeatures
from dcrafter.runtime.streaming import streamed_blocks
from dcrafter.sampling.guidance import Guidance
from dcrafter.sampling.reuse import plan_work
from dcrafter.sampling.schedule import sampling_steps
from dcrafter.sampling.windows import windows
from dcrafter.settings import MEMORY_PLANS, Settings

# How many tensors of the UNet's full size and width are alive at its peak by memory plan, and beside its heaviest
# blocks, which see small sizes. A GPU's are those of a simulation (tests/test_fake_cuda.py), without what its kernels
# work in; a CPU's of tests/benchmarks/memory_plans.py.
UNET_TENSORS = {
    "cpu": {"normal": 46, "low": 30, "min": 30},
    "gpu": {"normal": 31, "low": 18, "min": 18},
}
TENSORS_BESIDE_BLOCKS = {"cpu": 20, "gpu": 7}
DECODER_TENSORS = 6  # the same of the decoder, for one frame
CLIP_TENSORS = 2  # and for each further frame, where frames are decoded together
MAX_IMAGES = 8  # decoded together: these fill a GPU, and tensors stay below 2³¹ values, which some kernels ask for
OVERHEAD = 1.5  # a real evaluation's time over that of its products alone
SHARED = 1e12  # operations at most, from which on threads share an evaluation well
START = 6e11  # operations at most, that take a core about as long as a process takes to start
CPU = torch.device("cpu")
LIBRARIES = 500_000_000  # bytes that a process with PyTorch takes beside a model
PROBE = 1024  # side of the matrices that a device's speed is measured with


def size(module: nn.Module) -> int:
    """How many values a module's weights are."""
    return sum(weight.numel() for weight in module.parameters())


def memory(model: DynamiCrafter, settings: Settings, dtype: torch.dtype, plan: str, device: torch.device) -> int:
    """Bytes that a generation needs at its peak, for weights and what is computed."""
    config, kind = model.config, "cpu" if device.type == "cpu" else "gpu"
    tensor = settings.window * _positions(config, settings) * config.unet.model_channels
    unet, streamed = _resident(model, "unet", plan)
    unet += max(TENSORS_BESIDE_BLOCKS[kind] * tensor + streamed, UNET_TENSORS[kind][plan] * tensor)
    if settings.sketch and model.sketch_encoder is not None:
        unet += size(model.sketch_encoder)
    tensors = DECODER_TENSORS + (CLIP_TENSORS * settings.sampled_frames if config.autoencoder.references else 0)
    decoding = tensors * settings.width * settings.height * config.autoencoder.decoder_channels
    decoding //= config.autoencoder.fold**2
    text, image = (sum(_resident(model, name, plan)) for name in ("text_encoder", "image_encoder"))
    return dtype.itemsize * max(unet, size(model.autoencoder) + decoding, text, image + size(model.projector))


def images_at_once(model: DynamiCrafter, positions: int) -> int:
    """How many images, each of so many latent positions, are decoded together in the memory that sampling took."""
    config = model.config
    sampling = size(model.unet) + UNET_TENSORS["gpu"]["normal"] * config.frames * positions * config.unet.model_channels
    factor = config.autoencoder.downsampling // config.autoencoder.fold
    each = DECODER_TENSORS * positions * factor**2 * config.autoencoder.decoder_channels
    return min(MAX_IMAGES, max(1, (sampling - size(model.autoencoder)) // each))


def _resident(model: DynamiCrafter, component: str, plan: str) -> tuple[int, int]:
    """Values of a component's weights that stay, and those of the largest two that are streamed one after another."""
    streamed = [size(block) for block in streamed_blocks(model, component, plan).values()]
    return size(model.get_submodule(component)) - sum(streamed), max(map(sum, pairwise(streamed)), default=0)


def plan_for(model: DynamiCrafter, settings: Settings, dtype: torch.dtype, room: int, device: torch.device) -> str:
    """The first memory plan that needs less than `room` bytes, else the smallest."""
    fitting = (plan for plan in MEMORY_PLANS if memory(model, settings, dtype, plan, device) < room)
    return next(fitting, MEMORY_PLANS[-1])


def sampling_seconds(model: DynamiCrafter, settings: Settings, device: torch.device, dtype: torch.dtype) -> float:
    """How long sampling will take, a part, from the UNet's operations and how fast the device multiplies."""
    each = operations(model.config, settings.width, settings.height, settings.window)
    count = len(windows(settings.sampled_frames, settings.window, settings.overlap))
    return OVERHEAD * evaluations(model.config, settings) * count * each / speed(device, dtype)


def processes(model: DynamiCrafter, videos: Sequence[Settings], dtype: torch.dtype, cores: int, room: int) -> int:
    """In how many processes a CPU makes videos fastest, `cores` among them and `room` bytes of memory.

    Threads share a large evaluation well, and one copy of the weights will do. Of a small one, much is between the
    operations that are shared: then a process for each core wastes nothing, if it has enough to do to be worth its
    start.
    """
    largest = max(videos, key=lambda video: memory(model, video, dtype, "normal", CPU))
    if _operations_at_most(model, largest, largest.window) > SHARED:
        return 1
    work = sum(
        evaluations(model.config, video) * _operations_at_most(model, video, video.sampled_frames) * video.segments
        for video in videos
    )
    fitting = room // (2 * memory(model, largest, dtype, "normal", CPU) + LIBRARIES)
    return max(1, min(cores, len(videos), int(work / START), fitting))


def _operations_at_most(model: DynamiCrafter, settings: Settings, frames: int) -> int:
    """Those of an evaluation if every weight met every position: 2 to 10 times too many, but counting takes seconds."""
    return 2 * size(model.unet) * frames * _positions(model.config, settings)


def evaluations(config: ModelConfig, settings: Settings) -> float:
    """Evaluations of the UNet that a window takes; those that reuse its deep features count by their operations."""
    guidance = Guidance(settings.guidance, settings.image_guidance, last_scale=settings.last_guidance)
    numbers = settings.width, settings.height, settings.window
    shallow = (
        operations(config, *numbers, shallow=True) / operations(config, *numbers) if settings.deep_every > 1 else 0
    )
    steps = sampling_steps(config.schedule, settings.spacing, settings.steps, start=settings.start)
    works = plan_work(steps, config.schedule.num_timesteps, **settings.savings())
    return sum((guidance.evaluations if work.unconditional else 1) * (1 if work.deep else shallow) for work in works)


@cache
def operations(config: ModelConfig, width: int, height: int, frames: int, *, shallow: bool = False) -> int:
    """Floating-point operations of one evaluation of the UNet, or of one that reuses its deep features."""
    unet = DynamiCrafter.on_meta(config).unet
    factor = config.autoencoder.downsampling
    with torch.device("meta"):
        latents = torch.empty(1, config.unet.in_channels, frames, height // factor, width // factor)
        text = torch.empty(1, config.clip.text.context_length, config.unet.context_dim)
        image = torch.empty(1, config.projector.queries_per_frame * config.projector.frames, config.unet.context_dim)
        deep = DeepFeatures()
        for anew in (True, False) if shallow else (True,):
            deep.anew = anew
            with FlopCounterMode(display=False) as counter:
                unet(latents, torch.ones(1), text, image, torch.ones(1), deep=deep)
    return counter.get_total_flops()


def speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in matrix products, measured in a moment."""
    a = torch.ones(PROBE, PROBE, device=device, dtype=dtype)
    fastest = float("inf")
    for _ in range(4):  # the first warms up
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * PROBE**3 / fastest


def _positions(config: ModelConfig, settings: Settings) -> int:
    """Of a latent frame."""
    factor = config.autoencoder.downsampling
    return (settings.width // factor) * (settings.height // factor)
