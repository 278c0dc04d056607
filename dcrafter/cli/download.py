"""dcrafter download MODEL…"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dcrafter.cli.arguments import FLAG, argument, option
from dcrafter.cli.console import Console
from dcrafter.config import MODELS
from dcrafter.errors import UsageError, WeightsError
from dcrafter.text import aligned, format_size
from dcrafter.weights.families import PUBLISHED

if TYPE_CHECKING:
    from dcrafter.weights.hub import DownloadOptions, Entry

EXAMPLES = """
[bold]Examples[/bold]

dcrafter download 512

dcrafter download 1024 512-interp --variant fp16

dcrafter download --list

dcrafter download --verify

dcrafter download --import mine.ckpt --name mine
"""

DOWNLOADABLE = list(PUBLISHED)


def _complete(incomplete: str) -> list[str]:
    """Names of models, imported ones too."""
    from dcrafter.weights.cache import cache_dir, models

    return [name for name in dict.fromkeys([*DOWNLOADABLE, *models(cache_dir())]) if name.startswith(incomplete)]


Models = Annotated[
    list[str] | None,
    argument("MODEL", f"{', '.join(DOWNLOADABLE)}, or imported ones.", autocompletion=_complete),
]
All = Annotated[
    bool, typer.Option("--all", metavar=FLAG, help="Every model: all there are, or with --remove all here.")
]
List = Annotated[bool, typer.Option("--list", metavar=FLAG, help="What there is, what is here, how large, where.")]
Verify = Annotated[
    bool, typer.Option("--verify", metavar=FLAG, help="Check files that are here; fetch damaged ones again.")
]
Remove = Annotated[bool, typer.Option("--remove", metavar=FLAG, help="Delete them from the cache.")]
Where = Annotated[bool, typer.Option("--path", metavar=FLAG, help="Print where they are; fetch nothing.")]
Import = Annotated[
    Path | None,
    typer.Option(
        "--import", metavar="<file>", help="Take in a checkpoint of your own, under a --name.", show_default=False
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="What -m will call it.", show_default=False)]
Tree = Annotated[
    Path | None, typer.Option("--model-config", help="Its YAML or JSON tree, if it needs one.", show_default=False)
]
Store = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    option("--store", metavar="<type>", help="float32, float16 or bfloat16.", show_default="float16, or as small"),
]
Variant = Annotated[
    Literal["fp16"] | None,
    option("--variant", metavar="<name>", help="fp16: 3.1 GB without CLIP's towers.", show_default="none"),
]
Towers = Annotated[
    Path | None,
    option("--towers", metavar="<file>", help="A file with CLIP's towers.", show_default="a model's, or OpenCLIP's"),
]
Keep = Annotated[bool, option("--keep", metavar=FLAG, help="Keep the original beside the converted file.")]
Revision = Annotated[str | None, option("--revision", help="Branch, tag or commit.", show_default="main")]
Endpoint = Annotated[
    str | None, option("--endpoint", metavar="<url>", help="A mirror.", show_default="$HF_ENDPOINT, or the hub")
]
CacheDir = Annotated[
    Path | None,
    option("--cache-dir", metavar="<folder>", help="Where they are kept.", show_default="the platform's"),
]
Offline = Annotated[bool, option("--offline", metavar=FLAG, help="Download nothing.")]
DryRun = Annotated[bool, option("--dry-run", metavar=FLAG, help="Say what would be done, and stop.")]
Json = Annotated[bool, option("--json", metavar=FLAG, help="A JSON object a model on stdout.")]
Quiet = Annotated[bool, option("-q", "--quiet", metavar=FLAG, help="Say nothing but errors.")]
Verbose = Annotated[bool, option("-v", "--verbose", metavar=FLAG, help="Tracebacks and libraries' warnings too.")]


def download(
    models: Models = None,
    all_: All = False,
    list_: List = False,
    verify: Verify = False,
    remove: Remove = False,
    path: Where = False,
    import_: Import = None,
    name: Name = None,
    model_config: Tree = None,
    store: Store = None,
    variant: Variant = None,
    towers: Towers = None,
    keep: Keep = False,
    revision: Revision = None,
    endpoint: Endpoint = None,
    cache_dir: CacheDir = None,
    offline: Offline = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fetch models, or look after those that are here.

    Prints the path of each; everything else goes to stderr. What is interrupted
    goes on where it stopped when the same command runs again.
    """
    from dcrafter.weights.hub import DownloadOptions

    console = Console(quiet=quiet, verbose=verbose)
    options = DownloadOptions(
        variant=variant,
        store=store,
        keep=keep,
        revision=revision,
        endpoint=endpoint,
        offline=offline,
        towers=towers,
    )
    if cache_dir:
        options = replace(options, folder=cache_dir.absolute())
    named = models or []
    if list_ + verify + remove + path + (import_ is not None) > 1:
        raise UsageError("--list, --verify, --remove, --path and --import are one at a time")
    if name and not import_:
        raise UsageError("--name is for what --import takes in", "Give --import FILE too")
    task = _Task(console, options, json, dry_run)
    if list_:
        task.show(named)
    elif import_:
        task.take_in(import_, name, named, model_config)
    elif verify:
        task.verify(named)
    elif remove:
        task.remove(named or task.here(all_, "cache"))
    elif path:
        task.paths(named or task.here(all_))
    else:
        task.fetch(named or (DOWNLOADABLE if all_ else _none()))


def _none() -> list[str]:
    raise UsageError("no model is named", "Try dcrafter download 512, or --all; --list shows what there is")


def _missing(model: str) -> WeightsError:
    fetched = f"Fetch it with dcrafter download {model}" if model in PUBLISHED else "See dcrafter download --list"
    return WeightsError(f"{model} is not on this machine", fetched)


class _Task:
    """What the command does, one method a way of doing it."""

    def __init__(self, console: Console, options: DownloadOptions, json: bool, dry_run: bool) -> None:
        self.console, self.options, self.json, self.dry_run = console, options, json, dry_run

    def result(self, text: Callable[[], str], **values: Any) -> None:
        self.console.result_json(**values) if self.json else self.console.result(text())

    def here(self, wanted: bool = True, place: str | None = None) -> list[str]:
        """The names of the models on this machine. Raises UsageError unless they are wanted."""
        from dcrafter.weights import hub

        if not wanted:
            _none()
        return [entry.model for entry in hub.entries(self.options.folder) if place in (None, entry.place)]

    def fetch(self, models: list[str]) -> None:
        from dcrafter.cli.transfer import follow
        from dcrafter.weights import hub

        for model in models:
            if self.dry_run:
                self._plan(model)
                continue
            path = follow(hub.acquire(model, self.options), self.console, model)
            self.result(lambda: str(path), model=model, path=str(path), size=path.stat().st_size)  # noqa: B023

    def _plan(self, model: str) -> None:
        from dcrafter.weights import hub

        plan = hub.plan(model, self.options)
        if plan.size:
            own = [f"{format_size(plan.size - plan.towers)} from {plan.url}"] if plan.size > plan.towers else []
            shared = [f"{format_size(plan.towers)} of CLIP's towers for all models"] if plan.towers else []
            said = f"{model}: {' and '.join(own + shared)} to {plan.path}, {format_size(plan.space)} needed, "
            self.console.say(said + f"{format_size(plan.free)} free")
        else:
            self.console.say(f"{model}: here already, {plan.path}")
        if self.json:
            self.console.result_json(
                model=model,
                path=str(plan.path),
                url=plan.url,
                size=plan.size,
                towers=plan.towers,
                space=plan.space,
                free=plan.free,
            )

    def show(self, models: list[str]) -> None:
        from dcrafter.weights import cache, hub

        here = {entry.model: entry for entry in hub.entries(self.options.folder)}
        rows = []
        for model in models or dict.fromkeys([*MODELS, *here]):
            entry, source = here.get(model), PUBLISHED.get(model)
            if entry:
                state = [format_size(entry.size), entry.place, _day(entry.used), str(entry.path)]
            else:
                state = [
                    format_size(source.size) if source else "",
                    "not here",
                    "",
                    source.repository if source else "",
                ]
            rows.append([model, *state])
            if self.json:
                self.console.result_json(**_facts(model, entry))
        for path in [] if models else cache.all_towers(self.options.folder):
            size, used = path.stat().st_size, path.stat().st_atime
            rows.append(["towers", format_size(size), "cache, shared", _day(used), str(path)])
        if not self.json:
            for line in aligned([["MODEL", "SIZE", "PLACE", "USED", "WHERE"], *rows]):
                self.console.result(line)

    def paths(self, models: list[str]) -> None:
        from dcrafter.weights import hub

        for model in models:
            path = hub.find(model, self.options.folder)
            if path is None:
                raise _missing(model)
            self.result(lambda: str(path), model=model, path=str(path))  # noqa: B023

    def remove(self, models: list[str]) -> None:
        from dcrafter.weights import cache, hub

        for model in models:
            path = hub.find(model, self.options.folder)
            if path is not None and path.parent != self.options.folder:
                raise UsageError(
                    f"{path} is not in our cache, and stays", "Delete it with the program that put it there"
                )
            if self.dry_run:
                self.console.say(f"{model}: would be removed from {self.options.folder}")
                continue
            freed = cache.remove(self.options.folder, model)
            self.console.say(
                f"{model}: {format_size(freed)} removed" if freed else f"{model}: there was nothing to remove"
            )
            if self.json:
                self.console.result_json(model=model, freed=freed)

    def verify(self, models: list[str]) -> None:
        from dcrafter.cli.transfer import follow
        from dcrafter.weights import hub

        entries = {entry.model: entry for entry in hub.entries(self.options.folder)}
        failures: list[WeightsError] = []
        for model in models or entries:
            if model not in entries:
                raise _missing(model)
            entry = entries[model]
            good = follow(hub.verify(entry), self.console, model)
            self.console.say(f"{model}: {'good' if good else 'DAMAGED'}, {entry.path}")
            if self.json:
                self.console.result_json(model=model, path=str(entry.path), good=good)
            if not good and not self.dry_run:
                try:
                    self._replace(entry)
                except WeightsError as error:  # the others are looked at too
                    failures.append(error)
        for failure in failures[:-1]:
            self.console.say(f"error: {failure}")
        if failures:
            raise failures[-1]

    def _replace(self, entry: Entry) -> None:
        """Fetch a damaged file again."""
        from dcrafter.cli.transfer import follow
        from dcrafter.weights import hub

        if entry.place != "cache":
            raise WeightsError(
                f"{entry.path} is damaged, and not ours to replace",
                f"Delete it with `hf cache`, then run dcrafter download {entry.model}",
            )
        if entry.model not in PUBLISHED:
            raise WeightsError(f"{entry.path} is damaged", f"Import it again, after --remove {entry.model}")
        if self.options.offline:
            raise WeightsError(f"{entry.path} is damaged", "Run the same without --offline to fetch it again")
        hub.set_aside(entry.path)
        self.console.say(f"{entry.model}: set aside, fetching it again")
        follow(hub.acquire(entry.model, hub.options_of(entry, self.options)), self.console, entry.model)

    def take_in(self, file: Path, name: str | None, models: list[str], model_config: Path | None) -> None:
        from dcrafter.cli.transfer import follow
        from dcrafter.weights import cache, hub

        if not name or len(models) > 1:
            raise UsageError("an imported file needs one --name", "It may be called so by -m then")
        cache.weights_path(self.options.folder, name)  # before torch is imported
        with self.console.status("reading"):
            from dcrafter.models.dynamicrafter import DynamiCrafter
            from dcrafter.weights.checkpoint import open_checkpoint

            opened = open_checkpoint(file, model=models[0] if models else None, model_config=model_config)
        self.console.say(opened.assumption or f"{file} holds the {opened.config.name} model")
        if opened.oddity:
            self.console.say(opened.oddity)
        opened = hub.with_towers(opened, self.options, plan_only=True)
        opened.check(DynamiCrafter.on_meta(opened.config))
        if self.dry_run:
            return
        path = follow(hub.import_checkpoint(opened, name, self.options), self.console, name)
        self.result(lambda: str(path), model=name, path=str(path), size=path.stat().st_size)


def _facts(model: str, entry: Entry | None) -> dict[str, Any]:
    if entry is None:
        return {"model": model, "here": False}
    return {
        "model": model,
        "here": True,
        "path": str(entry.path),
        "place": entry.place,
        "size": entry.size,
        "used": entry.used,
        "source": entry.source,
    }


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
