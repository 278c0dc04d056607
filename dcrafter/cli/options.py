"""The options that several commands share, each defined once, in the order and panels of their help.

A command takes them all as one `request: Request`; `takes_request` shows typer the fields as options.
Every option also reads the environment variable DCRAFTER_<OPTION>.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args, get_type_hints

import typer

from dcrafter.config import MODELS
from dcrafter.settings import DEFAULT_ETA, DEFAULT_FPS, DEFAULT_GUIDANCE, DEFAULT_STEPS, DTYPES, FORMATS, Fit, Options

if TYPE_CHECKING:
    ModelName = str
    DtypeName = str
    FormatName = str
else:  # typer takes the choices from a Literal, which type checkers want spelled out
    ModelName = Literal["auto", *MODELS]
    DtypeName = Literal["auto", *DTYPES]
    FormatName = Literal[*FORMATS]

STDIO = "-"  # as a picture, prompt or output: the standard streams
BY_MODEL = "the model's"


def option(*names: str, panel: str | None = None, **more: Any) -> Any:
    """A typer option; its environment variable is named after the first long name."""
    long = next(name for name in names if name.startswith("--"))
    variable = "DCRAFTER_" + long.removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, envvar=variable, show_envvar=False, rich_help_panel=panel, **more)


_motion = functools.partial(option, panel="Picture and motion")
_sampling = functools.partial(option, panel="Sampling")
_model = functools.partial(option, panel="Model and machine")
_writing = functools.partial(option, panel="Writing")
_talking = functools.partial(option, panel="Messages")
FLAG = ""  # the metavar of a flag, in place of <bool>
FITS = get_args(Fit)

Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE", help="Pictures of any kind; - reads one from stdin.", show_default=False),
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
    seed: Annotated[int | None, option("--seed", help="Same seed, same video.", show_default="random")] = None
    count: Annotated[int, option("-n", "--count", min=1, help="Videos a picture: seed, seed + 1, …")] = 1

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

    negative_prompt: Annotated[
        str, _sampling("--negative-prompt", help="What to keep away from.", show_default=False)
    ] = ""
    steps: Annotated[int, _sampling("--steps", help="More take longer and look cleaner.")] = DEFAULT_STEPS
    guidance: Annotated[float, _sampling("-g", "--guidance", help="How closely to follow the prompt.")] = (
        DEFAULT_GUIDANCE
    )
    image_guidance: Annotated[
        float | None,
        _sampling("--image-guidance", help="A guidance scale of its own for the picture.", show_default="none"),
    ] = None
    guidance_rescale: Annotated[
        float | None,
        _sampling("--guidance-rescale", help="0 to 1; against overexposure.", show_default=BY_MODEL),
    ] = None
    eta: Annotated[float, _sampling("--eta", help="Noise in each step: 0 none, 1 as trained.")] = DEFAULT_ETA
    context_scale: Annotated[
        str,
        _sampling(
            "--context-scale", metavar="<scale>", help="Weight of the picture's context: 1.2, or by layers 7-9:0.8."
        ),
    ] = "1"

    model: Annotated[
        ModelName,
        _model(
            "-m",
            "--model",
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
    offline: Annotated[bool, _model("--offline", metavar=FLAG, help="Download nothing.")] = False

    format: Annotated[
        FormatName | None,
        _writing("-f", "--format", metavar="<kind>", help=f"{', '.join(FORMATS)}.", show_default="by -o, else mp4"),
    ] = None
    codec: Annotated[
        str | None,
        _writing("--codec", metavar="<codec>", help="h264, h265, vp9, av1, …", show_default="the format's"),
    ] = None
    crf: Annotated[
        int | None, _writing("--crf", help="Compression: 0 best, 63 smallest.", show_default="the codec's")
    ] = None
    no_metadata: Annotated[
        bool, _writing("--no-metadata", metavar=FLAG, help="Leave the settings out of the file.")
    ] = False
    overwrite: Annotated[bool, _writing("--overwrite", metavar=FLAG, help="Replace files that exist.")] = False

    dry_run: Annotated[bool, _talking("--dry-run", metavar=FLAG, help="Say what would be done, and stop.")] = False
    json: Annotated[bool, _talking("--json", metavar=FLAG, help="A JSON object a video on stdout.")] = False
    quiet: Annotated[bool, _talking("-q", "--quiet", metavar=FLAG, help="Say nothing but errors.")] = False
    verbose: Annotated[
        bool, _talking("-v", "--verbose", metavar=FLAG, help="Tracebacks and libraries' warnings too.")
    ] = False

    def options(self) -> Options:
        """What concerns the numbers of a generation."""
        return cast(Options, {name: getattr(self, name) for name in Options.__annotations__})


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """A command with a parameter `request: Request`, as typer is to see it: with an option for each of its fields."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.annotation is not Request]
    kinds = get_type_hints(Request, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=kinds[f.name])
        for f in fields(Request)
    ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        request = Request(**{p.name: values.pop(p.name) for p in shared})
        command(**values, request=request)

    parameters = [*own, *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
