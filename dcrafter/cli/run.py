"""What all commands that generate do: check what is cheap to check, then open the model, generate and save."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.cli import console as console_module
from dcrafter.cli import earlier, forecast
from dcrafter.cli.arguments import STDIO
from dcrafter.cli.console import Console
from dcrafter.cli.options import Request
from dcrafter.cli.output import Output
from dcrafter.cli.progress import follow
from dcrafter.cli.sources import Source, open_sources, prompts_of, read_stdin, stem_of, title_of
from dcrafter.cli.transfer import acquire, acquire_towers
from dcrafter.config import Command, ModelConfig
from dcrafter.errors import InputError, UsageError
from dcrafter.media.fetch import public_name
from dcrafter.media.video import check_folder
from dcrafter.runtime.machine import PeakMemory
from dcrafter.settings import Settings, resolve, video_size

if TYPE_CHECKING:
    import torch

    from dcrafter.cli.preview import Preview
    from dcrafter.conditions import Noise
    from dcrafter.events import Event, Video
    from dcrafter.pipeline import Pipeline


@dataclass(frozen=True)
class Job:
    """One video to make: of which images, with which seed (None if a dry run need not choose one), and where to."""

    images: list[str]
    stem: str
    seed: int | None
    path: Path

    @property
    def title(self) -> str:
        seed = "random seed" if self.seed is None else f"seed {self.seed}"
        return f"{' → '.join(map(title_of, self.images))}, {seed}"


@dataclass(frozen=True)
class Plan:
    """All that is known before weights are loaded."""

    command: Command
    request: Request
    output: Output
    jobs: list[Job]
    sources: dict[str, Source]
    model: str  # its name
    config: ModelConfig
    settings: list[Settings]  # of each job
    preview: Preview | None


def run(command: Command, takes: list[list[str]], request: Request) -> None:
    """Make `request.count` videos of each take; a take is the images that go into one video."""
    console = Console(quiet=request.quiet, verbose=request.verbose)
    images = [image for take in takes for image in take]
    _check_usage(command, images, request)
    prompt, stdin = read_stdin(images, request)
    output = Output(request, len(takes) * request.count, images=[name for name in images if name != STDIO])
    jobs = _jobs(takes, request, output)
    _check_preview(request.save_preview, output, jobs)
    with console.status("starting"):  # importing torch takes seconds
        from dcrafter.weights import hub
        from dcrafter.weights.lora import check_there

        sources = open_sources(images, stdin, request.model.offline)
        prompts = prompts_of(sources, [take[0] for take in takes], prompt, request, console)
        pipe = _open(request.model.model, command, request) if request.model.checkpoint else None
        model = pipe.config.name if pipe else _choose(command, request, console)
        if pipe is None and request.dry_run and hub.find(model):
            pipe = _open(model, command, request)
        check_there(request.model.lora)
        plan = _plan(command, request, output, jobs, sources, prompts, model, pipe)
        from dcrafter.runtime.devices import choose_device, choose_dtype

        device = choose_device(request.model.device)
        dtype = choose_dtype(request.model.dtype, device)
    if request.dry_run:
        _dry_run(plan, pipe, device, dtype, console)
        return
    if pipe is None:
        acquire(model, console, offline=request.model.offline)
        pipe = _open(model, command, request)
    if pipe.checkpoint.awaits_towers:
        acquire_towers(console)
        pipe = _open(request.model.model, command, request)
    if request.from_ is not None:
        earlier.warn_of_other_weights(request.from_, pipe.config.name, pipe.checkpoint.fingerprint)
    _forecast(plan, pipe.model, device, dtype, console)
    for job, settings in zip(jobs, plan.settings, strict=True):
        _make(plan, pipe, job, settings, console)


def _check_usage(command: Command, images: list[str], request: Request) -> None:
    if not images:
        raise UsageError("no input image given", f"Try dcrafter {command} --help")
    if command == "interpolate" and len(images) < 2:
        raise UsageError("an interpolation needs two images", "Name the first and the last")
    if request.noise and not request.noise.is_file():
        raise InputError(f"there is no file {request.noise}", "--noise takes a recorded case")
    if request.save_latents:
        check_folder(request.save_latents.absolute().parent, "--save-latents")


def _jobs(takes: list[list[str]], request: Request, output: Output) -> list[Job]:
    first = request.seed
    if first is None and not request.dry_run:
        first = random.randrange(2**32)
    jobs = []
    for images in takes:
        for i in range(request.count):
            seed = None if first is None else first + i
            stem = stem_of(images[0])
            if request.count > 1:  # a number of its own would hide the seed
                stem += f"_{seed}" if seed is not None else f"_<seed+{i}>"
            jobs.append(Job(images, stem, seed, output.plan(stem)))
    return jobs


def _check_preview(path: Path | None, output: Output, jobs: list[Job]) -> None:
    results = {os.path.realpath(job.path) for job in jobs}
    if path is not None and (output.is_image(path) or os.path.realpath(path) in results):
        raise UsageError(f"the preview {path} would overwrite an input image or a video", "Give it another name")


def _choose(command: Command, request: Request, console: Console) -> str:
    """The name of the model."""
    from dcrafter.weights import hub

    model = hub.choose(request.model.model, command)
    if (request.model.model, model) == ("auto", "tiny"):
        forecast.say_built_in(command, console)
    return model


def _open(model: str, command: Command, request: Request) -> Pipeline:
    from dcrafter.pipeline import Pipeline

    return Pipeline.from_pretrained(model, command=command, plan_only=True, **request.model.loading())


def _plan(
    command: Command,
    request: Request,
    output: Output,
    jobs: list[Job],
    sources: dict[str, Source],
    prompts: dict[str, str],
    model: str,
    pipe: Pipeline | None,
) -> Plan:
    """Settle each job's numbers, and try what would fail at the end."""
    from dcrafter.pipeline import check_files
    from dcrafter.weights import hub

    config = pipe.config if pipe else hub.config(model)
    settings = [
        resolve(
            config,
            command,
            prompts[job.images[0]],
            job.seed or 0,
            request.options,
            image_size=sources[job.images[0]].size,
        )
        for job in jobs
    ]
    check_files(settings[0], config)
    forecast.warn_of_training(config, settings)
    output.try_encoding(settings[0])
    return Plan(command, request, output, jobs, sources, model, config, settings, _preview(config, request))


def _preview(config: ModelConfig, request: Request) -> Preview | None:
    if not request.preview and request.save_preview is None:
        return None
    from dcrafter.cli.preview import Preview

    channels = config.autoencoder.latent_channels
    return Preview(
        channels, show=request.preview and not request.quiet, path=request.save_preview, overwrite=request.overwrite
    )


def _forecast(plan: Plan, model: Any, device: torch.device, dtype: torch.dtype, console: Console) -> int:
    """Tell what is to come; returns the bytes of memory that it will take, if they were estimated."""
    first, request = plan.settings[0], plan.request
    sizes = [
        video_size(plan.config, settled, plan.sources[job.images[0]].size)
        for job, settled in zip(plan.jobs, plan.settings, strict=True)
    ]
    forecast.say_model(plan.config, sizes, first.steps, device, dtype, console)
    if request.dry_run:
        forecast.say_numbers(plan.config, first, console)
    images = [(image, settled) for job, settled in zip(plan.jobs, plan.settings, strict=True) for image in job.images]
    forecast.say_crops(images, plan.sources, console)
    need = 0
    if request.dry_run or request.verbose:
        need = forecast.say_memory(model, first, device, dtype, request, console)
    clips = max(first.segments, len(plan.jobs[0].images) - 1)
    forecast.say_time(model, first, clips, device, dtype, console)
    return need


def _dry_run(plan: Plan, pipe: Pipeline | None, device: torch.device, dtype: torch.dtype, console: Console) -> None:
    """Tell what would be done, without weights. Raises as the command itself would."""
    from dcrafter.models.dynamicrafter import DynamiCrafter

    if pipe is None:
        forecast.say_download(plan.model, plan.request, console)
    need = _forecast(plan, pipe.model if pipe else DynamiCrafter.on_meta(plan.config), device, dtype, console)
    prompt = ""
    for job, settings in zip(plan.jobs, plan.settings, strict=True):
        if settings.prompt != prompt:
            prompt = settings.prompt
            console.say(f"prompt: {prompt or 'none'}")
        console.say(f"{job.title}: {job.path}")
        if plan.request.json:
            numbers = settings.to_dict() | {"seed": job.seed}
            console.result_json(path=str(job.path), seed=job.seed, settings=numbers, expected_memory=need)


def _make(plan: Plan, pipe: Pipeline, job: Job, settings: Settings, console: Console) -> None:
    """Generate a video, save it and name it."""
    from dcrafter.runtime.devices import held_memory

    request, output = plan.request, plan.output
    started = console_module.started if job is plan.jobs[0] else time.monotonic()
    console.say(job.title)
    memory = PeakMemory(lambda: held_memory(pipe.device))
    with memory if request.json else nullcontext():
        video, timings = follow(_events(plan, pipe, job, settings), console, settings.steps, plan.preview)
    video = replace(video, settings=video.settings | {"images": [public_name(name) for name in job.images]})
    if request.save_latents:
        _save_latents(video, request.save_latents)
    if output.to_stdout:
        console.result_bytes(output.encode(video))
        return
    path = output.save(video, job.path, job.stem)
    seconds, generation = time.monotonic() - started, sum(timings.values())
    console.say(f"done in {seconds:.1f} s, {generation:.1f} s of it generation")
    if not request.json:
        console.result(str(path))
        return
    console.result_json(
        path=str(path), seed=job.seed, settings=video.settings, seconds=round(seconds, 3),
        generation_seconds=round(generation, 3), timings={phase: round(value, 3) for phase, value in timings.items()},
        device=str(pipe.device), peak_memory=memory.bytes,
    )  # fmt: skip


def _events(plan: Plan, pipe: Pipeline, job: Job, settings: Settings) -> Generator[Event, None, Any]:
    """A generation's events. Once more with the next memory plan where memory runs out."""
    noise, images = plan.request.noise, [plan.sources[image].content for image in job.images]

    def generate() -> Generator[Event, None, None]:
        return pipe.generate(images, settings, _recorded_noise(noise) if noise else None)

    pipe.residency.choose_plan(settings, plan.request.model.memory)
    return pipe.residency.retry_with_less(generate)


def _recorded_noise(path: Path) -> Noise:
    """The draws of a recorded case, in their order."""
    from safetensors.torch import load_file

    recorded = load_file(path)
    draws = iter([recorded["encode_noise"], recorded["x_T"], *recorded["step_noise"]])
    return lambda shape: next(draws).reshape(shape)


def _save_latents(video: Video, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"final_latents": video.latents.contiguous()}, path)
