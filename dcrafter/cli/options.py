"""What the commands that generate share: their options, as one `request: Request`, and who wins over whom.

The fields of `settings.Settings`, `ModelOptions` and `WriteOptions` become options of each command that has them, and
so do those of `Request`, which only the command line knows.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from dcrafter.cli.arguments import STDIO, argument, is_inverted, is_switch, parameter
from dcrafter.cli.config_file import read_config, where_from
from dcrafter.cli.earlier import take_over
from dcrafter.config import Command
from dcrafter.errors import UsageError
from dcrafter.media.formats import DEFAULT_FORMAT, FORMATS, describe_codecs, describe_formats, named_format
from dcrafter.settings import (
    FAST,
    MESSAGES,
    PANELS,
    WRITING,
    ModelOptions,
    Option,
    Options,
    Settings,
    Shorthand,
    WriteOptions,
    flag,
    option,
    options_of,
)

BATCH = "batch"  # the command that does what each of the others does
SOURCES = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")  # of a value; the last wins

Images = Annotated[
    list[str] | None,
    argument("IMAGE", f"Images: files, http(s) addresses, {STDIO} for stdin."),
]


@dataclass(frozen=True)
class Request:
    """A generation as it is asked for on the command line."""

    prompt: str | None = option("What happens; - reads stdin.", short="-p", default_help=False)
    output: str | None = option(
        "File, folder (with / at its end, or existing), or - for stdout.",
        short="-o",
        metavar="<path>",
        default_help="like the image, here",
    )
    seed: int | None = option("Same seed, same video.", default_help="random; batch 0")
    count: int = option("Videos per image: seed, seed + 1, …", default=1, minimum=1, short="-n")
    from_: Path | None = option("Settings (and images) of an earlier result.", metavar="<video>", default_help=False)
    config: Path | None = option("TOML file of options.", default_help="config.toml, if there")
    auto_prompt: bool = option("Caption the image; with -p, both together.", default=False)
    captioner: str = option(
        "Captioning model: on the hub, or a folder.", default="", metavar="<name>", default_help="BLIP base"
    )
    overwrite: bool = option("Replace files that exist.", WRITING, default=False)
    dry_run: bool = option("Say what would be done, and stop.", MESSAGES, default=False)
    preview: bool = option("Show the video in the terminal as it forms.", MESSAGES, default=False)
    save_preview: Path | None = option("The same, into a PNG or JPEG file.", MESSAGES, default_help=False)
    json: bool = option("A JSON object per video on stdout.", MESSAGES, default=False)
    quiet: bool = option("Say nothing but errors.", MESSAGES, default=False, short="-q")
    verbose: bool = option("Tracebacks and libraries' warnings too.", MESSAGES, default=False, short="-v")
    noise: Path | None = option("Noise as recorded.", hidden=True)
    save_latents: Path | None = option("The sample.", hidden=True)

    options: Options = field(default_factory=lambda: Options())
    model: ModelOptions = ModelOptions()
    writing: WriteOptions = WriteOptions()


MORE: dict[str, dict[str, Any]] = {"config": {"is_eager": True, "callback": read_config}}  # for typer


def shared_options(command: str) -> dict[str, Option]:
    """The options that a command has beside its own, by name, in the order of its help."""
    writing = {**options_of(WriteOptions)}
    writing["format"] = replace(
        writing["format"],
        help=f"{describe_formats()}.",
        choices=tuple(FORMATS),
        default_help=f"by -o, else {DEFAULT_FORMAT}",
    )
    codecs = describe_codecs()
    writing["codec"] = replace(writing["codec"], help=f"{codecs}, …", words=tuple(codecs.split(", ")))
    found = options_of(Settings) | options_of(Shorthand) | options_of(ModelOptions) | writing | options_of(Request)
    kept = {name: each for name, each in found.items() if command == BATCH or each.command in (None, command)}
    return dict(sorted(kept.items(), key=lambda each: PANELS.index(each[1].panel)))


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """A command with a parameter `request: Request`, as typer is to see it: with an option for each shared one.

    Other parameters that are dataclasses of options become options, too. Of each option that can only be switched on
    there is the contrary too, for what the environment or a file says.
    """
    signature = inspect.signature(command, eval_str=True).parameters.values()
    own = [p for p in signature if not is_dataclass(p.annotation)]
    groups: dict[str, Any] = {p.name: p.annotation for p in signature if is_dataclass(p.annotation)}
    del groups["request"]
    further = {name: each for group in groups.values() for name, each in options_of(group).items()}
    known = shared_options(command.__name__)
    own += [parameter(name, each) for name, each in further.items()]
    shared = [parameter(name, each, **MORE.get(name, {})) for name, each in known.items()]
    contraries = {_contrary(p.name): p.name for p in [*own, *shared] if is_switch(p)}

    @functools.wraps(command)
    def run(context: typer.Context, **values: Any) -> None:
        _check(further | known, values, context)
        _decide(values, contraries, context)
        request = _request(known, values)
        filled = {
            name: group(**{each: values.pop(each) for each in options_of(group)}) for name, group in groups.items()
        }
        command(**values, **filled, request=request)

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *own, *shared, *map(_contrary_parameter, contraries)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _contrary(name: str) -> str:
    return name.removeprefix("no_") if name.startswith("no_") else f"no_{name}"


def _contrary_parameter(name: str) -> inspect.Parameter:
    annotation = Annotated[bool, typer.Option(flag(name), hidden=True)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)


def _check(known: dict[str, Option], values: dict[str, Any], context: typer.Context) -> None:
    """Raises UsageError for a value out of range, which says where it comes from."""
    for name, each in known.items():
        value = values.get(name)
        if value is None or value == each.default or isinstance(value, Path):
            continue
        try:
            each.check(value)
        except ValueError as error:
            found = next(p for p in context.command.params if p.name == name)
            source = where_from(context, found)
            raise UsageError(f"{source}: {flag(name)} {error}" if source else f"{flag(name)} {error}") from None


def _request(known: dict[str, Option], values: dict[str, Any]) -> Request:
    """Take the values of shared options out of `values`."""

    def taken(kind: type) -> Iterator[tuple[str, Any]]:
        for name in options_of(kind):
            if name in known:
                value = not values.pop(f"no_{name}") if is_inverted(known[name]) else values.pop(name)
                yield name, tuple(value) if isinstance(value, list) else value

    return Request(
        **dict(taken(Request)),
        options=cast(Options, dict(taken(Settings)) | dict(taken(Shorthand))),
        model=ModelOptions(**dict(taken(ModelOptions))),
        writing=WriteOptions(**dict(taken(WriteOptions))),
    )


def _decide(values: dict[str, Any], contraries: dict[str, str], context: typer.Context) -> None:
    """Put contraries, --fast and --from into the values of options, each where it stands among the sources.

    A flag wins over the settings of --from, those over the environment, that over the config file.
    """
    levels = {name: SOURCES.index(source.name) for name in values if (source := context.get_parameter_source(name))}
    for contrary, name in contraries.items():
        if values.pop(contrary):
            values[name], levels[name] = False, levels[contrary]
    if values["fast"]:
        for name in FAST.keys() & levels:
            if levels[name] < levels["fast"]:
                values[name], levels[name] = None, levels["fast"]  # left to `settings.resolve`, which knows the model
    _fit_format(values, levels)
    if values["from_"] is not None:
        flags = {name for name, level in levels.items() if SOURCES[level] == "COMMANDLINE"}
        take_over(values, flags, values.get("mode") or cast(Command, context.info_name))


def _fit_format(values: dict[str, Any], levels: dict[str, int]) -> None:
    """Leave out what the environment or a file says of the format, where a later source makes the format another."""
    named = named_format(values["output"])
    if named and levels["format"] < levels["output"]:
        values["format"] = named
    codecs = FORMATS[values["format"] or named or DEFAULT_FORMAT].codecs
    others = {codec for format in FORMATS.values() for codec in format.codecs} - {*codecs}
    for name in ("codec", "crf"):
        fits = codecs and values[name] not in others
        if not fits and levels[name] < SOURCES.index("COMMANDLINE"):
            values[name] = None
