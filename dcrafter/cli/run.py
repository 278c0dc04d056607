"""What all commands that generate do: check what is cheap to check, then open the model, generate and save."""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dcrafter.cli import earlier
from dcrafter.cli.arguments import STDIO
from dcrafter.cli.bars import acquire
from dcrafter.cli.console import Console
from dcrafter.cli.options import FAST_STEPS, Request
from dcrafter.cli.output import Output
from dcrafter.config import Command, ModelConfig
from dcrafter.errors import InputError, OutputError, UsageError
from dcrafter.media.fetch import fetch, is_url, public_name, url_path
from dcrafter.runtime.machine import PeakMemory, process_memory
from dcrafter.settings import Settings, resolve
from dcrafter.text import format_size

if TYPE_CHECKING:
    import torch

    from dcrafter.captioner import Captioner
    from dcrafter.cli.preview import Preview
    from dcrafter.conditions import Noise
    from dcrafter.events import Event, Video
    from dcrafter.media.image import ImageSource
    from dcrafter.models.dynamicrafter import DynamiCrafter
    from dcrafter.pipeline import Pipeline

MAX_PROMPT = 1_000_000  # bytes of a prompt from stdin
STDIN_STEM = "video"  # what the result of a picture from stdin is called
ABOUT_TINY = (
    "using the small model that comes along: 256×256, a few motions. `dcrafter download 512` fetches a real one"
)
LARGE = 100_000_000  # values in a UNet, from which on its time is worth an estimate
HOURS = 2.0  # from so many on, a quicker way is named

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One video to make: from which pictures, with which seed, and where to."""

    pictures: list[str]
    stem: str
    seed: int
    path: Path

    @property
    def title(self) -> str:
        names = ["stdin" if picture == STDIO else PurePosixPath(public_name(picture)).name for picture in self.pictures]
        return f"{' → '.join(names)}, seed {self.seed}"


def run(command: Command, takes: list[list[str]], request: Request) -> None:
    """Make `request.count` videos of each take; a take is the pictures that go into one video.

    In the order of what it costs to find out: names, pictures, settings, and weights last.
    """
    console = Console(quiet=request.quiet, verbose=request.verbose)
    _check_usage(command, takes, request)
    prompt, stdin = _read_stdin(takes, request)
    named = [picture for take in takes for picture in take]
    output = Output(request, len(takes) * request.count, pictures=[name for name in named if name != STDIO])
    jobs = _jobs(takes, request, output)
    _check_preview(request.save_preview, output, jobs)

    with console.status("starting"):  # importing torch takes seconds
        sources, image_sizes = _open(named, stdin, request.model.offline)
        portraits = {image: height > width for image, (width, height) in image_sizes.items()}
        prompts = _prompts(takes, sources, prompt, request, console)

        def settle(config: ModelConfig) -> tuple[list[Settings], Preview | None]:
            settings = [
                resolve(config, command, prompts[job.pictures[0]], job.seed, request.options,
                        portrait=portraits[job.pictures[0]])
                for job in jobs
            ]  # fmt: skip
            _warn_of_training(config, settings)
            output.try_encoding(settings[0])
            return settings, _preview(config, request)

        from dcrafter.weights import hub

        model = request.model.model
        settings: list[Settings] = []
        preview = None
        if request.model.checkpoint is None:
            model = hub.choose(model, command)
            if (request.model.model, model) == ("auto", "tiny"):
                console.say(ABOUT_TINY)
            settings, preview = settle(hub.config(model))

        from dcrafter.models.dynamicrafter import DynamiCrafter
        from dcrafter.pipeline import Pipeline
        from dcrafter.runtime.devices import choose_device, choose_dtype, held_memory

    device = choose_device(request.model.device)
    dtype = choose_dtype(request.model.dtype, device)
    pipe = None
    if request.model.checkpoint is not None or not request.dry_run:  # a dry run must not download
        if request.model.checkpoint is None:
            acquire(model, console, offline=request.model.offline)
        pipe = Pipeline.from_pretrained(model, command=command, **request.model.loading())
        if not settings:
            settings, preview = settle(pipe.config)
        if request.from_ is not None:
            earlier.warn_of_other_weights(request.from_, pipe.config.name, pipe.checkpoint.fingerprint)
    first = settings[0]
    machine = f"{device} ({str(dtype).removeprefix('torch.')})"
    described = pipe.model if pipe else DynamiCrafter.on_meta(hub.config(model))
    outputs = dict.fromkeys(described.config.output_size(settled.width, settled.height) for settled in settings)
    sizes = " and ".join(f"{width}×{height}" for width, height in outputs)
    console.say(f"model {first.model}, {sizes}, {first.steps} steps, {machine}")
    _say_crops(jobs, settings, image_sizes, console)

    parts = max(first.segments, len(takes[0]) - 1)
    expected = 0
    if request.dry_run or request.verbose:
        expected = _say_memory(described, first, device, dtype, request, console)
    _say_time(described, first, parts, device, dtype, console)

    for job, settled in zip(jobs, settings, strict=True):
        if pipe is None or request.dry_run:
            console.say(f"{job.title}: {job.path}")
            if request.json:
                console.result_json(
                    path=str(job.path), seed=job.seed, settings=settled.to_dict(), expected_memory=expected
                )
            continue
        console.say(job.title)
        pictures = [sources[picture] for picture in job.pictures]
        memory = PeakMemory(lambda: held_memory(device))
        with memory if request.json else nullcontext():
            video, seconds = _generate(pipe, pictures, settled, request, console, preview)
        video = replace(video, settings=video.settings | {"images": [public_name(name) for name in job.pictures]})
        if request.save_latents:
            _save_latents(video, request.save_latents)
        if output.to_stdout:
            console.result_bytes(output.encode(video))
            continue
        path = output.save(video, job.path, job.stem)
        total = sum(seconds.values())
        console.say(f"done in {total:.1f} s")
        if request.json:
            console.result_json(
                path=str(path), seed=job.seed, settings=video.settings, seconds=round(total, 3),
                timings={phase: round(value, 3) for phase, value in seconds.items()},
                device=str(device), peak_memory=memory.bytes,
            )  # fmt: skip
        else:
            console.result(str(path))


def _check_usage(command: Command, takes: list[list[str]], request: Request) -> None:
    pictures = [picture for take in takes for picture in take]
    if not pictures:
        raise UsageError("no picture is named", f"Try dcrafter {command} --help")
    if command == "interpolate" and len(pictures) < 2:
        raise UsageError("an interpolation needs two pictures", "Name the first and the last")
    if request.noise and not request.noise.is_file():
        raise InputError(f"there is no file {request.noise}", "--noise takes a recorded case")
    if request.save_latents and not request.save_latents.absolute().parent.is_dir():
        raise OutputError(f"there is no folder for {request.save_latents}", "Make it, or choose another")


def _check_preview(path: Path | None, output: Output, jobs: list[Job]) -> None:
    results = {os.path.realpath(job.path) for job in jobs}
    if path is not None and (output.is_picture(path) or os.path.realpath(path) in results):
        raise UsageError(f"the preview {path} would take the place of a picture or a video", "Give it another name")


def _open(
    pictures: list[str], stdin: bytes, offline: bool
) -> tuple[dict[str, ImageSource], dict[str, tuple[int, int]]]:
    """Each image's source, as bytes if it is not a file, and its width and height."""
    from dcrafter.media.image import open_image

    sources: dict[str, ImageSource] = {}
    sizes = {}
    for picture in dict.fromkeys(pictures):
        if is_url(picture):
            sources[picture] = fetch(picture, offline=offline)
        else:
            sources[picture] = stdin if picture == STDIO else picture
        sizes[picture] = open_image(sources[picture]).size
    return sources, sizes


def _say_crops(jobs: list[Job], settings: list[Settings], sizes: dict[str, tuple[int, int]], console: Console) -> None:
    """Tell, once for each image, how much of it is kept where that is notably little."""
    from dcrafter.media.image import describe_crop

    lines = [
        f"{PurePosixPath(public_name(image)).name}: {crop}"
        for job, settled in zip(jobs, settings, strict=True)
        for image in job.pictures
        if (crop := describe_crop(sizes[image], settled.width, settled.height, settled.fit))
    ]
    for line in dict.fromkeys(lines):
        console.say(line)


def _prompts(
    takes: list[list[str]], sources: dict[str, ImageSource], prompt: str, request: Request, console: Console
) -> dict[str, str]:
    """The prompt of each take, by its first picture: the given one, or with --auto-prompt a caption and that."""
    firsts = dict.fromkeys(take[0] for take in takes)
    if not request.auto_prompt:
        return dict.fromkeys(firsts, prompt)
    from dcrafter.media.image import open_image

    caption = captioner_of(request)
    prompts = {}
    for picture in firsts:
        said = caption(open_image(sources[picture]))
        prompts[picture] = ", ".join(filter(None, [said, prompt]))
        if not request.dry_run:
            console.say(f"{PurePosixPath(public_name(picture)).name}: {prompts[picture]}")
    return prompts


def captioner_of(request: Request) -> Captioner:
    """What --auto-prompt asks. A dry run, which must not download, gets no captions."""
    from dcrafter.captioner import DEFAULT, Captioner
    from dcrafter.runtime.devices import choose_device

    device = choose_device(request.model.device)
    return Captioner(request.captioner or DEFAULT, device, request.model.offline, request.dry_run)


def _warn_of_training(config: ModelConfig, settings: list[Settings]) -> None:
    odd = {(s.width, s.height) for s in settings} - {(config.width, config.height), (config.height, config.width)}
    for width, height in sorted(odd)[:1]:
        logger.warning(
            "the %s model was trained at %d×%d; at %d×%d it may do worse",
            config.name, config.width, config.height, width, height,
        )  # fmt: skip
    motion, least, most = settings[0].motion, config.motion.minimum, config.motion.maximum
    if not least <= motion <= most:
        logger.warning(
            "the %s model was trained at a motion of %d to %d (%s); at %d it may do worse",
            config.name, least, most, config.motion.unit, motion,
        )  # fmt: skip


def _say_memory(
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
        plan = estimate.plan_for(model, settings, dtype, free_memory(device))
    need = estimate.memory(model, settings, dtype, plan)
    if device.type == "cpu":
        need += process_memory()  # what Python and the libraries hold already
    console.say(f"about {format_size(need)} of memory (--memory {plan})")
    return need


def _say_time(
    model: DynamiCrafter, settings: Settings, parts: int, device: torch.device, dtype: torch.dtype, console: Console
) -> None:
    """How long a video in so many parts will take, where that may be long."""
    from dcrafter.runtime import estimate

    if estimate.size(model.unet) < LARGE:
        return
    minutes = parts * estimate.sampling_seconds(model, settings, device, dtype) / 60
    if minutes >= 1:
        long = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
        console.say(f"about {long} a video")
    if minutes > 60 * HOURS:
        quicker = "a smaller model, or a smaller --width and --height"
        if settings.steps > 2 * FAST_STEPS:
            quicker = f"--fast ({settings.steps / FAST_STEPS:.1f} times), {quicker}"
        console.say(f"quicker: {quicker}")


def _preview(config: ModelConfig, request: Request) -> Preview | None:
    if not request.preview and request.save_preview is None:
        return None
    from dcrafter.cli.preview import Preview

    channels = config.autoencoder.latent_channels
    return Preview(
        channels, show=request.preview and not request.quiet, path=request.save_preview, overwrite=request.overwrite
    )


def _generate(
    pipe: Pipeline,
    sources: list[ImageSource],
    settings: Settings,
    request: Request,
    console: Console,
    preview: Preview | None,
) -> tuple[Video, dict[str, float]]:
    """A video, and the seconds each phase took. Once more with the next memory plan where memory runs out."""

    def generate() -> Generator[Event, None, None]:
        return pipe.generate(sources, settings, _recorded_noise(request.noise) if request.noise else None)

    pipe.residency.choose_plan(settings, request.model.memory)
    return console.follow(pipe.residency.retry_with_less(generate), settings.steps, preview)


def _recorded_noise(path: Path) -> Noise:
    """The draws of a recorded case, in their order."""
    from safetensors.torch import load_file

    recorded = load_file(path)
    draws = iter([recorded["encode_noise"], recorded["x_T"], *recorded["step_noise"]])
    return lambda shape: next(draws).reshape(shape)


def _save_latents(video: Video, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"final_latents": video.latents.contiguous()}, path)


def _jobs(takes: list[list[str]], request: Request, output: Output) -> list[Job]:
    seed = random.randrange(2**32) if request.seed is None else request.seed
    jobs = []
    for pictures in takes:
        stem = _stem(pictures[0])
        jobs += [Job(pictures, stem, seed + i, output.plan(stem)) for i in range(request.count)]
    return jobs


def _stem(picture: str) -> str:
    if picture == STDIO:
        return STDIN_STEM
    name = url_path(picture) if is_url(picture) else picture
    return Path(name).stem or STDIN_STEM


def _read_stdin(takes: list[list[str]], request: Request) -> tuple[str, bytes]:
    """The prompt, and the bytes of the picture that is `-`; at most one of them is stdin."""
    pictures = [picture for take in takes for picture in take if picture == STDIO]
    if len(pictures) + (request.prompt == STDIO) > 1:
        raise UsageError("stdin can be only one thing", "Name all pictures but one, and give the prompt outright")
    if request.prompt == STDIO:
        return " ".join(sys.stdin.buffer.read(MAX_PROMPT).decode("utf-8", "replace").split()), b""
    if not pictures:
        return request.prompt, b""
    from dcrafter.media.image import read_stdin

    return request.prompt, read_stdin(sys.stdin.buffer)
