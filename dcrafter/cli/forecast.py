"""What is told before a generation: the model and its numbers, what is cropped, memory and time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dcrafter.cli.console import Console
from dcrafter.cli.options import Request
from dcrafter.cli.sources import Source, title_of
from dcrafter.config import Command, ModelConfig
from dcrafter.errors import WeightsError
from dcrafter.runtime.machine import process_memory
from dcrafter.settings import FAST, Settings
from dcrafter.text import counted, format_size
from dcrafter.weights.families import PUBLISHED, advised

if TYPE_CHECKING:
    import torch

    from dcrafter.models.dynamicrafter import DynamiCrafter

LARGE = 100_000_000  # parameters of a UNet, from which on its time is worth an estimate
WORKING = 150_000_000  # bytes that libraries take on a CPU while they work: threads, codecs, packed weights
HOURS = 2.0  # from so many on, a quicker way is named

logger = logging.getLogger(__name__)


def say_built_in(command: Command, console: Console) -> None:
    """What is told where nobody chose a model, and there is none but the built-in one."""
    console.say(
        "using the built-in `tiny` model, which knows zoom, pan, rotate, sway, pulse, ripple…; "
        f"for 'cat yawning' fetch a real one: dcrafter download {advised(command)}"
    )


def say_model(
    config: ModelConfig,
    sizes: Sequence[tuple[int, int]],
    steps: int,
    device: torch.device,
    dtype: torch.dtype,
    console: Console,
) -> None:
    """The line that every generation begins with; `sizes` are those of its videos."""
    shown = " and ".join(f"{width}×{height}" for width, height in dict.fromkeys(sizes))
    machine = f"{device} ({str(dtype).removeprefix('torch.')})"
    console.say(f"model {config.name}, {shown}, {counted(steps, 'step')}, {machine}")


def say_batch(config: ModelConfig, settings: Settings, request: Request, console: Console) -> None:
    """What a batch's dry run tells of the items to come, until other settings follow."""
    from dcrafter.models.dynamicrafter import DynamiCrafter
    from dcrafter.runtime.devices import choose_device, choose_dtype

    device = choose_device(request.model.device)
    dtype = choose_dtype(request.model.dtype, device)
    model = DynamiCrafter.on_meta(config)
    sizes = [config.output_size(settings.width, settings.height)]  # images are not read yet
    say_model(config, sizes, settings.steps, device, dtype, console)
    say_numbers(config, settings, console)
    say_memory(model, settings, device, dtype, request, console)
    say_time(model, settings, settings.segments, device, dtype, console)


def say_numbers(config: ModelConfig, settings: Settings, console: Console) -> None:
    """The numbers that a dry run tells beside."""
    motion = f"motion {settings.motion} ({config.motion.unit})"
    length = f"{counted(settings.frames, 'frame')} at {settings.fps:g} FPS"
    if settings.sampled_frames > settings.window:
        length += f", sampled in windows of {settings.window}"
    console.say(f"{motion}, guidance {settings.guidance:g}, sampler {settings.sampler}, {length}")


def warn_of_training(config: ModelConfig, settings: Sequence[Settings]) -> None:
    """Warn of sizes and motions that the model was not trained at, and of windows that see neither image."""
    odd = {(s.width, s.height) for s in settings} - {(config.width, config.height), (config.height, config.width)}
    for width, height in sorted(odd)[:1]:
        logger.warning(
            "the %s model was trained at %d×%d; at %d×%d it may do worse",
            config.name, config.width, config.height, width, height,
        )  # fmt: skip
    first = settings[0]
    motion, least, most = first.motion, config.motion.minimum, config.motion.maximum
    if not least <= motion <= most:
        logger.warning(
            "the %s model was trained at a motion of %d to %d (%s); at %d it may do worse",
            config.name, least, most, config.motion.unit, motion,
        )  # fmt: skip
    if first.command != "animate" and first.sampled_frames > first.window:
        logger.warning(
            "most windows of %d frames see neither the first image nor the last, and invent another scene; "
            "without --window the video is sampled whole",
            first.window,
        )


def say_crops(images: Sequence[tuple[str, Settings]], sources: dict[str, Source], console: Console) -> None:
    """Tell, once for each image, how much of it is kept where that is notably little."""
    from dcrafter.media.image import describe_crop

    lines = [
        f"{title_of(image)}: {crop}"
        for image, settled in images
        if (crop := describe_crop(sources[image].size, settled.width, settled.height, settled.fit))
    ]
    for line in dict.fromkeys(lines):
        console.say(line)


def say_download(model: str, request: Request, console: Console) -> None:
    """What a dry run tells of weights that are not here. Raises WeightsError if they cannot be had."""
    from dcrafter.weights import hub

    plan = hub.plan(model, hub.DownloadOptions(offline=request.model.offline), look_up=False)
    if plan.size and model in PUBLISHED:
        console.say(f"{hub.announcement(model)}; {format_size(plan.space)} needed, {format_size(plan.free)} free")
    if plan.space > plan.free:
        problem = f"{format_size(plan.space)} are needed for {model}, and {format_size(plan.free)} are free"
        raise WeightsError(problem, f"Make room in {plan.path.parent}")


def say_memory(
    model: DynamiCrafter,
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
    request: Request,
    console: Console,
) -> int:
    """What a video will take; returns it in bytes."""
    from dcrafter.runtime import estimate
    from dcrafter.runtime.devices import free_memory

    plan = request.model.memory
    if plan == "auto":
        plan = estimate.plan_for(model, settings, dtype, free_memory(device), device)
    need = estimate.memory(model, settings, dtype, plan, device)
    if device.type == "cpu":
        need += process_memory() + WORKING  # what Python and the libraries hold already, and will
    console.say(f"about {format_size(need)} of memory must be free (--memory {plan})")
    return need


def say_time(
    model: DynamiCrafter, settings: Settings, clips: int, device: torch.device, dtype: torch.dtype, console: Console
) -> None:
    """How long a video of so many clips will take, where that may be long."""
    from dcrafter.runtime import estimate

    if estimate.size(model.unet) < LARGE:
        return
    minutes = clips * estimate.sampling_seconds(model, settings, device, dtype) / 60
    if minutes >= 1:
        long = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
        console.say(f"about {long} a video")
    if minutes > 60 * HOURS:
        quicker = "a smaller model, or a smaller --width and --height"
        now, fast = (estimate.evaluations(model.config, each) for each in (settings, replace(settings, **FAST)))
        if now > 2 * fast:
            quicker = f"--fast ({now / fast:.1f} times), {quicker}"
        console.say(f"quicker: {quicker}")
