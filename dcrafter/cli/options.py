"""The options that several commands share, each defined once, in the order and panels of their help.

A command takes them all as one `request: Request`; `takes_request` shows typer the fields as options.
Every option also reads the environment variable DCRAFTER_<OPTION>.
"""

from __future__ import annotations

import functools
import inspect
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from dcrafter.config import MODELS, Command
from dcrafter.errors import UsageError
from dcrafter.media.formats import DEFAULT_FORMAT, FORMATS, describe_codecs, describe_formats, named_format
from dcrafter.sampling import DEFAULT_SAMPLER, SAMPLERS
from dcrafter.settings import (
    DEFAULT_FPS,
    DTYPES,
    MEMORY_PLANS,
    Fit,
    Options,
    SamplerName,
)

if TYPE_CHECKING:
    DtypeName = str
    FormatName = str
    MemoryName = str
else:  # typer takes the choices from a Literal, which type checkers want spelled out
    DtypeName = Literal["auto", *DTYPES]
    FormatName = Literal[*FORMATS]
    MemoryName = Literal["auto", *MEMORY_PLANS]

FAST_STEPS = 15
STDIO = "-"  # as a picture, prompt or output: the standard streams
BY_MODEL = "the model's"


def option(*names: str, panel: str | None = None, **more: Any) -> Any:
    """A typer option; its environment variable is named after the first long name."""
    long = next(name for name in names if name.startswith("--"))
    variable = "DCRAFTER_" + long.removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, envvar=variable, show_envvar=False, rich_help_panel=panel, **more)


def argument(metavar: str, help: str) -> Any:
    """A typer argument that may be left out."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)


class ToolCommand(TyperCommand):
    """Shows its --help as it shows other flags."""

    def get_help_option(self, ctx: Any) -> Any:
        shown = super().get_help_option(ctx)
        if shown is not None:
            shown.metavar = FLAG
        return shown


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Takes the options of a TOML file as defaults, by default those of the user's own file if there is one.

    Keys are long option names; a table named after a command holds what concerns it alone. Raises UsageError for a
    file that cannot be read and for keys that are no options.
    """
    file = path or user_config()
    if path is None and not file.is_file():
        return None
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the config file {file} cannot be read ({error})") from error
    tables = {name: values.pop(name) for name in [*values] if isinstance(values[name], dict)}
    ours, commands = _keys(context.command), cast(Any, context.find_root().command).commands
    wrong, known = [key for key in values if key not in ours], set(ours)
    for name, table in tables.items():
        if name not in GENERATING:
            wrong.append(f"[{name}]")
            continue
        keys = _keys(commands[name])
        wrong += [f"{key} in [{name}]" for key in table if key not in keys]
        known |= set(keys)
    if wrong:
        raise UsageError(f"{file} has unknown keys: {', '.join(wrong)}", f"Keys are {', '.join(sorted(known))}")
    values |= tables.get(context.info_name or "", {})
    for key, value in values.items():
        if not isinstance(value, (str, int, float)):
            raise UsageError(f"{key} in {file} must be one value, not {value!r}")
    context.default_map = {ours[key].name: value for key, value in values.items()}
    return path


def _keys(command: Any) -> dict[str, Any]:
    """The parameters of a command by what a file calls them."""
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    keys = {name.removeprefix("--"): each for each in shown for name in each.opts if name.startswith("--")}
    return {name: each for name, each in keys.items() if name not in _NOT_IN_FILES}


def where_from(context: typer.Context, parameter: Any) -> str:
    """Where the value of an option comes from, if it is no flag: for errors."""
    source = context.get_parameter_source(parameter.name)
    if source is None or source.name not in ("ENVIRONMENT", "DEFAULT_MAP"):
        return ""
    if source.name == "ENVIRONMENT":
        return f"{parameter.envvar} in the environment"
    return str(context.params.get("config") or user_config())


def user_config() -> Path:
    """The user's own file of options."""
    from platformdirs import user_config_path

    return user_config_path("dcrafter") / "config.toml"


def _models(incomplete: str) -> list[str]:
    return [name for name in ("auto", *MODELS) if name.startswith(incomplete)]


def _defaults(setting: str) -> str:
    """The small model's value of a setting, and that of the others."""
    most, tiny = (getattr(MODELS[name], setting) for name in ("512", "tiny"))
    return f"{most:g}, tiny {tiny:g}"


_SAYING = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")  # where a value can come from, the last wins
_NOT_IN_FILES = ("config", "from", "help")
GENERATING = ("animate", "interpolate", "loop", "batch")

_motion = functools.partial(option, panel="Picture and motion")
_sampling = functools.partial(option, panel="Sampling")
_model = functools.partial(option, panel="Model and machine")
_writing = functools.partial(option, panel="Writing")
_talking = functools.partial(option, panel="Messages")
FLAG = ""  # the metavar of a flag, in place of <bool>
FITS = get_args(Fit)

Images = Annotated[
    list[str] | None,
    argument("IMAGE", "Pictures: files, http(s) addresses, - for stdin."),
]


@dataclass(frozen=True)
class Request:
    """A generation as it is asked for on the command line. None follows the model."""

    prompt: Annotated[str, option("-p", "--prompt", help="What happens; - reads stdin.", show_default=False)] = ""
    output: Annotated[
        str | None,
        option(
            "-o",
            "--output",
            metavar="<path>",
            help="File, folder (with / at its end, or existing), or - for stdout.",
            show_default="like the picture, here",
        ),
    ] = None
    seed: Annotated[int | None, option("--seed", help="Same seed, same video.", show_default="random; batch 0")] = None
    count: Annotated[
        int, option("-n", "--count", metavar="<int>", min=1, help="Videos a picture: seed, seed + 1, …")
    ] = 1
    from_: Annotated[
        Path | None,
        option("--from", metavar="<video>", help="Settings (and pictures) of an earlier result.", show_default=False),
    ] = None
    config: Annotated[
        Path | None,
        option(
            "--config",
            help="TOML file of options.",
            show_default="config.toml, if there",
            is_eager=True,
            callback=read_config,
        ),
    ] = None
    auto_prompt: Annotated[
        bool, option("--auto-prompt", metavar=FLAG, help="Caption the picture; with -p, both together.")
    ] = False
    captioner: Annotated[
        str,
        option(
            "--captioner", metavar="<name>", help="Captioning model: on the hub, or a folder.", show_default="BLIP base"
        ),
    ] = ""

    motion: Annotated[
        str | None,
        _motion(
            "--motion",
            metavar="<amount>",
            help="low, medium, high, or the model's raw number.",
            show_default=BY_MODEL,
        ),
    ] = None
    width: Annotated[int | None, _motion("--width", help="Pixels.", show_default=BY_MODEL)] = None
    height: Annotated[int | None, _motion("--height", help="Pixels.", show_default=BY_MODEL)] = None
    fit: Annotated[Fit, _motion("--fit", metavar="<way>", help=f"How it fills that size: {', '.join(FITS)}.")] = "crop"
    frames: Annotated[
        int | None, _motion("--frames", help="Frames to keep, evenly chosen.", show_default="all that are sampled")
    ] = None
    fps: Annotated[float, _motion("--fps", help="Frames a second when played.")] = DEFAULT_FPS
    color_match: Annotated[
        bool, _motion("--color-match", metavar=FLAG, help="Keep the picture's colours from drifting.")
    ] = False

    negative_prompt: Annotated[
        str, _sampling("--negative-prompt", help="What to keep away from.", show_default=False)
    ] = ""
    steps: Annotated[
        int | None,
        _sampling("--steps", help="More take longer and look cleaner.", show_default=_defaults("steps")),
    ] = None
    sampler: Annotated[
        SamplerName,
        _sampling(
            "--sampler",
            metavar="<name>",
            help="; ".join(f"{name}: {each.help}" for name, each in SAMPLERS.items()) + ".",
        ),
    ] = DEFAULT_SAMPLER
    fast: Annotated[
        bool, _sampling("--fast", metavar=FLAG, help=f"Short for --sampler dpm++ --steps {FAST_STEPS}.")
    ] = False
    guidance: Annotated[
        float | None,
        _sampling("-g", "--guidance", help="How closely to follow the prompt.", show_default=_defaults("guidance")),
    ] = None
    image_guidance: Annotated[
        float | None,
        _sampling("--image-guidance", help="A guidance scale of its own for the picture.", show_default="none"),
    ] = None
    guidance_rescale: Annotated[
        float | None,
        _sampling("--guidance-rescale", help="0 to 1; against overexposure.", show_default=BY_MODEL),
    ] = None
    eta: Annotated[
        float | None,
        _sampling(
            "--eta",
            help="Noise in each step: 0 none, 1 as published.",
            show_default=", ".join(f"{name} {each.eta:g}" for name, each in SAMPLERS.items()),
        ),
    ] = None
    context_scale: Annotated[
        str,
        _sampling(
            "--context-scale", metavar="<scale>", help="Weight of the picture's context: 1.2, or by layers 7-9:0.8."
        ),
    ] = "1"

    model: Annotated[
        str,
        _model(
            "-m",
            "--model",
            autocompletion=_models,
            metavar="<name>",
            help=f"{', '.join(MODELS)}: downloaded if missing; auto: the best that is here.",
        ),
    ] = "auto"
    checkpoint: Annotated[
        Path | None, _model("--checkpoint", help="Weights: .ckpt or .safetensors.", show_default=False)
    ] = None
    model_config: Annotated[
        Path | None,
        _model("--model-config", help="Its YAML or JSON tree, if its size is unusual.", show_default=False),
    ] = None
    device: Annotated[
        str, _model("--device", metavar="<device>", help="cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.")
    ] = "auto"
    dtype: Annotated[
        DtypeName, _model("--dtype", metavar="<type>", help=f"{', '.join(DTYPES)}, or auto by device.")
    ] = "auto"
    memory: Annotated[
        MemoryName,
        _model("--memory", metavar="<plan>", help=f"{', '.join(MEMORY_PLANS)}: each slower and smaller."),
    ] = "auto"
    compile: Annotated[
        bool, _model("--compile", metavar=FLAG, help="torch.compile: minutes at first, faster steps.")
    ] = False
    offline: Annotated[bool, _model("--offline", metavar=FLAG, help="Download nothing.")] = False

    format: Annotated[
        FormatName | None,
        _writing(
            "-f",
            "--format",
            metavar="<kind>",
            help=f"{describe_formats()}.",
            show_default=f"by -o, else {DEFAULT_FORMAT}",
        ),
    ] = None
    codec: Annotated[
        str | None,
        _writing("--codec", metavar="<codec>", help=f"{describe_codecs()}, …", show_default="the format's"),
    ] = None
    crf: Annotated[
        int | None, _writing("--crf", help="Compression: 0 best, 63 smallest.", show_default="the codec's")
    ] = None
    no_metadata: Annotated[
        bool, _writing("--no-metadata", metavar=FLAG, help="Leave the settings out of the file.")
    ] = False
    overwrite: Annotated[bool, _writing("--overwrite", metavar=FLAG, help="Replace files that exist.")] = False

    dry_run: Annotated[bool, _talking("--dry-run", metavar=FLAG, help="Say what would be done, and stop.")] = False
    preview: Annotated[
        bool, _talking("--preview", metavar=FLAG, help="Show the video in the terminal as it forms.")
    ] = False
    save_preview: Annotated[
        Path | None, _talking("--save-preview", help="The same, into a PNG or JPEG file.", show_default=False)
    ] = None
    json: Annotated[bool, _talking("--json", metavar=FLAG, help="A JSON object a video on stdout.")] = False
    quiet: Annotated[bool, _talking("-q", "--quiet", metavar=FLAG, help="Say nothing but errors.")] = False
    verbose: Annotated[
        bool, _talking("-v", "--verbose", metavar=FLAG, help="Tracebacks and libraries' warnings too.")
    ] = False

    noise: Annotated[Path | None, typer.Option("--noise", hidden=True, help="Noise as recorded.")] = None
    save_latents: Annotated[Path | None, typer.Option("--save-latents", hidden=True, help="The sample.")] = None

    def __post_init__(self) -> None:
        """Raises UsageError where one option makes no sense without another."""
        if self.model_config and not self.checkpoint:
            raise UsageError("--model-config describes a checkpoint", "Give --checkpoint too")

    def options(self) -> Options:
        """What concerns the numbers of a generation."""
        return cast(Options, {f.name: getattr(self, f.name) for f in fields(self) if f.name in Options.__annotations__})


def _is_switch(annotation: Any) -> bool:
    """An option that can only be switched on."""
    kind, *rest = get_args(annotation) or (annotation,)
    return kind is bool and not any("/" in name for name in rest[0].param_decls)


def _contrary(name: str) -> str:
    return name.removeprefix("no_") if name.startswith("no_") else f"no_{name}"


def _decide(values: dict[str, Any], contraries: dict[str, str], context: typer.Context) -> None:
    """Puts contraries, --fast and --from into the values of options, each where it stands among who says what.

    A flag wins over the settings of --from, those over the environment, that over the config file.
    """
    said = {name: _SAYING.index(source.name) for name in values if (source := context.get_parameter_source(name))}
    for contrary, name in contraries.items():
        if values.pop(contrary):
            values[name], said[name] = False, said[contrary]
    if values["fast"]:
        for name, value in (("steps", FAST_STEPS), ("sampler", "dpm++")):
            if said[name] < said["fast"]:
                values[name], said[name] = value, said["fast"]
    _fit_format(values, said)
    if values["from_"] is not None:
        from dcrafter.cli.earlier import take_over

        flags = {name for name, level in said.items() if _SAYING[level] == "COMMANDLINE"}
        take_over(values, flags, values.get("mode") or cast(Command, context.info_name))


def _fit_format(values: dict[str, Any], said: dict[str, int]) -> None:
    """Leaves out what the environment or a file says of the format, where a later word makes the format another."""
    named = named_format(values["output"])
    if named and said["format"] < said["output"]:
        values["format"] = named
    codecs = FORMATS[values["format"] or named or DEFAULT_FORMAT].codecs
    others = {codec for format in FORMATS.values() for codec in format.codecs} - {*codecs}
    for name in ("codec", "crf"):
        fits = codecs and values[name] not in others
        if not fits and said[name] < _SAYING.index("COMMANDLINE"):
            values[name] = None


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """A command with a parameter `request: Request`, as typer is to see it: with an option for each of its fields.

    Of each option that can only be switched on there is the contrary too, for what the environment or a file says.
    """
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.annotation is not Request]
    kinds = get_type_hints(Request, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=kinds[f.name])
        for f in fields(Request)
    ]

    @functools.wraps(command)
    def run(context: typer.Context, **values: Any) -> None:
        _decide(values, contraries, context)
        request = Request(**{p.name: values.pop(p.name) for p in shared})
        command(**values, request=request)

    contraries = {_contrary(p.name): p.name for p in [*own, *shared] if _is_switch(p.annotation)}
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    others = [
        inspect.Parameter(
            contrary,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{contrary.replace('_', '-')}", hidden=True)],
        )
        for contrary in contraries
    ]
    parameters = [context, *own, *shared, *others]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
