"""The options of a generation, each declared once. Imports no torch.

`Settings` is what is generated, `ModelOptions` with what, `WriteOptions` into which file; they travel whole. A field
made by `option` has all that is known of it: the command line with its help, the config file, the columns of manifests,
`--from` and the Python API derive from the fields. To add an option of sampling, add a field to `Settings`, name its
type for type checkers in `Options`, and use it.

`Options` are what a person asks for: what is left out, or None, follows the model. `resolve` turns them into
`Settings`, where nothing is left open: the same settings and weights give the same video.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypedDict, get_args, get_type_hints

from dcrafter.config import MODELS, Command, ModelConfig, Spacing
from dcrafter.errors import UsageError
from dcrafter.sampling import SAMPLERS
from dcrafter.validation import convert

Fit = Literal["crop", "crop:top", "crop:bottom", "crop:left", "crop:right", "pad", "stretch"]
Size = Literal["model", "as-input"]

DEFAULT_FPS = 8.0
MAX_FRAMES = 1000
MAX_SCALED_PIXELS = 3840 * 2160  # of a frame that is scaled to its image's size
MAX_PIXELS = 16_777_216  # of a frame; encoding 16384×8192 takes 2 GB
DTYPES = ("float32", "float16", "bfloat16")
MEMORY_PLANS = ("normal", "low", "min")  # each slower and smaller
MOTIONS = ("low", "medium", "high")

# Headings of --help, in its order. Options without one come first.
MOTION, SAMPLING = "Image and motion", "Sampling"
MODEL, WRITING, MESSAGES = "Model and machine", "Writing", "Messages"
PANELS = ("", MOTION, SAMPLING, MODEL, WRITING, MESSAGES)
BY_MODEL = "the model's"  # a default, in --help
LONGEST_TEXT, LONGEST_VALUE, LONGEST_SHOWN = 10_000, 1000, 40  # characters


@dataclass(frozen=True)
class Option:
    """What is known of an option beside its name.

    Attributes:
        help: A sentence for `--help`.
        panel: Its heading there.
        type: Of what may be asked for; of the field's value if None.
        default: Taken where it is left out; None follows the model.
        default_help: What `--help` says the default is; False for nothing, None for the default itself.
        choices: All values that there are.
        words: Some of the values that there are, for completion.
        minimum: The least value.
        maximum: The greatest value.
        short: A flag of one letter, such as "-g".
        metavar: What stands for the value in `--help`, by default its type.
        command: The only command that has the option.
        hidden: True if `--help` leaves it out.
    """

    help: str
    panel: str = ""
    type: Any = None
    default: Any = None
    default_help: str | Literal[False] | None = None
    choices: Collection[str] = ()
    words: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    short: str = ""
    metavar: str = ""
    command: Command | None = None
    hidden: bool = False

    @property
    def given_type(self) -> Any:
        """The type of a value that is given, which is never None."""
        if self.choices:
            return Literal[tuple(self.choices)]
        if isinstance(self.type, UnionType):
            kinds = [each for each in get_args(self.type) if each is not type(None)]
            return kinds[0] if len(kinds) == 1 else self.type
        return self.type

    @property
    def range(self) -> str:
        """In words, such as "1 to 1000"."""
        if self.minimum is None or self.maximum is None:
            return f"at least {self.minimum:g}" if self.maximum is None else f"at most {self.maximum:g}"
        return f"{self.minimum:g} to {self.maximum:g}"

    def check(self, value: Any) -> Any:
        """Convert a value, numbers in text too. Raises ValueError that says what it must be, and what it is."""
        if hasattr(value, "item"):  # of numpy and torch
            value = value.item()
        longest = LONGEST_TEXT if self.given_type is str else LONGEST_VALUE
        if isinstance(value, str) and len(value) > longest:
            raise ValueError(f"must have at most {longest} characters, not {len(value)}")
        try:
            converted = convert(self.given_type, value)
        except ValueError as error:
            raise ValueError(f"must be {error}, not {shown(value)}") from None
        if isinstance(converted, int | float):
            low, high = self.minimum, self.maximum
            if not ((low is None or low <= converted) and (high is None or converted <= high)):
                raise ValueError(f"must be {self.range}, not {shown(value)}")
        return converted


def option(help: str, panel: str = "", *, by_model: bool = False, **more: Any) -> Any:
    """A field of a dataclass of options. Without a default of its own, as in `Settings`, if it follows the model."""
    if by_model:
        return field(metadata={"option": Option(help, panel, **{"default_help": BY_MODEL} | more)})
    return field(default=more.get("default"), metadata={"option": Option(help, panel, **more)})


@cache
def options_of(kind: type) -> dict[str, Option]:
    """The options that a dataclass declares, by name."""
    types = get_type_hints(kind)
    declared = {f.name: f.metadata["option"] for f in fields(kind) if "option" in f.metadata}
    return {name: replace(each, type=each.type or types[name]) for name, each in declared.items()}


def shown(value: object) -> str:
    """A value on one line of a message, and not long."""
    if isinstance(value, list | tuple | dict):
        return "a list or an object"
    text = str(value) if not isinstance(value, int) or abs(value) < 2**64 else "a number that large"
    text = text.removesuffix(".0") if isinstance(value, float) else text
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def flag(name: str) -> str:
    """The long flag of an option."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _defaults(setting: str) -> str:
    """The value of the published models, and that of the built-in one."""
    published, tiny = (getattr(MODELS[name], setting) for name in ("512", "tiny"))
    return f"{published}, tiny {tiny}" if tiny != published else f"{published}"


def _sampler_defaults(setting: str) -> str:
    """The value of each sampler, and that of the built-in model."""
    values = {name: getattr(each, setting) for name, each in {**SAMPLERS, "tiny": MODELS["tiny"]}.items()}
    words = {name: ("off", "on")[value] if isinstance(value, bool) else f"{value:g}" for name, value in values.items()}
    return ", ".join(f"{name} {word}" for name, word in words.items())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every number a generation depends on, beside the weights and the images.

    `motion` is the model's raw condition fs; `image_guidance`, if not None, a guidance scale of its own for the image
    (multi-condition guidance); `context_scale` λ's multiplier, one per dual cross-attention layer; `start` M/T of
    arXiv 2406.15735, `image_noise` the standard deviation of what is added to the image's latent, and `sketch` line
    drawings: a video, or a folder of numbered PNGs.
    """

    command: Command
    model: str
    prompt: str
    negative_prompt: str = option("What the video should not show.", SAMPLING, default="", default_help=False)
    seed: int
    sampler: str = option(
        "; ".join(f"{name}: {each.help}" for name, each in SAMPLERS.items()) + ".",
        SAMPLING,
        by_model=True,
        default_help=_defaults("sampler"),
        choices=SAMPLERS,
        metavar="<name>",
    )
    steps: int = option(
        "More take longer and look cleaner.",
        SAMPLING,
        by_model=True,
        minimum=1,
        maximum=1000,
        default_help=_defaults("steps"),
    )
    spacing: Spacing
    eta: float = option(
        "Noise in each step: 0 none, 1 as published.",
        SAMPLING,
        by_model=True,
        minimum=0,
        maximum=1,
        default_help=_sampler_defaults("eta"),
    )
    guidance: float = option(
        "How closely to follow the prompt.",
        SAMPLING,
        by_model=True,
        minimum=0,
        maximum=1000,
        short="-g",
        default_help=_defaults("guidance"),
    )
    last_guidance: float | None = option(
        "Of the last frame, --guidance being the first's.", SAMPLING, minimum=0, maximum=1000, default_help="the same"
    )
    guidance_interval: str = option(
        "Shares of the timesteps that have guidance, such as 0.2-0.9.", SAMPLING, default="0-1", metavar="<from-to>"
    )
    guidance_every: int = option(
        "Steps that share an evaluation without the prompt: 2 saves a quarter.",
        SAMPLING,
        default=1,
        minimum=1,
        maximum=1000,
    )
    deep_every: int = option(
        "Steps that share an evaluation of deep layers: 2 saves over a third.",
        SAMPLING,
        default=1,
        minimum=1,
        maximum=1000,
    )
    image_guidance: float | None = option(
        "A guidance scale of its own for the image.", SAMPLING, minimum=0, maximum=1000, default_help="none"
    )
    start: float = option(
        "Where sampling starts, 1 being pure noise: 0.94 moves more.", SAMPLING, default=1.0, minimum=0.01, maximum=1
    )
    init_noise: Path | None = option(
        "What it starts from: a file of Analytic-Init.", SAMPLING, metavar="<file>", default_help="measured on the data"
    )
    image_noise: float = option(
        "Noise on the image that the model sees: 0.1 moves more.", SAMPLING, default=0.0, minimum=0, maximum=10
    )
    final_rescale: bool = option(
        "Undo the dynamic rescale in the last step, too: full contrast in few steps.",
        SAMPLING,
        by_model=True,
        default_help=_sampler_defaults("final_rescale"),
    )
    guidance_rescale: float = option("0 to 1; against overexposure.", SAMPLING, by_model=True, minimum=0, maximum=1)
    motion: int = option(
        "low, medium, high, or the model's raw number.",
        MOTION,
        by_model=True,
        type=str | int,
        words=MOTIONS,
        metavar="<amount>",
    )
    context_scale: tuple[float, ...] = option(
        "Weight of the image's context: 1.2, or by layers 7-9:0.8.",
        SAMPLING,
        by_model=True,
        type=str | float,
        metavar="<scale>",
        default_help="1",
    )
    frames: int = option(
        "Frames of the video: fewer than are sampled, evenly chosen, or more.",
        MOTION,
        by_model=True,
        minimum=1,
        maximum=MAX_FRAMES,
        default_help="all that are sampled",
    )
    window: int = option(
        "Frames that are sampled at once. A longer video is sampled in windows.",
        MOTION,
        by_model=True,
        minimum=2,
        maximum=MAX_FRAMES,
        default_help="16; interpolate, loop all",
    )
    overlap: int = option(
        "Frames that neighboring windows share.", MOTION, by_model=True, minimum=0, default_help="a quarter of a window"
    )
    fps: float = option("Frames a second when played.", MOTION, default=DEFAULT_FPS, minimum=0.1, maximum=240)
    width: int = option("Pixels.", MOTION, by_model=True)
    height: int = option("Pixels.", MOTION, by_model=True)
    fit: Fit = option(
        f"How it fills that size: {', '.join(get_args(Fit))}.",
        MOTION,
        default="crop",
        choices=get_args(Fit),
        metavar="<way>",
    )
    size: Size = option(
        "Of the video: the model's, or as-input: the image's size and shape.",
        MOTION,
        default="model",
        choices=get_args(Size),
        metavar="<size>",
    )
    mask: Path | None = option(
        "Image of what may move: white does, black stays.", MOTION, metavar="<image>", default_help="everything"
    )
    segments: int = option(
        "Number of clips to chain, each from the last frame.",
        MOTION,
        default=1,
        minimum=1,
        maximum=1000,
        command="animate",
    )
    repeat: int = option(
        "Times that the file plays the loop.", MOTION, default=1, minimum=1, maximum=1000, command="loop"
    )
    trim_keyframes: bool = option(
        "Leave out the images where two clips meet.", MOTION, default=False, command="interpolate"
    )
    first_image_weight: float = option(
        "Of the first image in the image's context; the last one has the rest.",
        SAMPLING,
        default=1.0,
        minimum=0,
        maximum=1,
        command="interpolate",
    )
    sketch: Path | None = option(
        "Line drawings that toon follows: a video, or a folder of PNGs numbered as frames.",
        MOTION,
        metavar="<path>",
        default_help="none",
        command="interpolate",
    )
    sketch_scale: float = option(
        "How closely to follow them.", MOTION, default=0.6, minimum=0, maximum=2, command="interpolate"
    )
    color_match: bool = option("Keep the image's colors from drifting.", MOTION, default=False)

    @property
    def sampled_frames(self) -> int:
        """Of each part of the video. A loop's last one repeats its first, and is not shown."""
        return max(self.window, self.frames + (self.command == "loop"))

    def savings(self) -> dict[str, Any]:
        """What `sampling.reuse.plan_work` takes of them."""
        interval = _interval(self.guidance_interval)
        return {
            "guidance_interval": interval, "guidance_every": self.guidance_every, "deep_every": self.deep_every,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists. The context scale is 1 where it is 1 everywhere; of a file, its name."""
        values = {name: value.name if isinstance(value, Path) else value for name, value in asdict(self).items()}
        scales = set(self.context_scale)
        values["context_scale"] = scales.pop() if len(scales) == 1 else list(self.context_scale)
        return values


class Options(TypedDict, total=False):
    """What may be asked for, as type checkers know it: each option of `Settings`, or None to follow the model.

    `motion` is low, medium, high or the model's raw condition; `context_scale` a number or, by layers of the paper's
    figure 2a, `7-9:0.8`; `frames` how many the video has; `window` how many are sampled at once, and `overlap` how many
    two windows share; `segments` how often an animation goes on from its last frame; `repeat` how often a loop is
    played; `trim_keyframes` leaves out the frame where two interpolations meet; `first_image_weight` weighs the first
    image against the last; `color_match` holds the colors of what is made to those of its image; `size` as-input scales
    the video to the image's size; `mask` is an image of what may move; `start` is where sampling starts, `init_noise` a
    file of what it starts from, `image_noise` how much noise the image gets; `last_guidance` the last frame's guidance;
    `sketch` are line drawings, a video or a folder, and `sketch_scale` is how closely to follow them;
    `guidance_interval`, such as `0.2-0.9`, where guidance is, `guidance_every` and `deep_every` the steps that share an
    evaluation without the prompt, and of the deep layers. `fast` stands for several of them: see `FAST`.
    """

    negative_prompt: str
    steps: int | None
    guidance: float | None
    image_guidance: float | None
    last_guidance: float | None
    guidance_interval: str | None
    guidance_every: int
    deep_every: int
    start: float
    init_noise: str | Path | None
    image_noise: float
    final_rescale: bool | None
    guidance_rescale: float | None
    eta: float | None
    motion: str | int | None
    context_scale: str | float | None
    frames: int | None
    window: int | None
    overlap: int | None
    fps: float | None
    width: int | None
    height: int | None
    fit: Fit
    size: Size
    mask: str | Path | None
    sampler: str
    segments: int
    repeat: int
    trim_keyframes: bool
    first_image_weight: float
    sketch: str | Path | None
    sketch_scale: float
    color_match: bool
    fast: bool


# What `fast` is short for. An odd number of steps, so that the last is one with the deep layers.
FAST: dict[str, Any] = {"sampler": "dpm++", "steps": 13, "guidance_every": 2, "deep_every": 2}


@dataclass(frozen=True)
class Shorthand:
    """Options that stand for several of `Settings`, where nothing else is asked for."""

    fast: bool = option(
        f"Short for {' '.join(f'{flag(name)} {value}' for name, value in FAST.items())}; tiny is as fast without.",
        SAMPLING,
        default=False,
    )


@dataclass(frozen=True)
class ModelOptions:
    """Which weights generate, on what, and how."""

    model: str = option(
        f"{', '.join(MODELS)}: downloaded if missing; auto: the best that is here.",
        MODEL,
        default="auto",
        words=("auto", *MODELS),
        short="-m",
        metavar="<name>",
    )
    checkpoint: Path | None = option("Weights: .ckpt or .safetensors.", MODEL, default_help=False)
    model_config: Path | None = option("Its YAML or JSON tree, if its size is unusual.", MODEL, default_help=False)
    towers: Path | None = option("A file with CLIP's towers, for weights without.", MODEL, default_help=False)
    sketch_encoder: Path | None = option(
        "ToonCrafter's file of what reads line drawings.", MODEL, default_help=False, command="interpolate"
    )
    lora: tuple[str, ...] = option(
        "LoRA file, with its scale; may be repeated.",
        MODEL,
        default=(),
        metavar="<file[:scale]>",
        default_help=False,
    )
    device: str = option(
        "cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.",
        MODEL,
        default="auto",
        words=("auto", "cpu", "cuda", "mps"),
        metavar="<device>",
    )
    dtype: str = option(
        f"{', '.join(DTYPES)}, or auto by device.",
        MODEL,
        default="auto",
        choices=("auto", *DTYPES),
        metavar="<type>",
    )
    memory: str = option(
        f"{', '.join(MEMORY_PLANS)}: each slower and smaller.",
        MODEL,
        default="auto",
        choices=("auto", *MEMORY_PLANS),
        metavar="<plan>",
    )
    compile: bool = option("torch.compile: minutes at first, faster steps.", MODEL, default=False)
    offline: bool = option("Download nothing.", MODEL, default=False)

    def __post_init__(self) -> None:
        """Raises UsageError where one option makes no sense without another."""
        if self.model_config and not self.checkpoint:
            raise UsageError("--model-config describes a checkpoint", "Give --checkpoint too")

    def loading(self) -> dict[str, Any]:
        """What `Pipeline.from_pretrained` takes of them, beside the model."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "memory")}


@dataclass(frozen=True)
class WriteOptions:
    """How a video's file is written. The formats and their codecs are in `media.formats`."""

    format: str | None = option("", WRITING, short="-f", metavar="<kind>")  # None: by the name of the file
    codec: str | None = option("", WRITING, metavar="<codec>", default_help="the format's")
    crf: int | None = option("Compression: 0 best, 63 smallest.", WRITING, default_help="the codec's")
    metadata: bool = option("Leave the settings out of the file.", WRITING, default=True)


def resolve(
    config: ModelConfig,
    command: Command,
    prompt: str,
    seed: int,
    options: Options,
    *,
    image_size: tuple[int, int] | None = None,
) -> Settings:
    """Fill in a model's defaults.

    Args:
        config: The model.
        command: What is to be made.
        prompt: What happens.
        seed: Of the noise, 0 to 2⁶³ − 1.
        options: What is asked for.
        image_size: Width and height of the (first) image, which the model's size follows where none is asked for.

    Returns:
        Settings with nothing left open.

    Raises:
        UsageError: There is no such option, or a value has no meaning.
    """
    if command not in config.commands:
        raise UsageError(
            f"the {config.name} model does not {command}", f"It is made to {' and '.join(config.commands)}"
        )
    if len(prompt) > LONGEST_TEXT:
        raise UsageError(f"--prompt must have at most {LONGEST_TEXT} characters, not {len(prompt)}")
    asked = _check(command, options)
    if asked.pop("fast", False) and max(config.steps, asked.get("steps", 0)) > FAST["steps"]:
        asked = FAST | asked  # a model of fewer steps is as fast without
    values = _model_defaults(config, asked.get("sampler", config.sampler))
    values |= _frame_size(config, asked.get("size"), image_size) | asked
    if asked.get("size") == "as-input":
        values["fit"] = "stretch"  # scaled back, nothing is distorted or lost
    values |= {
        **_lengths(config, command, asked),
        "motion": _motion(config, values["motion"]),
        "context_scale": _context_scale(config, values["context_scale"]),
    }
    for name, value in values.items():
        is_missing = isinstance(value, Path) and not (value.is_file() or (name == "sketch" and value.is_dir()))
        _require(not is_missing, name, "a file that is here", value)
    if values["sketch"] and not config.takes_sketches:
        raise UsageError(f"the {config.name} model follows no sketch", "Leave it out, or take toon")
    settings = Settings(
        command=command,
        model=config.name,
        prompt=prompt,
        seed=int(seed),
        spacing=config.schedule.spacing,
        **values,
    )
    _check_together(config, settings, options)
    return settings


def _check_together(config: ModelConfig, settings: Settings, options: Options) -> None:
    """Raises UsageError for values that mean nothing with this model, or with one another."""
    _require(0 <= settings.seed < 2**63, "seed", "0 to 2⁶³ − 1", settings.seed)
    _interval(settings.guidance_interval)
    timesteps = round(settings.start * config.schedule.num_timesteps)
    _require(settings.steps <= timesteps, "steps", f"at most {timesteps} with this --start", settings.steps)
    meets = settings.command == "interpolate" or settings.segments > 1  # clips meet in a frame that both have
    least = 2 if meets else 1
    _require(settings.frames >= least, "frames", f"at least {least}", settings.frames)
    _require(settings.overlap < settings.window, "overlap", f"less than --window, {settings.window}", settings.overlap)
    _require(max(settings.context_scale) <= 1000, "context-scale", "at most 1000", options.get("context_scale"))
    for name, pixels in (("width", settings.width), ("height", settings.height)):
        multiple = config.size_multiple
        nearest = max(multiple, round(pixels / multiple) * multiple)
        _require(pixels == nearest, name, f"a multiple of {multiple}, such as {nearest}", pixels)
    size = f"{settings.width}×{settings.height}"
    _require(settings.width * settings.height <= MAX_PIXELS, "width", "at most 16 megapixels with --height", size)


def _check(command: Command, options: Options) -> dict[str, Any]:
    """What is asked for, each value of its type and in its range."""
    known = options_of(Settings) | options_of(Shorthand)
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(f"there is no option {', '.join(unknown)}", f"There are {', '.join(known)}")
    asked = {}
    for name, value in options.items():
        if value is None:
            continue
        try:
            asked[name] = known[name].check(value)
        except ValueError as error:
            raise UsageError(f"{flag(name)} {error}") from None
        does = known[name].command
        _require(does in (None, command) or asked[name] == known[name].default, name, f"left to `{does}`", value)
    return asked


def video_size(config: ModelConfig, settings: Settings, image_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the video that is made of an image of this size."""
    if settings.size == "model":
        return config.output_size(settings.width, settings.height)
    width, height = image_size
    scale = min(1.0, (MAX_SCALED_PIXELS / (width * height)) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _frame_size(config: ModelConfig, size: Size | None, image_size: tuple[int, int] | None) -> dict[str, int]:
    """The model's width and height, turned for an image that is higher than wide; as-input, of its shape."""
    width, height = config.width, config.height
    if size == "as-input" and image_size:
        side, stretched = (width * height) ** 0.5, (image_size[0] / image_size[1]) ** 0.5
        multiple = config.size_multiple
        width, height = (max(1, round(each / multiple)) * multiple for each in (side * stretched, side / stretched))
    elif image_size and image_size[1] > image_size[0]:
        width, height = min(width, height), max(width, height)
    return {"width": width, "height": height}


def _model_defaults(config: ModelConfig, sampler: str) -> dict[str, Any]:
    """Each option where it is left out, with this model and sampler."""
    known = {name: getattr(config, name, each.default) for name, each in options_of(Settings).items()}
    is_own = sampler == config.sampler
    by_sampler = {
        name: getattr(SAMPLERS[sampler], name) for name in ("eta", "final_rescale") if not is_own or known[name] is None
    }
    return known | by_sampler | {"motion": config.motion.default, "context_scale": 1}


def _lengths(config: ModelConfig, command: Command, asked: dict[str, Any]) -> dict[str, int]:
    """How many frames a video has, and how they are sampled.

    Windows between two images, of which most see neither, are not what a model is made for: those are sampled whole.
    """
    hidden = int(command == "loop")  # the last frame, which repeats the first
    whole = config.frames if command == "animate" else max(config.frames, asked.get("frames", 0) + hidden)
    window = asked.get("window", whole)
    frames, overlap = asked.get("frames", window - hidden), asked.get("overlap", window // 4)
    return {"frames": frames, "window": window, "overlap": overlap}


def only_for(command: Command, options: Options) -> Options:
    """Options without those that only other commands have."""
    known = options_of(Settings) | options_of(Shorthand)
    kept = {name: value for name, value in options.items() if known[name].command in (None, command)}
    return Options(**kept)  # type: ignore[typeddict-item]


def _require(condition: bool, option: str, allowed: str, value: object, advice: str = "") -> None:
    if not condition:
        raise UsageError(f"{flag(option)} must be {allowed}, not {shown(value)}", advice)


def _motion(config: ModelConfig, motion: str | int) -> int:
    """low, medium, high or a raw number → fs."""
    if motion in MOTIONS:
        return int(getattr(config.motion, str(motion)))
    _require(
        re.fullmatch(r"\d{1,4}", str(motion)) is not None and int(motion) <= 1000,
        "motion",
        f"low, medium, high or a whole number up to 1000 ({config.motion.unit}, trained on "
        f"{config.motion.minimum} to {config.motion.maximum})",
        motion,
    )
    return int(motion)


def _interval(text: str) -> tuple[float, float]:
    """`0.2-0.9` → (0.2, 0.9)."""
    match = re.fullmatch(r"(\d*\.?\d+)-(\d*\.?\d+)", text.strip())
    low, high = map(float, match.groups()) if match else (1.0, 0.0)
    _require(0 <= low < high <= 1, "guidance-interval", "two numbers from 0 to 1, the lower first, as in 0.2-0.9", text)
    return low, high


def _context_scale(config: ModelConfig, scale: str | float) -> tuple[float, ...]:
    """`1.2`, or `7-9:0.8` and several such with commas between → a multiplier per layer."""
    layers = config.unet.dual_attention_layers
    scales = [1.0] * layers
    for part in str(scale).split(","):
        match = re.fullmatch(r"(?:(\d+)(?:-(\d+))?:)?(\d*\.?\d+)", part.strip())
        first = int(match[1] or 1) if match else 0
        last = int(match[2] or match[1] or layers) if match else 0
        allowed = f"a number, or layers of 1 to {layers} and a number as in {(layers + 1) // 2}-{layers}:0.8"
        _require(1 <= first <= last <= layers, "context-scale", allowed, scale)
        scales[first - 1 : last] = [float(match[3])] * (last - first + 1) if match else []
    return tuple(scales)
