"""What a person may ask of a generation, and the exact numbers it comes to. Imports no torch.

`Options` are named like the command line's; what is left out (or None) follows the model. `resolve` turns them
into `Settings`, where nothing is left open: the same settings and weights give the same video.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from dcrafter.config import Command, ModelConfig, Spacing
from dcrafter.errors import UsageError
from dcrafter.sampling import DEFAULT_SAMPLER, SAMPLERS

Fit = Literal["crop", "crop:top", "crop:bottom", "crop:left", "crop:right", "pad", "stretch"]
if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[*SAMPLERS]

DEFAULT_FPS = 8.0
MAX_PIXELS = 16_777_216  # of a frame; encoding 16384×8192 takes 2 GB

DTYPES = ("float32", "float16", "bfloat16")
MEMORY_PLANS = ("normal", "low", "min")  # each slower and smaller


class Options(TypedDict, total=False):
    """What may be left out.

    `motion` is low, medium, high or the model's raw condition; `context_scale` a number or, by layers of the paper's
    figure 2a, `7-9:0.8`; `frames` how many to keep of those sampled; `segments` how often an animation goes on from
    its last frame; `repeat` how often a loop is played; `trim_keyframes` leaves out the frame where two
    interpolations meet; `color_match` holds the colours of what is made to those of its picture.
    """

    negative_prompt: str
    steps: int | None
    guidance: float | None
    image_guidance: float | None
    guidance_rescale: float | None
    eta: float | None
    motion: str | int | None
    context_scale: str | float | None
    frames: int | None
    fps: float | None
    width: int | None
    height: int | None
    fit: Fit
    sampler: SamplerName
    segments: int
    repeat: int
    trim_keyframes: bool
    color_match: bool


@dataclass(frozen=True)
class Settings:
    """Every number a generation depends on, beside the weights and the pictures."""

    command: Command
    model: str
    prompt: str
    negative_prompt: str
    seed: int
    sampler: SamplerName
    steps: int
    spacing: Spacing
    eta: float
    guidance: float
    image_guidance: float | None  # a scale of its own for the picture (multi-condition guidance)
    guidance_rescale: float
    motion: int  # the model's raw condition fs
    context_scale: tuple[float, ...]  # λ's multiplier, one per dual cross-attention layer
    frames: int
    fps: float
    width: int
    height: int
    fit: Fit
    segments: int = 1
    repeat: int = 1
    trim_keyframes: bool = False
    color_match: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists. The context scale is 1 where it is 1 everywhere."""
        values = asdict(self)
        scales = set(self.context_scale)
        values["context_scale"] = scales.pop() if len(scales) == 1 else list(self.context_scale)
        return values


def resolve(
    config: ModelConfig, command: Command, prompt: str, seed: int, options: Options, *, portrait: bool = False
) -> Settings:
    """Options and a model's defaults → settings. Raises UsageError for values that have no meaning.

    `portrait` says that the picture is higher than wide: the model's size is turned to it, where none is asked for.
    """

    if unknown := sorted(set(options) - set(Options.__annotations__)):
        raise UsageError(f"there is no option {', '.join(unknown)}", f"There are {', '.join(Options.__annotations__)}")
    if command not in config.commands:
        raise UsageError(
            f"the {config.name} model does not {command}", f"It is made to {' and '.join(config.commands)}"
        )

    def chosen(name: str, default: Any) -> Any:
        """An option as a plain value of its default's type."""
        value = options.get(name)
        if value is None:
            return default
        try:
            plain = type(default)(value)
        except (TypeError, ValueError):
            plain = None
        _require(plain is not None and (plain == value or isinstance(value, str)), name, "a number", value)
        return plain

    most = config.frames - 1 if command == "loop" else config.frames
    width, height = config.width, config.height
    if portrait and options.get("width") is None and options.get("height") is None:
        width, height = min(width, height), max(width, height)
    image_guidance = options.get("image_guidance")
    sampler = options.get("sampler") or DEFAULT_SAMPLER
    _require(sampler in SAMPLERS, "sampler", " or ".join(SAMPLERS), sampler)
    settings = Settings(
        command=command,
        model=config.name,
        prompt=prompt,
        negative_prompt=options.get("negative_prompt") or "",
        seed=int(seed),
        sampler=sampler,
        steps=chosen("steps", config.steps),
        spacing=config.schedule.spacing,
        eta=chosen("eta", SAMPLERS[sampler].eta),
        guidance=chosen("guidance", config.guidance),
        image_guidance=None if image_guidance is None else chosen("image_guidance", 1.0),
        guidance_rescale=chosen("guidance_rescale", config.guidance_rescale),
        motion=_motion(config, options.get("motion")),
        context_scale=_context_scale(config, options.get("context_scale")),
        frames=chosen("frames", most),
        fps=chosen("fps", DEFAULT_FPS),
        width=chosen("width", width),
        height=chosen("height", height),
        fit=options.get("fit") or "crop",
        segments=chosen("segments", 1),
        repeat=chosen("repeat", 1),
        trim_keyframes=bool(options.get("trim_keyframes")),
        color_match=bool(options.get("color_match")),
    )
    _require(1 <= settings.steps <= config.schedule.num_timesteps, "steps", "1 to 1000", settings.steps)
    _require(0 <= settings.eta <= 1, "eta", "0 to 1", settings.eta)
    _require(0 <= settings.guidance_rescale <= 1, "guidance-rescale", "0 to 1", settings.guidance_rescale)
    least = 2 if command == "interpolate" or settings.segments > 1 else 1  # parts meet in a frame that both have
    _require(least <= settings.frames <= most, "frames", f"{least} to {most}", settings.frames)
    _require(0.1 <= settings.fps <= 240, "fps", "0.1 to 240", settings.fps)
    _require(0 <= settings.seed < 2**63, "seed", "0 to 2⁶³ − 1", settings.seed)
    _require(1 <= settings.segments <= 1000, "segments", "1 to 1000", settings.segments)
    _require(1 <= settings.repeat <= 1000, "repeat", "1 to 1000", settings.repeat)
    for name, does in (("segments", "animate"), ("repeat", "loop"), ("trim_keyframes", "interpolate")):
        given = options.get(name)
        _require(command == does or given in (None, False, 1), name, f"left to `{does}`", given)
    _require(settings.fit in get_args(Fit), "fit", " or ".join(get_args(Fit)), settings.fit)
    for name, scale in (("guidance", settings.guidance), ("image-guidance", settings.image_guidance)):
        _require(scale is None or abs(scale) <= 1000, name, "-1000 to 1000", scale)
    _require(max(settings.context_scale) <= 1000, "context-scale", "at most 1000", options.get("context_scale"))
    for name, pixels in (("width", settings.width), ("height", settings.height)):
        multiple = config.size_multiple
        nearest = max(multiple, round(pixels / multiple) * multiple)
        _require(pixels == nearest, name, f"a multiple of {multiple}, such as {nearest}", pixels)
    size = f"{settings.width}×{settings.height}"
    _require(settings.width * settings.height <= MAX_PIXELS, "width", "at most 16 megapixels with --height", size)
    return settings


def _require(condition: bool, option: str, allowed: str, value: object) -> None:
    if not condition:
        raise UsageError(f"--{option.replace('_', '-')} must be {allowed}, not {value}")


def _motion(config: ModelConfig, motion: str | int | None) -> int:
    """low, medium, high or a raw number → fs."""
    if motion is None:
        return config.motion.default
    friendly = {"low": config.motion.low, "medium": config.motion.medium, "high": config.motion.high}
    if motion in friendly:
        return friendly[str(motion)]
    _require(
        str(motion).isdecimal() and int(motion) <= 1000,
        "motion",
        f"low, medium, high or a whole number up to 1000 ({config.motion.unit}, trained on "
        f"{config.motion.minimum} to {config.motion.maximum})",
        motion,
    )
    return int(motion)


def _context_scale(config: ModelConfig, scale: str | float | None) -> tuple[float, ...]:
    """`1.2`, or `7-9:0.8` and several such with commas between → a multiplier per layer."""
    layers = config.unet.dual_attention_layers
    scales = [1.0] * layers
    for part in str(1.0 if scale is None else scale).split(","):
        match = re.fullmatch(r"(?:(\d+)(?:-(\d+))?:)?(\d*\.?\d+)", part.strip())
        first = int(match[1] or 1) if match else 0
        last = int(match[2] or match[1] or layers) if match else 0
        allowed = f"a number, or layers of 1 to {layers} and a number as in {(layers + 1) // 2}-{layers}:0.8"
        _require(1 <= first <= last <= layers, "context-scale", allowed, scale)
        scales[first - 1 : last] = [float(match[3])] * (last - first + 1) if match else []
    return tuple(scales)
