"""dcrafter batch INPUT…"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

from dcrafter.batch.inputs import Search
from dcrafter.batch.items import Defaults, in_shard, make_items, shard_of
from dcrafter.cli import arguments
from dcrafter.cli.arguments import STDIO, ToolCommand
from dcrafter.cli.batch_view import describe, view
from dcrafter.cli.console import Console, logger
from dcrafter.cli.options import Request, takes_request
from dcrafter.cli.sources import captioner_of, read_stdin
from dcrafter.cli.transfer import acquire, acquire_towers
from dcrafter.config import Command
from dcrafter.errors import BatchError, DCrafterError, UsageError
from dcrafter.media.formats import named_format
from dcrafter.settings import option
from dcrafter.text import aligned, counted

if TYPE_CHECKING:
    from dcrafter.batch.items import Item
    from dcrafter.batch.journal import Record
    from dcrafter.batch.runner import Batch, Engine
    from dcrafter.batch.store import Store
    from dcrafter.cli.output import Output
    from dcrafter.settings import Settings

EXAMPLES = """
[bold]Examples[/bold]

dcrafter batch photos/ -p "gentle wind" -o videos/

dcrafter batch -r photos/ --prompt-from sidecar --name "{stem}" -o videos/

dcrafter batch shots.csv --join story.mp4 --crossfade 0.5 -o shots/

dcrafter batch pairs/ --mode interpolate -o between/

dcrafter batch photos/ --shard auto -o videos/

dcrafter batch photos/ --ray -o videos/

[bold]Manifests[/bold]

CSV under a header line such as `image,image2,mode,prompt,steps`, or JSON objects with these keys: image, image2, …
(relative to the manifest), prompt, mode, model, name, seed, and options of pictures and sampling by their long names.
"""

STORY = "--join"  # in the place of an item, in the journal
CLUSTER = re.compile(r"auto|local|ray://.+|[\w.-]+:\d+")  # what can follow --ray as its address


class BatchCommand(ToolCommand):
    """Takes `--ray` with and without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for i, each in enumerate(args):
            if each == "--":
                break
            if each == "--ray" and not any(CLUSTER.fullmatch(following) for following in args[i + 1 : i + 2]):
                args = [*args[: i + 1], "auto", *args[i + 1 :]]
        return super().parse_args(ctx, args)


@dataclass(frozen=True)
class BatchOptions:
    """The options that only a batch has."""

    mode: Command = option(
        "animate, interpolate (pairs) or loop.", default="animate", choices=get_args(Command), metavar="<mode>"
    )
    recursive: bool = option("Folders in folders too.", default=False, short="-r")
    prompts: Path | None = option("A line for each item, in sorted order.", default_help=False)
    prompt_from: str | None = option(
        "filename, or sidecar: cat.txt beside cat.png.",
        choices=("filename", "sidecar"),
        metavar="<where>",
        default_help=False,
    )
    name: str | None = option(
        "By {stem}, {seed}, {index}, {copy}, {parent}, {prompt}.",
        metavar="<name>",
        default_help="{stem}, or {stem}_{seed} with --seed or -n",
    )
    retries: int = option("More tries of what fails.", default=1, minimum=0)
    fail_fast: bool = option("Stop when an item fails.", default=False)
    join: Path | None = option("All of them, in order, in one.", metavar="<video>", default_help=False)
    crossfade: float = option("With --join: from one into the next.", default=0.0, minimum=0, metavar="<seconds>")
    shard: str | None = option(
        "Part I of N; auto: of a SLURM array, or torchrun's.", metavar="<I/N>", default_help="all"
    )
    workers: int | None = option(
        "Processes on a CPU.", minimum=1, default_help="as many as are fastest, by cores, model and memory"
    )
    ray: str | None = option("On a Ray cluster, here or at an address.", metavar="[<address>]", default_help=False)
    cpus_per_worker: int | None = option("With --ray, without GPUs.", minimum=1, default_help="a machine's")


@takes_request
def batch(
    request: Request,
    options: BatchOptions,
    inputs: Annotated[
        list[str] | None,
        arguments.argument(
            "INPUT", "Folders, pictures, addresses, patterns, .txt of prompts, .csv or .jsonl manifests, - for a list."
        ),
    ] = None,
    resume: Annotated[
        bool, arguments.option("--resume/--no-resume", help="Skip what is done with the same settings.")
    ] = True,
) -> None:
    """Make many videos: a folder overnight, a story from its shots.

    Run it again and it goes on: what is done with the same settings is skipped.
    What became of each item is in batch.jsonl, beside the videos. An item's
    seed follows from --seed (0 if it is left out) and its name.
    """
    from dcrafter.cli.output import Output

    inputs = inputs or []
    console = Console(quiet=request.quiet, verbose=request.verbose)
    _check_usage(request, options, inputs)
    part = shard_of(options.shard, dict(os.environ)) if options.shard else None
    prompt, stdin = read_stdin(inputs, request)
    output = Output(request, results=2)
    store = _store(request, output, part)
    items = _items(options, inputs, stdin, _defaults(request, options, prompt, output, store), part, store, console)

    with console.status("starting"):  # importing torch takes seconds
        work = _work(items, store, request, options, resume, console)
        settings = work.check()
        overlap = _check_story(options, work.items, settings, request) if options.join and settings else 0
        if settings:
            output.try_encoding(settings[0])
        engine = _engine(work, settings, options)
    if request.dry_run:
        _dry_run(work, console, request)
        return
    for model in _models(work, request):
        acquire(model, console, offline=request.model.offline)
    if work.weights.awaits_towers():
        acquire_towers(console)
    _run(work, engine, console, request)
    if options.join:
        path = _write_story(work, options.join, settings[0].fps, overlap, options.crossfade, request, console)
        console.result_json(path=str(path), story=len(items)) if request.json else console.result(str(path))


def _store(request: Request, output: Output, part: tuple[int, int] | None) -> Store:
    from dcrafter.batch.store import Store

    writing = replace(request.writing, format=output.format)
    return Store(output.folder, writing, shard=part, overwrite=request.overwrite)


def _defaults(request: Request, options: BatchOptions, prompt: str, output: Output, store: Store) -> Defaults:
    return Defaults(
        command=options.mode,
        prompt=prompt,
        model=request.model.model,
        seed=request.seed,
        count=request.count,
        name=options.name,
        format=output.format,
        options=request.options,
        folder=output.folder,
        earlier={name: records[-1].key for name, records in store.records.items()},
    )


def _items(
    options: BatchOptions,
    inputs: list[str],
    stdin: bytes,
    defaults: Defaults,
    part: tuple[int, int] | None,
    store: Store,
    console: Console,
) -> list[Item]:
    """The items of this shard. Raises UsageError where there are none at all."""
    outputs = store.outputs() | ({options.join.absolute()} if options.join else set())
    search = Search(
        options.mode,
        options.recursive,
        options.prompts,
        options.prompt_from,
        implied_prompts=not defaults.prompt,
        outputs=outputs,
    )
    found = search.find(inputs, stdin.decode("utf-8-sig", "surrogateescape"))
    for path, reason in found.skipped.items():
        console.say(f"left out {path}: {reason}")
    items = make_items(found.entries, defaults)
    if not items:
        raise UsageError("there is no picture in what was named", "Is it in a folder below? -r looks there")
    if part:
        items = in_shard(items, *part)
        console.say(f"shard {part[0]} of {part[1]}: {counted(len(items), 'item')}")
    return items


def _run(work: Batch, engine: Engine, console: Console, request: Request) -> None:
    """Generate what is left to do and show it. Raises BatchError if items failed."""
    from dcrafter.batch.journal import Record

    items = {item.key: item for item in work.items}
    failed: list[Record] = []
    with (
        view(console, len(items)) as shown,
        console.interruptible() as interrupted,
        closing(work.run(engine)) as events,
    ):
        for each in events:
            if interrupted():
                raise KeyboardInterrupt
            if isinstance(each, Record):
                failed += [each] if each.status == "failed" else []
                shown.record(items[each.key], each, _result(each, work, request))
            else:
                shown.progress(items[each.key], each)
    if failed:
        for line in aligned([(items[record.key].title, record.error) for record in failed]):
            console.say(line)
        raise BatchError(f"{len(failed)} of {len(items)} items failed", "The same command tries them again")


def _check_usage(request: Request, options: BatchOptions, inputs: list[str]) -> None:
    if not inputs:
        raise UsageError("no input given", "Try dcrafter batch --help")
    if request.output == STDIO:
        raise UsageError("a batch cannot write to stdout", "Give a folder with -o")
    if named_format(request.output) and not os.path.isdir(request.output or ""):
        raise UsageError(f"{request.output} names one file, and a batch needs a folder", "Put / at its end")
    if options.prompts and options.prompts.is_dir():
        raise UsageError(f"{options.prompts} is a folder", "--prompts needs a text file")
    if options.prompts and options.prompt_from:
        raise UsageError("--prompts and --prompt-from are mutually exclusive", "Leave out one of them")
    if options.join and options.shard:
        raise UsageError("a shard has not all of a story", "Use --join without --shard when all shards are done")
    if options.workers and options.ray:
        raise UsageError("--workers is for this machine, --ray for a cluster", "Use --cpus-per-worker")
    if options.crossfade and not options.join:
        raise UsageError("--crossfade is between the shots of a story", "Give --join too")
    if request.noise or request.save_latents:
        raise UsageError("--noise and --save-latents are for one video", "Use dcrafter animate")
    if request.preview or request.save_preview:
        logger.warning("a batch shows no preview")


def _work(
    items: list[Item], store: Store, request: Request, options: BatchOptions, resume: bool, console: Console
) -> Batch:
    """The batch, each of its items with the name of its model."""
    from dcrafter.batch.runner import Batch, Weights
    from dcrafter.batch.worker import Models
    from dcrafter.cli.forecast import say_built_in

    chosen = [_with_model(item, request) for item in items]
    built_in = [item for item, made in zip(items, chosen, strict=True) if (item.model, made.model) == ("auto", "tiny")]
    if built_in:
        say_built_in(built_in[0].command, console)
    items = chosen
    models = Models(request.model, items[0].command if items else "animate", options.retries)
    captioner = captioner_of(request, console) if request.auto_prompt else None
    turned = options.join is None  # the shots of a story are alike
    return Batch(items, store, Weights(models), resume, options.fail_fast, turned, captioner)


def _with_model(item: Item, request: Request) -> Item:
    """The item with its model's name in the place of `auto`; a model that cannot be is a manifest row's problem."""
    from dcrafter.weights import hub

    try:
        if item.problem:
            return item
        if request.model.checkpoint is None:
            return replace(item, model=hub.choose(item.model, item.command))
        if item.model != request.model.model:
            raise UsageError("with --checkpoint there is one model", "Leave the column model out")
        return item
    except DCrafterError as error:
        if not item.where or item.model == request.model.model:
            raise
        return replace(item, problem=error.message)


def _models(work: Batch, request: Request) -> list[str]:
    """The names of the models whose weights are needed."""
    if request.model.checkpoint:
        return []
    return list(dict.fromkeys(item.model for item in work.items if not item.problem))


def _engine(work: Batch, settings: Sequence[Settings], options: BatchOptions) -> Engine:
    """What makes the videos: this process, some on this machine, or a cluster."""
    models = work.weights.models
    if options.ray is not None:
        from dcrafter.batch.cluster import Cluster

        return Cluster(models, options.ray, options.cpus_per_worker, len(work.items)).run
    import torch

    from dcrafter.batch.pool import Pool
    from dcrafter.batch.worker import Worker

    cores = torch.get_num_threads()
    workers = options.workers or _fastest_workers(work, settings, cores)
    if workers == 1:
        return Worker(models).run
    return Pool(models, workers, max(1, cores // workers), len(work.items)).run


def _fastest_workers(work: Batch, settings: Sequence[Settings], cores: int) -> int:
    if min(cores, len(settings)) < 2:
        return 1
    from dcrafter.models.dynamicrafter import DynamiCrafter
    from dcrafter.runtime import estimate
    from dcrafter.runtime.devices import choose_device, choose_dtype, free_memory

    options = work.weights.models.options
    device = choose_device(options.device)
    names = {item.model for item in work.items if not item.problem}
    if device.type != "cpu" or options.memory not in ("auto", "normal") or len(names) != 1:
        return 1
    model = DynamiCrafter.on_meta(work.weights.config(*names))
    return estimate.processes(model, settings, choose_dtype(options.dtype, device), cores, free_memory(device))


def _dry_run(work: Batch, console: Console, request: Request) -> None:
    """Show what would be done with each item. Raises BatchError if some would fail."""
    from dcrafter.batch.journal import Record
    from dcrafter.batch.worker import Task
    from dcrafter.cli.forecast import say_batch, say_download

    for model in _models(work, request):
        say_download(model, request, console)
    failed, told = 0, None
    for item, each in zip(work.items, work.plan(), strict=True):
        path = work.store.path(item)
        if isinstance(each, Task) and told != (told := replace(each.settings, prompt="", seed=0)):
            say_batch(work.weights.config(item.model), each.settings, request, console)
        if isinstance(each, Record):
            failed += each.status == "failed"
            console.say(f"{item.title}: {describe(each)}")
        else:
            prompt = f', "{each.settings.prompt}"' if each.settings.prompt else ""
            console.say(f"{item.title}, seed {item.seed}{prompt}: {path}")
        if request.json:
            status = each.status if isinstance(each, Record) else "planned"
            settings = each.settings if isinstance(each, Record) else each.settings.to_dict()
            console.result_json(
                item=item.path,
                index=item.index,
                status=status,
                path=str(path) if item.output else None,
                seed=item.seed,
                settings=settings,
            )
    if failed:
        raise BatchError(f"{failed} of {len(work.items)} items would fail")


def _result(record: Record, work: Batch, request: Request) -> str | None:
    """An item's line on stdout."""
    path = str(work.store.folder / record.output) if record.output else None
    if request.json:
        return json.dumps({**asdict(record), "path": path})
    return None if record.status == "failed" else path


# --- a story ---


def _check_story(options: BatchOptions, items: Sequence[Item], settings: list[Settings], request: Request) -> int:
    """How many frames shots fade over. Raises UsageError, OutputError where there cannot be a story."""
    from dcrafter.batch.join import fade_frames, read_story
    from dcrafter.batch.store import images_of
    from dcrafter.media.formats import format_of
    from dcrafter.media.video import check_output

    path = cast(Path, options.join)
    check_output(path, format_of(path), request.overwrite or read_story(path) is not None, images_of(items))
    return fade_frames(settings, options.crossfade)


def _write_story(
    work: Batch, path: Path, fps: float, overlap: int, crossfade: float, request: Request, console: Console
) -> Path:
    """Join the shots, unless that is done or the story was edited since."""
    from dcrafter.batch.join import join, read_story
    from dcrafter.batch.journal import Record
    from dcrafter.batch.runner import KEPT
    from dcrafter.batch.store import hash_output
    from dcrafter.media.formats import FORMATS, format_of
    from dcrafter.media.video import write_video
    from dcrafter.settings import WriteOptions

    shots = [work.store.path(item) for item in work.items]
    story = {"shots": [[shot.name, hash_output(shot)] for shot in shots], "crossfade": crossfade}
    earlier = read_story(path)
    name = Path(os.path.relpath(path, work.store.folder)).as_posix()
    if earlier and name in work.store.records and work.store.is_changed(name) and not request.overwrite:
        console.say(f"{path}: {KEPT}")
        return path
    if earlier == story:
        return path
    format = format_of(path)
    options = WriteOptions(format, metadata=request.writing.metadata)
    if FORMATS[format].codecs:
        options = replace(options, codec=request.writing.codec, crf=request.writing.crf)
    write_video(
        join(shots, overlap),
        path,
        options,
        fps=fps,
        settings=story,
        overwrite=request.overwrite or earlier is not None,
    )
    work.store.append(
        Record(STORY, 1, "done", name, source="", settings=story, output_hash=hash_output(path), finished=time.time())
    )
    return path
