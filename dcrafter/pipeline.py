"""From an image and a prompt to a video: encode, sample, decode.

`Pipeline.stream` yields events while it works, so that progress bars belong to whoever wants them; `animate`,
`interpolate` and `loop` just return the video. One component at a time is in memory, in the order text encoder → image
encoder → autoencoder → UNet → autoencoder: the peak is the largest one, never their sum.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import repeat, tee
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dcrafter import __version__
from dcrafter.conditions import ConditionEncoder, Conditions, Keyframes, Noise, guided_denoiser, seeded_noise
from dcrafter.config import MODELS, Command, ModelConfig
from dcrafter.errors import InputError, UsageError, WeightsError
from dcrafter.events import Decoding, Done, Event, Part, Step, Video
from dcrafter.media.image import ImageSource, match_colors, open_image, resize_frames, to_frames, to_tensor
from dcrafter.models.dynamicrafter import DynamiCrafter, References
from dcrafter.runtime.devices import choose_device, choose_dtype, upload
from dcrafter.runtime.residency import Residency
from dcrafter.sampling import load_sampler
from dcrafter.sampling.mask import hold
from dcrafter.sampling.schedule import SamplingStep, sampling_steps
from dcrafter.sampling.start import LatentStatistics, known_statistics
from dcrafter.settings import Options, Settings, resolve, video_size
from dcrafter.weights import hub
from dcrafter.weights.checkpoint import (
    SKETCH_ADVICE,
    SKETCHES,
    Checkpoint,
    open_checkpoint,
    open_sketch_encoder,
    read_tensors,
)
from dcrafter.weights.lora import with_loras

logger = logging.getLogger(__name__)


class LoadOptions(TypedDict, total=False):
    """How a model is opened, beside its name.

    `checkpoint` is a file to open instead, `model_config` a published YAML or JSON tree that describes one of unusual
    size, `towers` a file with CLIP's towers for one without, `sketch_encoder` ToonCrafter's file of it. `device`: auto,
    cpu, cuda, cuda:1, mps. `dtype`: auto, float32, float16, bfloat16. `compile` translates the UNet's blocks by
    torch.compile, in the first evaluation. `command` is what it will be used for, which decides the model `auto`.
    `offline` downloads nothing. `lora` are files to merge into the weights, each FILE or FILE:SCALE. With `plan_only`
    towers that would be downloaded are not: the model can be looked at, and generates nothing.
    """

    checkpoint: str | Path | None
    model_config: str | Path | None
    towers: str | Path | None
    sketch_encoder: str | Path | None
    device: str
    dtype: str
    compile: bool
    command: Command
    offline: bool
    plan_only: bool
    lora: Sequence[str]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A video of which all is encoded that can be before it is sampled: see `Pipeline.prepare`."""

    keyframes: Keyframes
    noise: Noise  # after the draws of the encoding
    conditions: Conditions  # of its first part


class Pipeline:
    """A model ready to generate, one video at a time; its weights stay in the file until they are needed."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Raises WeightsError where the checkpoint does not fit its configuration, key by key."""
        self.config = checkpoint.config
        self.checkpoint = checkpoint
        self.device, self.dtype = device, dtype
        self.model = DynamiCrafter.on_meta(self.config)
        checkpoint.check(self.model)
        if checkpoint.sketches:
            checkpoint.sketches.check(nn.ModuleDict({SKETCHES: self.model.add_sketch_encoder()}))
        self.residency = Residency(self.model, checkpoint, device, dtype)
        self.encoder = ConditionEncoder(self.residency)

    @classmethod
    def from_pretrained(cls, model: str = "auto", **options: Unpack[LoadOptions]) -> Pipeline:
        """Open a model by its registry name, or a checkpoint file.

        Args:
            model: 256, 512, 1024, 512-interp, toon, tiny, an imported one, or auto for the best on this machine. With a
                checkpoint, what the file must hold.
            options: See `LoadOptions`.

        Raises:
            UsageError: There is no such model, device or type.
            WeightsError: The weights are missing, damaged or unsafe.
        """
        device = choose_device(options.get("device", "auto"))
        dtype = choose_dtype(options.get("dtype", "auto"), device)
        pipe = cls(_open_checkpoint(model, options), device, dtype)
        if options.get("compile"):
            pipe.model.unet.compile_blocks()
        return pipe

    # Videos

    def animate(self, image: ImageSource, prompt: str = "", *, seed: int = 0, **options: Unpack[Options]) -> Video:
        """An image (path, bytes, Pillow image or array) and a prompt → a video that begins from it."""
        return _video(self.stream("animate", image, prompt, seed=seed, **options))

    def interpolate(
        self, images: Sequence[ImageSource], prompt: str = "", *, seed: int = 0, **options: Unpack[Options]
    ) -> Video:
        """Two images or more → a video from each to the next (paper, section 6)."""
        return _video(self.stream("interpolate", [*images], prompt, seed=seed, **options))

    def loop(self, image: ImageSource, prompt: str = "", *, seed: int = 0, **options: Unpack[Options]) -> Video:
        """An image → a video that begins and ends with it, to be repeated (paper, section 6)."""
        return _video(self.stream("loop", image, prompt, seed=seed, **options))

    def stream(
        self,
        command: Command,
        images: ImageSource | Sequence[ImageSource],
        prompt: str = "",
        *,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> Iterator[Event]:
        """Generate a video, yielding events while it forms: the last is `Done`, which holds the video.

        Args:
            command: animate, interpolate or loop.
            images: One; to interpolate a list of two or more.
            prompt: What happens.
            seed: Decides the noise: the same seed, settings and weights give the same video.
            options: See `Options`; what is left out follows the model.

        Raises:
            UsageError: An option or a combination has no meaning for this model.
            InputError: An image cannot be read.
            NumericalError: A component gives NaN or infinite values in float32 too; raised while it works.
        """
        sources = [*images] if isinstance(images, list | tuple) else [cast(ImageSource, images)]
        if (command == "interpolate") != (len(sources) > 1):
            needed = "two images or more" if command == "interpolate" else "one image"
            raise UsageError(f"{command} takes {needed}, not {len(sources)}")
        opened = [open_image(source) for source in sources]
        settings = resolve(self.config, command, prompt, seed, options, image_size=opened[0].size)
        return self.generate(opened, settings, names=_names(sources))

    def prepare(self, videos: Sequence[tuple[list[ImageSource], Settings]]) -> Generator[Event, None, list[Prepared]]:
        """Encode for several videos, so that each component is loaded once for all of them.

        Each of them comes out as it would alone. Raises what `generate` does.
        """
        noises = [seeded_noise(settings.seed) for _, settings in videos]
        keyframes = [Keyframes.open(images, settings, self.config) for images, settings in videos]
        inputs = [
            (images.given(settings.command), settings, noise)
            for images, (_, settings), noise in zip(keyframes, videos, noises, strict=True)
        ]
        conditions = yield from self.encoder.encode(inputs)
        return [Prepared(*each) for each in zip(keyframes, noises, conditions, strict=True)]

    def generate(
        self,
        images: Sequence[ImageSource],
        settings: Settings,
        noise: Noise | None = None,
        prepared: Prepared | None = None,
        names: Sequence[str] | None = None,
    ) -> Generator[Event, None, None]:
        """Events up to `Done`, of settings where nothing is left open.

        Args:
            images: One, or to interpolate two or more, from each to the next.
            settings: From `resolve`.
            noise: Drawn instead of that of the settings' seed.
            prepared: From `prepare`; it is used up.
            names: Of the images, for the video's settings; by default those of files.

        Raises:
            InputError: An image cannot be read.
            NumericalError: A component gives NaN or infinite values in float32 too.
        """
        if settings.sketch:
            _check_sketch(self.checkpoint, len(images))
        check_files(settings, self.config)
        keyframes = prepared.keyframes if prepared else Keyframes.open(images, settings, self.config)
        noise = prepared.noise if prepared else noise or seeded_noise(settings.seed)
        kept = kept_frames(settings)
        parts = len(keyframes.input) - 1 if settings.command == "interpolate" else settings.segments
        clips: list[NDArray[np.uint8]] = []  # of each part (n, H, W, 3): floats of many would fill the memory
        samples = []
        for part in range(parts):
            if parts > 1:
                yield Part(part + 1, parts)
            going_on = settings.command == "animate" and clips
            last = to_tensor(open_image(clips[-1][-1]))[None] if going_on else None  # on from what the viewer saw last
            given = keyframes.given(settings.command, part) if last is None else self._shrink(last)
            if prepared and part == 0:
                conditions = prepared.conditions
            else:
                conditions = yield from self.encode(given, settings, noise)
            latents = yield from self.sample(conditions, settings, noise)
            references = keyframes.references(settings.command, part, last, len(kept))
            frames = (yield from self.decode(latents, kept, references))[0].transpose(0, 1)
            if settings.color_match:
                ends = keyframes.output[part : part + 2] if settings.command == "interpolate" else keyframes.output
                frames = match_colors(frames, ends)
            clips.append(to_frames(frames.transpose(0, 1)))
            samples.append(latents.cpu())
        video = np.concatenate(_join(clips, settings.trim_keyframes))
        if settings.size == "as-input":
            video = resize_frames(video, *video_size(self.config, settings, keyframes.size))
        video = np.tile(video, (settings.repeat, 1, 1, 1))
        about = settings.to_dict() | {"images": [*(_names(images) if names is None else names)]}
        about |= _about_weights(self.checkpoint, self.dtype, with_sketch=settings.sketch is not None)
        yield Done(Video(video, settings.fps, about, torch.cat(samples)))

    def _shrink(self, frames: Tensor) -> Tensor:
        """Frames from the output size to the input's."""
        scale = self.config.output_scale
        return F.avg_pool2d(frames, scale) if scale > 1 else frames

    # Steps

    def encode(self, keyframes: Tensor, settings: Settings, noise: Noise) -> Generator[Event, None, Conditions]:
        """Keyframes (1 or 2, 3, H, W) in [-1, 1] → Conditions, as the generator's return value."""
        return (yield from self.encoder.encode([(keyframes, settings, noise)]))[0]

    @torch.inference_mode()
    def sample(self, conditions: Conditions, settings: Settings, noise: Noise) -> Generator[Event, None, Tensor]:
        """Conditions of B videos → latents (B, C, T, h, w), as the generator's return value."""
        others = [] if conditions.sketch is None else [SKETCHES]
        yield from self.residency.ensure_unet_loaded(*others)
        self.model.unet.set_context_scale(settings.context_scale)
        shape = tuple(conditions.concat_latents.shape)
        (draws,) = tee((noise(shape) for _ in repeat(None)), 1)
        with self.residency.working_memory():  # from the beginning with the same noise, whenever that is
            latents = yield from self.residency.follow_finite(
                lambda: _sampled(self.residency, conditions, settings, copy(draws)), "unet", *others
            )
        return _with_ends(latents, conditions, settings) if self.config.keeps_ends else latents

    @torch.inference_mode()
    def decode(
        self, latents: Tensor, kept: Sequence[int] | None = None, references: References | None = None
    ) -> Generator[Event, None, Tensor]:
        """Latents (B, C, T, h, w) → pixels (B, 3, n, H, W) in [-1, 1], as the generator's return value.

        Of all frames, or of those kept. With references at the output size, without them as the autoencoder gives them.
        """
        yield from self.residency.ensure_loaded("autoencoder")
        self.model.autoencoder.frames_at_once = self.residency.frames_at_once(latents)

        def run() -> Iterator[tuple[Decoding, Tensor]]:
            for step in self.model.decode_clips(latents, kept, references):
                yield Decoding(step.done, step.total), step.output

        with self.residency.working_memory():
            return (yield from self.residency.follow_finite(run, "autoencoder"))


def _open_checkpoint(model: str, options: LoadOptions) -> Checkpoint:
    """See `Pipeline.from_pretrained`. What is odd about the file is a warning."""
    if unknown := sorted(set(options) - set(LoadOptions.__annotations__)):
        raise TypeError(f"there is no option {', '.join(unknown)}")
    checkpoint = with_loras(_open_weights(model, options), options.get("lora", ()))
    if sketch_encoder := options.get("sketch_encoder"):
        opened = open_sketch_encoder(Path(sketch_encoder), checkpoint.config)
        checkpoint = replace(checkpoint, sketches=opened)
    for note in filter(None, [checkpoint.assumption, checkpoint.oddity]):
        logger.warning(note)
    return checkpoint


def _open_weights(model: str, options: LoadOptions) -> Checkpoint:
    """A model's own file, and that of its towers."""
    file, model_config = options.get("checkpoint"), options.get("model_config")
    command = options.get("command", "animate")
    if file is None:
        if model_config is not None:
            raise UsageError("a model configuration describes a checkpoint", "Give the checkpoint too")
        name = hub.choose(model, command)
        opened = open_checkpoint(hub.fetch(name, offline=options.get("offline", False)), model=name)
        return hub.with_towers(opened, _downloading(options))
    if model not in ("auto", *MODELS):
        raise UsageError(f"there is no model {model}", f"Choose among {', '.join(MODELS)}, or auto")
    opened = open_checkpoint(
        Path(file),
        model=None if model == "auto" else model,
        model_config=Path(model_config) if model_config else None,
        command=command,
    )
    return hub.with_towers(opened, _downloading(options), plan_only=options.get("plan_only", False))


def _downloading(options: LoadOptions) -> hub.DownloadOptions:
    towers = options.get("towers")
    return hub.DownloadOptions(offline=options.get("offline", False), towers=Path(towers) if towers else None)


def _video(events: Iterator[Event]) -> Video:
    for event in events:
        if isinstance(event, Done):
            return event.video
    raise AssertionError("a generation ends with Done")


def _names(images: Sequence[ImageSource]) -> list[str]:
    return [Path(image).name for image in images if isinstance(image, str | Path)]


def _check_sketch(checkpoint: Checkpoint, images: int) -> None:
    """Raises UsageError where no sketch can be followed."""
    if not checkpoint.sketches:
        raise UsageError("a sketch needs the sketch encoder, --sketch-encoder FILE", SKETCH_ADVICE)
    if images > 2:
        raise UsageError("a sketch is of one interpolation", f"Give two images, not {images}")


def _about_weights(checkpoint: Checkpoint, dtype: torch.dtype, *, with_sketch: bool) -> dict[str, Any]:
    """What a video says of the weights that made it, as plain values."""
    about: dict[str, Any] = {"checkpoint": checkpoint.fingerprint}
    if with_sketch and checkpoint.sketches:
        about["sketch_encoder"] = checkpoint.sketches.fingerprint
    if checkpoint.loras:
        about["lora"] = [lora.record() for lora in checkpoint.loras]
    return about | {"dtype": str(dtype).removeprefix("torch."), "version": __version__}


def _sampled(
    residency: Residency, conditions: Conditions, settings: Settings, draws: Iterator[Tensor]
) -> Iterator[tuple[Step, Tensor]]:
    """Each step of sampling, with the latents after it. `draws` are the noise to begin from, then one a step."""
    schedule, still, device = residency.model.config.schedule, conditions.still, residency.device
    steps = sampling_steps(schedule, settings.spacing, settings.steps, settings.final_rescale, settings.start)
    denoiser = guided_denoiser(residency, conditions, settings, steps)
    walk = load_sampler(settings.sampler)(
        hold(denoiser, still.latents, still.mask, steps, schedule.prediction) if still else denoiser,
        upload(_initial_latents(next(draws), steps[0], settings), device),
        steps,
        lambda: upload(next(draws), device),
        prediction=schedule.prediction,
        eta=settings.eta,
    )
    for index, sampled in enumerate(walk, start=1):
        yield Step(index, len(steps), sampled.x0), sampled.x


def _with_ends(latents: Tensor, conditions: Conditions, settings: Settings) -> Tensor:
    """Latents whose ends are the images' own, or in a loop one and the same: see `ModelConfig.keeps_ends`."""
    if settings.command == "interpolate":
        latents[:, :, [0, -1]] = conditions.concat_latents[:, :, [0, -1]].to(latents)
    if settings.command == "loop":
        latents[:, :, [0, -1]] = latents[:, :, [0, -1]].mean(dim=2, keepdim=True)
    return latents


def _initial_latents(noise: Tensor, first: SamplingStep, settings: Settings) -> Tensor:
    """What sampling begins with: noise (B, C, T, h, w) itself, or shaped by what is known of the data's latents."""
    if settings.init_noise is not None:
        return _read_statistics(settings.init_noise, noise.shape[1]).initial_latents(noise, first)
    if settings.start < 1:
        return known_statistics(noise.shape[1]).initial_latents(noise, first)
    return noise


def check_files(settings: Settings, config: ModelConfig) -> None:
    """Read the files that settings name, before weights are loaded for them. Raises InputError."""
    if settings.init_noise is not None:
        _read_statistics(settings.init_noise, config.autoencoder.latent_channels)
    if settings.mask is not None:
        open_image(settings.mask)
    if settings.sketch is not None:
        from dcrafter.media.video import read_drawings  # imports PyAV

        read_drawings(settings.sketch, settings.sampled_frames)


def _read_statistics(path: Path, channels: int) -> LatentStatistics:
    """A file of Analytic-Init, as its authors publish them. Raises InputError where it holds something else."""
    try:
        tensors, _ = read_tensors(path)
    except WeightsError:  # whose advice is for models
        tensors = {}
    mean, variance = (tensors.get(name, torch.empty(0)).float() for name in ("Expectation_X0", "Tr_Cov_d"))
    if mean.ndim != 5 or mean.shape[:2] != (1, channels) or variance.numel() != 1:
        needed = f"Expectation_X0 (1, {channels}, T, h, w) and Tr_Cov_d"
        raise InputError(f"{path} holds no initial noise for this model", f"It must have {needed}")
    return LatentStatistics(mean, float(variance))


def _join(clips: list[NDArray[np.uint8]], trim: bool) -> list[NDArray[np.uint8]]:
    """Clips that begin where the one before ends: that frame is kept once, or with `trim` not at all."""
    joined = clips[:1]
    for clip in clips[1:]:
        if trim:
            joined[-1] = joined[-1][:-1]
        joined.append(clip[1:])
    return joined


def kept_frames(settings: Settings) -> list[int]:
    """Which of the sampled frames go into the file: evenly spaced ones. A loop's last repeats its first."""
    sampled = settings.sampled_frames
    if settings.command == "loop":
        return [i * (sampled - 1) // settings.frames for i in range(settings.frames)]
    if settings.frames == 1:
        return [0]
    return [round(i * (sampled - 1) / (settings.frames - 1)) for i in range(settings.frames)]
