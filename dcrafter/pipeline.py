"""From a picture and a prompt to a video.

`Pipeline.generate` yields events while it works, so that progress bars belong to whoever wants them;
`animate`, `interpolate` and `loop` just return the video. One component at a time is in memory, in the order
text → image → autoencoder → UNet → autoencoder: the peak is the largest one, never their sum.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from dcrafter import __version__
from dcrafter.config import MODELS, Command
from dcrafter.errors import NumericalError, UsageError
from dcrafter.media.image import ImageSource, fit_image, open_image, to_frames, to_tensor
from dcrafter.media.video import write_video
from dcrafter.models.clip import is_cut, tokenize
from dcrafter.models.dynamicrafter import DynamiCrafter, detail_guidance
from dcrafter.sampling.ddim import Denoiser, ddim
from dcrafter.sampling.guidance import guide, guide_multi, rescale_guidance
from dcrafter.sampling.schedule import sampling_steps
from dcrafter.settings import DTYPES, Options, Settings, resolve
from dcrafter.weights import hub
from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint

logger = logging.getLogger(__name__)

Noise = Callable[[tuple[int, ...]], Tensor]
"""Draws standard normal noise of a shape, on the CPU. The order of draws is a promise: the posterior of each
keyframe together, then x_T, then one a step."""


@dataclass(frozen=True)
class Loading:
    """Weights of a component are being read: so many values of so many."""

    component: str
    done: int
    total: int


@dataclass(frozen=True)
class Encoding:
    """A prompt or a picture is about to be encoded."""

    what: str


@dataclass(frozen=True, eq=False)
class Step:
    """Sampling step `index` (from 1) of `total` is done; `x0` is the predicted clean latent (B, C, T, h, w)."""

    index: int
    total: int
    x0: Tensor


@dataclass(frozen=True)
class Decoding:
    """Frame number `frame` (from 1) of `total` is decoded."""

    frame: int
    total: int


@dataclass(frozen=True)
class Done:
    video: Video


Event = Loading | Encoding | Step | Decoding | Done


@dataclass(frozen=True, eq=False)
class Video:
    """The result. `frames` is uint8 (T, H, W, 3); `settings` is what made it, as plain values.

    `latents` (1, C, T, h, w) is the sample before decoding, all sampled frames of it.
    """

    frames: np.ndarray
    fps: float
    settings: dict[str, Any]
    latents: Tensor = field(repr=False)

    def save(
        self,
        path: str | Path,
        *,
        format: str | None = None,
        codec: str | None = None,
        crf: int | None = None,
        overwrite: bool = False,
        metadata: bool = True,
    ) -> Path:
        """Write a video file, by suffix or as mp4, webm, gif, webp, apng or frames, with the settings inside.

        Raises OutputError where the file exists and may not be overwritten, or cannot be written.
        """
        return write_video(
            self.frames,
            Path(path),
            format=format,
            fps=self.fps,
            settings=self.settings if metadata else None,
            codec=codec,
            crf=crf,
            overwrite=overwrite,
        )


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the denoiser is given beside the noisy latents of B videos (one, as `encode` makes them)."""

    text: Tensor  # (B, L, D)
    uncond_text: Tensor  # of the negative prompt
    image: Tensor  # (B, queries, D)
    uncond_image: Tensor  # of a mid-grey picture
    concat_latents: Tensor  # (B, C, T, h, w)

    @staticmethod
    def together(conditions: Sequence[Conditions]) -> Conditions:
        """Those of several videos, to be sampled at once."""
        names = [each.name for each in fields(Conditions)]
        return Conditions(*(torch.cat([getattr(c, name) for c in conditions]) for name in names))


class Pipeline:
    """A model ready to generate, one video at a time; its weights stay in the file until they are needed."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Raises WeightsError where the checkpoint does not fit its configuration, key by key."""
        self.config = checkpoint.config
        self.checkpoint = checkpoint
        self.device, self.dtype = device, dtype
        self.model = DynamiCrafter.on_meta(self.config)
        checkpoint.check(self.model)

    @classmethod
    def from_pretrained(
        cls,
        model: str = "auto",
        *,
        checkpoint: str | Path | None = None,
        model_config: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        command: Command = "animate",
        offline: bool = False,
    ) -> Pipeline:
        """Open a model by its registry name, or a checkpoint file.

        Args:
            model: 256, 512, 1024, 512-interp, tiny, or auto for the best on this machine. With a checkpoint,
                what the file must hold.
            model_config: a published YAML or JSON tree, for a checkpoint of unusual size.
            device: auto, cpu, cuda, cuda:1, mps. dtype: auto, float32, float16, bfloat16.
            command: what it will be used for, which decides `auto`.

        Raises:
            UsageError: no such model, device or type. WeightsError: no such weights, or damaged, unsafe ones.
        """
        if model_config is not None and checkpoint is None:
            raise UsageError("a model configuration describes a checkpoint", "Give the checkpoint too")
        if model not in ("auto", *MODELS):
            raise UsageError(f"there is no model {model}", f"Choose among {', '.join(MODELS)}, or auto")
        place = choose_device(device)
        kind = choose_dtype(dtype, place)
        if checkpoint is not None:
            opened = open_checkpoint(
                Path(checkpoint),
                model=None if model == "auto" else model,
                model_config=Path(model_config) if model_config else None,
                command=command,
            )
        else:
            name = hub.choose(model, command)
            opened = open_checkpoint(hub.fetch(name, offline=offline), model=name)
        if opened.assumption:
            logger.warning(opened.assumption)
        return cls(opened, place, kind)

    def animate(self, image: ImageSource, prompt: str = "", *, seed: int = 0, **options: Unpack[Options]) -> Video:
        """A picture (path, bytes, Pillow image or array) and a prompt → a video that begins from it."""
        return self._video("animate", [image], prompt, seed, options)

    def interpolate(
        self, first: ImageSource, last: ImageSource, prompt: str = "", *, seed: int = 0, **options: Unpack[Options]
    ) -> Video:
        """Two pictures → a video from one to the other (paper, section 6)."""
        return self._video("interpolate", [first, last], prompt, seed, options)

    def loop(self, image: ImageSource, prompt: str = "", *, seed: int = 0, **options: Unpack[Options]) -> Video:
        """A picture → a video that begins and ends with it, to be repeated (paper, section 6)."""
        return self._video("loop", [image], prompt, seed, options)

    def _video(self, command: Command, images: list[ImageSource], prompt: str, seed: int, options: Options) -> Video:
        settings = resolve(self.config, command, prompt, seed, options)
        for event in self.generate(images, settings):
            if isinstance(event, Done):
                return event.video
        raise AssertionError("a generation ends with Done")

    def generate(self, images: list[ImageSource], settings: Settings) -> Iterator[Event]:
        """Events up to `Done`. Images: one, or two for interpolate.

        Raises:
            InputError: an image cannot be read.
            NumericalError: a component gives NaN or infinite values in float32 too.
        """
        pictures = [fit_image(open_image(i), settings.width, settings.height, settings.fit) for i in images]
        if settings.command == "loop":
            pictures *= 2
        keyframes = torch.stack([to_tensor(picture) for picture in pictures])
        noise = seeded_noise(settings.seed)
        conditions = yield from self.encode(keyframes, settings, noise)
        latents = yield from self.sample(conditions, settings, noise)
        frames = yield from self.decode(latents[:, :, kept_frames(self.config.frames, settings)])
        names = [Path(image).name for image in images if isinstance(image, str | Path)]
        record = settings.to_dict() | {
            "images": names,
            "checkpoint": self.checkpoint.fingerprint,
            "dtype": str(self.dtype).removeprefix("torch."),
            "version": __version__,
        }
        yield Done(Video(to_frames(frames[0]), settings.fps, record, latents.cpu().clone()))

    @torch.inference_mode()
    def encode(self, keyframes: Tensor, settings: Settings, noise: Noise) -> Generator[Event, None, Conditions]:
        """Keyframes (n, 3, H, W) in [-1, 1] → Conditions, as the generator's return value."""
        config, model, device = self.config, self.model, self.device
        yield Encoding("prompt")
        yield from self.hold("text_encoder")
        length = config.clip.text.context_length
        prompts = {"prompt": settings.prompt, "negative prompt": settings.negative_prompt}
        for name, prompt in prompts.items():
            if is_cut(prompt, length):
                logger.warning("the %s is longer than the %d tokens the model reads; it is cut", name, length - 2)
        tokens = tokenize([*prompts.values()], length).to(device)
        text = self._finite(lambda: model.encode_text(tokens), "text_encoder")

        yield Encoding("picture")
        yield from self.hold("image_encoder", "projector")
        first = keyframes[:1].to(device)  # CLIP sees the first frame only
        seen = torch.cat([first, torch.zeros_like(first)])
        image = self._finite(lambda: model.encode_image(seen), "image_encoder", "projector")

        yield Encoding("frames")
        yield from self.hold("autoencoder")
        n, _, height, width = keyframes.shape
        factor = config.autoencoder.downsampling
        shape = (n, config.autoencoder.latent_channels, height // factor, width // factor)
        drawn = noise(shape).to(device)
        latents = self._finite(lambda: model.encode_frames(keyframes.to(device), drawn), "autoencoder")
        concat = detail_guidance(latents, config.frames)
        return Conditions(text[:1], text[1:], image[:1], image[1:], concat)

    @torch.inference_mode()
    def sample(self, conditions: Conditions, settings: Settings, noise: Noise) -> Generator[Event, None, Tensor]:
        """Conditions of B videos → latents (B, C, T, h, w), as the generator's return value."""
        yield from self.hold("unet")
        self.model.unet.set_context_scale(settings.context_scale)
        shape = tuple(conditions.concat_latents.shape)
        table = sampling_steps(self.config.schedule, settings.spacing, settings.steps)
        walk = ddim(
            self.denoiser(conditions, settings),
            noise(shape).to(self.device),
            table,
            lambda: noise(shape).to(self.device),
            prediction=self.config.schedule.prediction,
            eta=settings.eta,
        )
        for index, sampled in enumerate(walk, start=1):
            yield Step(index, len(table), sampled.x0)
        return sampled.x

    def denoiser(self, conditions: Conditions, settings: Settings) -> Denoiser:
        """The UNet with its conditions and guidance in place. Needs the unet loaded."""
        c, device = conditions, self.device
        fs = torch.full((len(c.text),), settings.motion, device=device)

        def denoise(x: Tensor, t: int) -> Tensor:
            def predict(text: Tensor, image: Tensor) -> Tensor:
                time = torch.full((len(x),), t, device=device)
                return self._finite(lambda: self.model.denoise(x, time, text, image, c.concat_latents, fs), "unet")

            conditional = predict(c.text, c.image)
            if settings.image_guidance is not None:
                nothing, image_only = predict(c.uncond_text, c.uncond_image), predict(c.uncond_text, c.image)
                out = guide_multi(nothing, image_only, conditional, settings.image_guidance, settings.guidance)
            elif settings.guidance != 1:
                out = guide(predict(c.uncond_text, c.uncond_image), conditional, settings.guidance)
            else:
                return conditional
            return rescale_guidance(out, conditional, settings.guidance_rescale)

        return denoise

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Generator[Event, None, Tensor]:
        """Latents (B, C, T, h, w) → pixels (B, 3, T, H, W) in [-1, 1], as the generator's return value."""
        yield from self.hold("autoencoder")
        total = latents.shape[2]
        frames = []
        for i in range(total):
            frame = latents[:, :, i]
            frames.append(self._finite(lambda: self.model.decode(frame), "autoencoder").cpu())  # noqa: B023
            yield Decoding(i + 1, total)
        return torch.stack(frames, dim=2)

    def hold(self, *components: str, dtype: torch.dtype | None = None) -> Iterator[Loading]:
        """Load these components (children of the model, by name) onto the device, and release all others."""
        for module in self.model.children():
            empty = {key: value.to("meta") for key, value in module.state_dict().items()}
            module.load_state_dict(empty, assign=True)
        for name in components:
            steps = self.checkpoint.load(self.model, name, device=self.device, dtype=dtype or self.dtype)
            for done, total in steps:
                yield Loading(name, done, total)

    def _finite(self, run: Callable[[], Tensor], *components: str) -> Tensor:
        """What `run` gives; run once more with its components in float32 if that is not finite."""
        out = run()
        if out.isfinite().all():
            return out
        if self.dtype != torch.float32:
            logger.warning("%s gave NaN or infinite values in %s; going on in float32", components[0], self.dtype)
            for _ in self.hold(*components, dtype=torch.float32):
                pass
            out = run()
            if out.isfinite().all():
                return out
        raise NumericalError(
            f"the {components[0]} gave NaN or infinite values", "The checkpoint may be damaged; verify it"
        )


def seeded_noise(seed: int) -> Noise:
    """Noise from one generator on the CPU: the same seed is the same noise on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def kept_frames(sampled: int, settings: Settings) -> list[int]:
    """Which of the sampled frames go into the file: evenly spaced ones. A loop's last repeats its first."""
    if settings.command == "loop":
        return [i * (sampled - 1) // settings.frames for i in range(settings.frames)]
    if settings.frames == 1:
        return [0]
    return [round(i * (sampled - 1) / (settings.frames - 1)) for i in range(settings.frames)]


def choose_device(device: str) -> torch.device:
    """auto, or a device by its name. Raises UsageError for one that is not here."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"there is no device {device} here", "Choose cpu, or leave out --device") from error
    return place


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """auto is float16 on a GPU; on a CPU bfloat16 if it multiplies that in hardware, else float32."""
    if dtype == "auto":
        if device.type != "cpu":
            return torch.float16
        abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = abilities.get("avx512_bf16") or abilities.get("amx_bf16")
        return torch.bfloat16 if native else torch.float32
    if dtype not in DTYPES:
        raise UsageError(f"there is no type {dtype}", f"Choose among auto, {', '.join(DTYPES)}")
    kind = getattr(torch, dtype)
    assert isinstance(kind, torch.dtype)
    return kind
