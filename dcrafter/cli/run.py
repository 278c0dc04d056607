"""What all commands that generate do: check what is cheap to check, then open the model, generate and save."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dcrafter.cli.console import Console
from dcrafter.cli.options import STDIO, Request
from dcrafter.cli.output import Output
from dcrafter.config import MODELS, Command, ModelConfig
from dcrafter.errors import UsageError
from dcrafter.settings import Settings, resolve

if TYPE_CHECKING:
    from dcrafter.media.image import ImageSource

STDIN_STEM = "video"  # what the result of a picture from stdin is called


@dataclass(frozen=True)
class Job:
    """One video to make: from which pictures, with which seed, and where to."""

    pictures: list[Path]
    stem: str
    seed: int
    path: Path

    @property
    def title(self) -> str:
        names = ["stdin" if str(picture) == STDIO else picture.name for picture in self.pictures]
        return f"{' → '.join(names)}, seed {self.seed}"


def run(command: Command, takes: list[list[Path]], request: Request) -> None:
    """Make `request.count` videos of each take; a take is the pictures that go into one video.

    In the order of what it costs to find out: names, pictures, settings, and weights last.
    """
    console = Console(quiet=request.quiet, verbose=request.verbose)
    if request.model_config and not request.checkpoint:
        raise UsageError("--model-config describes a checkpoint", "Give --checkpoint too")
    prompt, stdin = _read_stdin(takes, request)
    output = Output(request, results=len(takes) * request.count)
    jobs = _jobs(takes, request, output)

    def settle(config: ModelConfig) -> list[Settings]:
        settings = [resolve(config, command, prompt, job.seed, request.options()) for job in jobs]
        output.try_encoding(settings[0])
        return settings

    with console.status("starting"):  # importing torch takes seconds
        from dcrafter.media.image import open_image

        for picture in dict.fromkeys(picture for take in takes for picture in take):
            open_image(stdin if str(picture) == STDIO else picture)

        model, settings = request.model, []
        if request.checkpoint is None:
            from dcrafter.weights import hub

            model = hub.choose(model, command)
            settings = settle(MODELS[model])

        from dcrafter.pipeline import Pipeline, choose_device, choose_dtype

    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    if request.checkpoint is not None or not request.dry_run:  # a dry run must not download
        pipe = Pipeline.from_pretrained(
            model,
            checkpoint=request.checkpoint,
            model_config=request.model_config,
            device=request.device,
            dtype=request.dtype,
            command=command,
            offline=request.offline,
        )
        settings = settings or settle(pipe.config)
    first = settings[0]
    machine = f"{device} ({str(dtype).removeprefix('torch.')})"
    console.say(f"model {first.model}, {first.width}×{first.height}, {first.steps} steps, {machine}")

    for job, settled in zip(jobs, settings, strict=True):
        if request.dry_run:
            console.say(f"{job.title}: {job.path}")
            if request.json:
                console.result_json(path=str(job.path), seed=job.seed, settings=settled.to_dict())
            continue
        console.say(job.title)
        start = time.monotonic()
        sources: list[ImageSource] = [stdin if str(picture) == STDIO else picture for picture in job.pictures]
        video = console.follow(pipe.generate(sources, settled), settled.steps)
        if output.to_stdout:
            console.result_bytes(output.encode(video))
            continue
        path = output.save(video, job.path, job.stem)
        seconds = time.monotonic() - start
        console.say(f"done in {seconds:.1f} s")
        if request.json:
            console.result_json(path=str(path), seed=job.seed, settings=video.settings, seconds=round(seconds, 3))
        else:
            console.result(str(path))


def _jobs(takes: list[list[Path]], request: Request, output: Output) -> list[Job]:
    seed = random.randrange(2**32) if request.seed is None else request.seed
    jobs = []
    for pictures in takes:
        stem = STDIN_STEM if str(pictures[0]) == STDIO else pictures[0].stem
        jobs += [Job(pictures, stem, seed + i, output.plan(stem)) for i in range(request.count)]
    return jobs


def _read_stdin(takes: list[list[Path]], request: Request) -> tuple[str, bytes]:
    """The prompt, and the bytes of the picture that is `-`; at most one of them is stdin."""
    pictures = [picture for take in takes for picture in take if str(picture) == STDIO]
    if len(pictures) + (request.prompt == STDIO) > 1:
        raise UsageError("stdin can be only one thing", "Name all pictures but one, and give the prompt outright")
    stdin = sys.stdin.buffer.read() if pictures or request.prompt == STDIO else b""
    if request.prompt == STDIO:
        return " ".join(stdin.decode("utf-8", "replace").split()), b""
    return request.prompt, stdin
