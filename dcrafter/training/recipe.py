"""A training run as a TOML file: the stage, the model, the data and how to train. Unknown keys are errors."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from dcrafter.config import MODELS, ModelConfig
from dcrafter.errors import InputError
from dcrafter.training.videos import VideoData
from dcrafter.validation import build


@dataclass(frozen=True)
class TrainerConfig:
    """How to train, whatever the stage. A step is the optimizer's; a batch is one process's share of it."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 200  # steps of linear growth of the learning rate
    cooldown: int = 0  # last steps, of cosine decay to zero
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0  # maximum norm of the gradient
    accumulate: int = 1  # batches per step
    ema: float = 0.999
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    workers: int = 0  # processes that load data; 0: the training process itself
    save_minutes: float = 5.0
    log_every: int = 50
    evaluate_every: int = 1000  # steps; also after the last one
    shard: bool = False  # divide weights, gradients and optimizer over the processes, not only the batches
    tensorboard: bool = False  # log into the run's folder for TensorBoard, too

    def __post_init__(self) -> None:
        """Raises ValueError for numbers out of range."""
        for name in ("steps", "batch", "accumulate", "log_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.shard and self.optimizer == "muon":
            raise ValueError("shard divides the matrices that muon needs whole; choose adamw")
        for name in ("learning_rate", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name, value in (("ema", self.ema), *(("betas", beta) for beta in self.betas)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), not {value}")


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is given in training, and which of the paper's ideas are left out (paper, table 4).

    One more of those is a field of the model: `tokens = "class"` in `[config.projector]`.
    """

    drop_text: float = 0.05  # shares of clips without the one, the other, or both
    drop_image: float = 0.05
    drop_both: float = 0.05
    first_frame: float = 0.0  # share of clips whose image is their first frame; in others it is any frame
    interpolation: float = 0.0  # share of clips with first and last frame as visual detail guidance
    loops: float = 0.0  # share of those clips that return to their first frame
    dropout: float = 0.0  # in residual blocks and temporal convolutions; the released code has 0.1
    time_noise: float = 0.0  # β_m of noise on the image's latent that grows with t (arXiv 2406.15735: 100)
    noisiest: float = 0.0  # share of clips at the last timestep, where the motion is decided
    given: float = 1.0  # weight of a frame given as guidance; it decays to 1 with the distance from one
    later: float = 1.0  # weight of the last frame over the first's; between them it grows evenly
    single_frames: float = 0.0  # share of batches of single frames, for the spatial layers alone
    context: bool = True  # the image context stream
    detail: bool = True  # visual detail guidance, in the stage that adds it
    learn_scale: bool = True  # train λ, where the model has it
    scales: float = 0.0  # share of batches at a context scale in [½, 2], with slower motion at a higher one (figure 2a)
    train: Literal["paper", "everything"] = "paper"  # "everything": the whole UNet and the query transformer
    text_encoder: bool = False  # train it too, where it has not seen captions of motion (arXiv 2112.10752, equation 3)
    checkpointing: bool = False  # recompute activations in the backward pass: slower, much less memory

    def __post_init__(self) -> None:
        """Raises ValueError where a share is not in [0, 1]."""
        shares = ("drop_text", "drop_image", "drop_both", "first_frame", "interpolation", "loops", "noisiest",
                  "single_frames", "scales")  # fmt: skip
        values = {name: getattr(self, name) for name in shares}
        values["drop_text + drop_image + drop_both"] = self.drop_text + self.drop_image + self.drop_both
        for name, value in values.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {value}")
        if self.time_noise < 0 or not 0 <= self.dropout < 1:
            raise ValueError("time_noise must be at least 0, and dropout in [0, 1)")

    @property
    def loop_share(self) -> float:
        """Share of all clips that are loops."""
        return self.interpolation * self.loops


@dataclass(frozen=True)
class LoRA:
    """Low-rank factors of the UNet's linear layers (arXiv 2106.09685), trained through peft in place of weights.

    `parts` are the groups whose layers get them: "spatial" for what a video looks like, "temporal" for how it moves.
    """

    rank: int = 16
    alpha: int = 16
    dropout: float = 0.0
    parts: tuple[Literal["spatial", "temporal", "image attention"], ...] = ("spatial",)

    def __post_init__(self) -> None:
        """Raises ValueError for numbers out of range."""
        if self.rank < 1 or not self.parts or not 0 <= self.dropout < 1:
            raise ValueError("lora needs a rank of at least 1, parts, and a dropout in [0, 1)")


@dataclass(frozen=True)
class Distillation:
    """Of the stage "distillation": how few steps a model learns to take."""

    steps: int = 4
    teacher_steps: int = 4  # for one of them

    def __post_init__(self) -> None:
        """Raises ValueError for numbers out of range."""
        if min(self.steps, self.teacher_steps) < 1:
            raise ValueError("distillation needs steps and teacher_steps of at least 1")


@dataclass(frozen=True)
class Recipe:
    """`model` names the registry's configuration, in which `config` changes fields.

    `start` are the files, or names of downloaded models, whose weights the run begins from. `data` is the folder that
    `dcrafter.tiny.prepare` made, or for the denoiser's stages a folder or manifest of videos.
    """

    stage: str
    model: str
    data: str
    train: TrainerConfig
    seed: int = 0
    start: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    conditioning: Conditioning = Conditioning()
    lora: LoRA | None = None
    distillation: Distillation = Distillation()
    videos: VideoData = field(default_factory=VideoData)

    @property
    def model_config(self) -> ModelConfig:
        """The registry's configuration with the recipe's changes. Raises TypeError where a field is unknown."""
        return ModelConfig.from_dict(_merged(MODELS[self.model].to_dict(), self.config))


def _merged(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return values | {
        name: _merged(values[name], change) if isinstance(change, Mapping) and name in values else change
        for name, change in changes.items()
    }


RECIPES = Path(__file__).parent / "recipes"
R = TypeVar("R", bound=Recipe)


def load_recipe(path: Path, kind: type[R], folder: Path = RECIPES, changes: Sequence[str] = ()) -> R:
    """Read a recipe.

    Args:
        path: a file, or the name of a recipe in `folder`.
        kind: the recipe's type, which knows its tables.
        folder: the recipes that go by their names.
        changes: fields to change, such as "train.steps=100", with values as in TOML or bare words.

    Raises:
        InputError: the file is missing, is no TOML, or has a field or value that is not allowed.
    """
    named = folder / f"{path}.toml"
    path = named if named.exists() and not path.exists() else path
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"The recipe {path} cannot be read: {error}") from error
    for change in changes:
        values = _merged(values, _change(change))
    try:
        recipe = build(kind, values)
        if recipe.model not in MODELS:
            raise InputError(f"{path.name}: there is no model {recipe.model}", f"The models are {', '.join(MODELS)}.")
        model = recipe.model_config
        multiple = model.size_multiple
        if model.height % multiple or model.width % multiple:
            raise ValueError(f"{model.width}×{model.height}: {recipe.model} needs multiples of {multiple}")
    except (TypeError, ValueError) as error:
        raise InputError(f"{path.name}: {error}") from None
    return recipe


def _change(text: str) -> dict[str, Any]:
    """`train.steps=100` → {"train": {"steps": 100}}. Raises InputError where it is not of that form."""
    key, separator, written = text.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        raise InputError(f"{text!r} is no change of a recipe", "Write TABLE.KEY=VALUE, such as train.steps=100")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written.strip()
    for name in reversed(names):
        value = {name: value}
    return dict(value)
