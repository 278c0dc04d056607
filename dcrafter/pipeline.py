"""From a picture and a prompt to a video.

`Pipeline.generate` yields events while it works, so that progress bars belong to whoever wants them;
`animate`, `interpolate` and `loop` just return the video. One component at a time is in memory, in the order
text → image → autoencoder → UNet → autoencoder: the peak is the largest one, never their sum.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from io import IOBase
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Resampling
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dcrafter import __version__, estimate
from dcrafter.config import MODELS, Command
from dcrafter.errors import NumericalError, UsageError
from dcrafter.machine import available_memory, process_memory
from dcrafter.media.image import ImageSource, fit_image, match_colors, open_image, to_frames, to_tensor
from dcrafter.media.video import write_video
from dcrafter.models.clip import is_cut, tokenize
from dcrafter.models.dynamicrafter import DynamiCrafter, References, detail_guidance
from dcrafter.sampling import load_sampler
from dcrafter.sampling.ddim import Denoiser
from dcrafter.sampling.guidance import guide, guide_multi, rescale_guidance
from dcrafter.sampling.schedule import sampling_steps
from dcrafter.settings import DTYPES, MEMORY_PLANS, Options, Settings, WriteOptions, resolve
from dcrafter.weights import hub
from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint

logger = logging.getLogger(__name__)

REMEMBERED = 64  # prompts, a few hundred kilobytes each
DEVICES = ("cpu", "cuda", "mps")
SLICES = 8  # of feed-forward layers where memory is scarce

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
class Part:
    """Part `index` (from 1) of `total` of a video that is made in several begins."""

    index: int
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


Event = Loading | Part | Encoding | Step | Decoding | Done


@dataclass(frozen=True, eq=False)
class Video:
    """The result. `frames` is uint8 (T, H, W, 3); `settings` is what made it, as plain values.

    `latents` (P, C, T, h, w) are the samples before decoding, all sampled frames of each of P parts.
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
        options = WriteOptions(format, codec, crf, metadata)
        return write_video(self.frames, path, options, fps=self.fps, settings=self.settings, overwrite=overwrite)


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


@dataclass(frozen=True, eq=False)
class Keyframes:
    """The given images in [-1, 1], at both sizes that matter: the same tensor where these are one."""

    input: Tensor  # (n, 3, H, W), the size of the settings: what the model sees
    output: Tensor  # (n, 3, sH, sW), the size of decoded frames: what they are compared with


@dataclass(frozen=True, eq=False)
class Prepared:
    """A video of which all is encoded that can be before it is sampled: see `Pipeline.prepare`."""

    keyframes: Keyframes
    noise: Noise  # behind the draws of the encoding
    conditions: Conditions  # of its first part


class Pipeline:
    """A model ready to generate, one video at a time; its weights stay in the file until they are needed."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Raises WeightsError where the checkpoint does not fit its configuration, key by key."""
        self.config = checkpoint.config
        self.checkpoint = checkpoint
        self.device, self.dtype = device, dtype
        self.memory = self._least = "normal"  # memory plans: the one followed, the first that did not fail
        self.model = DynamiCrafter.on_meta(self.config)
        checkpoint.check(self.model)
        self.keeps_decoder = False  # beside the UNet, so that one video after the other swaps nothing
        self._streaming: list[RemovableHandle] = []
        self._held: tuple[tuple[str, ...], torch.dtype, str] = ((), dtype, "")
        self._texts: dict[tuple[str, str], Tensor] = {}  # encoded prompts, the latest

    @classmethod
    def from_pretrained(
        cls,
        model: str = "auto",
        *,
        checkpoint: str | Path | None = None,
        model_config: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool = False,
        command: Command = "animate",
        offline: bool = False,
    ) -> Pipeline:
        """Open a model by its registry name, or a checkpoint file.

        Args:
            model: 256, 512, 1024, 512-interp, tiny, an imported one, or auto for the best on this machine. With a
                checkpoint, what the file must hold.
            model_config: a published YAML or JSON tree, for a checkpoint of unusual size.
            device: auto, cpu, cuda, cuda:1, mps. dtype: auto, float32, float16, bfloat16.
            compile: translate the UNet by torch.compile, in the first evaluation.
            command: what it will be used for, which decides `auto`.

        Raises:
            UsageError: no such model, device or type. WeightsError: no such weights, or damaged, unsafe ones.
        """
        if model_config is not None and checkpoint is None:
            raise UsageError("a model configuration describes a checkpoint", "Give the checkpoint too")
        if checkpoint is not None and model not in ("auto", *MODELS):
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
        pipe = cls(opened, place, kind)
        if compile:
            pipe.model.unet.compile()
        return pipe

    def animate(self, image: ImageSource, prompt: str = "", *, seed: int = 0, **options: Unpack[Options]) -> Video:
        """A picture (path, bytes, Pillow image or array) and a prompt → a video that begins from it."""
        return self._video("animate", [image], prompt, seed, options)

    def interpolate(
        self, images: Sequence[ImageSource], prompt: str = "", *, seed: int = 0, **options: Unpack[Options]
    ) -> Video:
        """Two pictures or more → a video from each to the next (paper, section 6)."""
        if len(images) < 2:
            raise UsageError("an interpolation needs two pictures", "Give the first and the last")
        return self._video("interpolate", list(images), prompt, seed, options)

    def loop(self, image: ImageSource, prompt: str = "", *, seed: int = 0, **options: Unpack[Options]) -> Video:
        """A picture → a video that begins and ends with it, to be repeated (paper, section 6)."""
        return self._video("loop", [image], prompt, seed, options)

    def _video(self, command: Command, images: list[ImageSource], prompt: str, seed: int, options: Options) -> Video:
        images = [image.read() if isinstance(image, IOBase) else image for image in images]  # it is opened twice
        first = open_image(images[0])
        settings = resolve(self.config, command, prompt, seed, options, portrait=first.height > first.width)
        for event in self.generate(images, settings):
            if isinstance(event, Done):
                return event.video
        raise AssertionError("a generation ends with Done")

    def prepare(self, videos: Sequence[tuple[list[ImageSource], Settings]]) -> Generator[Event, None, list[Prepared]]:
        """Encode for several videos, so that each component is loaded once for all of them.

        Each of them comes out as it would alone. Raises what `generate` does.
        """
        noises = [seeded_noise(settings.seed) for _, settings in videos]
        keyframes = [self._keyframes(images, settings) for images, settings in videos]
        inputs = [
            (_ends(pictures.input, settings.command), settings, noise)
            for pictures, (_, settings), noise in zip(keyframes, videos, noises, strict=True)
        ]
        conditions = yield from self.encode_many(inputs)
        return [Prepared(*each) for each in zip(keyframes, noises, conditions, strict=True)]

    def generate(
        self,
        images: list[ImageSource],
        settings: Settings,
        noise: Noise | None = None,
        prepared: Prepared | None = None,
    ) -> Generator[Event, None, None]:
        """Events up to `Done`. Images: one, or for interpolate two or more, from each to the next.

        `noise` is drawn instead of that of the settings' seed. What `prepare` gave is used up.

        Raises:
            InputError: an image cannot be read.
            NumericalError: a component gives NaN or infinite values in float32 too.
        """
        keyframes = prepared.keyframes if prepared else self._keyframes(images, settings)
        noise = prepared.noise if prepared else noise or seeded_noise(settings.seed)
        kept = kept_frames(self.config.frames, settings)
        parts = len(keyframes.input) - 1 if settings.command == "interpolate" else settings.segments
        frames: list[Tensor] = []  # of each part (n, 3, H, W)
        samples = []
        for part in range(parts):
            if parts > 1:
                yield Part(part + 1, parts)
            if settings.command == "animate" and frames:  # on from what the viewer saw last
                last = as_shown(frames[-1][-1:])
                given = F.avg_pool2d(last, self.config.output_scale) if self.config.output_scale > 1 else last
                shown = torch.cat([keyframes.output, last])
            else:
                given = _ends(keyframes.input[part:], settings.command)
                shown = keyframes.output[part : part + 2]
            if prepared and part == 0:
                conditions = prepared.conditions
            else:
                conditions = yield from self.encode(given, settings, noise)
            latents = yield from self.sample(conditions, settings, noise)
            references = _references(shown, settings.command, len(kept))
            decoded = (yield from self.decode(latents[:, :, kept], references))[0].transpose(0, 1)
            if settings.color_match:
                decoded = match_colors(decoded, shown if settings.command == "interpolate" else keyframes.output)
            frames.append(decoded)
            samples.append(latents.cpu())
        whole = to_frames(torch.cat(_joined(frames, settings.trim_keyframes)).transpose(0, 1))
        record = settings.to_dict() | {
            "images": [Path(image).name for image in images if isinstance(image, str | Path)],
            "checkpoint": self.checkpoint.fingerprint,
            "dtype": str(self.dtype).removeprefix("torch."),
            "version": __version__,
        }
        whole = np.tile(whole, (settings.repeat, 1, 1, 1))  # as bytes: floats of many rounds would fill the memory
        yield Done(Video(whole, settings.fps, record, torch.cat(samples)))

    def _keyframes(self, images: list[ImageSource], settings: Settings) -> Keyframes:
        """Images at the size of the settings, and at the size of the frames that will be decoded."""
        pictures = [open_image(image) for image in images]

        def fitted(width: int, height: int, resample: Resampling = Resampling.BILINEAR) -> Tensor:
            fitting = (fit_image(p, width, height, settings.fit, resample=resample) for p in pictures)
            return torch.stack([to_tensor(picture) for picture in fitting])

        given = fitted(settings.width, settings.height)
        output = self.config.output_size(settings.width, settings.height)
        return Keyframes(
            given, given if output == (settings.width, settings.height) else fitted(*output, Resampling.LANCZOS)
        )

    def encode(self, keyframes: Tensor, settings: Settings, noise: Noise) -> Generator[Event, None, Conditions]:
        """Keyframes (n, 3, H, W) in [-1, 1] → Conditions, as the generator's return value."""
        return (yield from self.encode_many([(keyframes, settings, noise)]))[0]

    @torch.inference_mode()
    def encode_many(self, videos: Sequence[tuple[Tensor, Settings, Noise]]) -> Generator[Event, None, list[Conditions]]:
        """What `encode` does, for several videos one by one, but loading each component once."""
        texts, images, latents = [], [], []
        for _, settings, _ in videos:
            texts.append((yield from self._encode_text(settings.prompt, settings.negative_prompt)))
        for keyframes, _, _ in videos:
            images.append((yield from self._encode_picture(keyframes)))
        for keyframes, _, noise in videos:
            latents.append((yield from self._encode_frames(keyframes, noise)))
        return [
            Conditions(text[:1], text[1:], image[:1], image[1:], detail_guidance(encoded, self.config.frames))
            for text, image, encoded in zip(texts, images, latents, strict=True)
        ]

    def _encode_text(self, prompt: str, negative_prompt: str) -> Generator[Event, None, Tensor]:
        """Prompt and negative prompt → (2, L, D). The latest are remembered."""
        prompts = (prompt, negative_prompt)
        if prompts not in self._texts:
            yield Encoding("prompt")
            yield from self.hold("text_encoder")
            length = self.config.clip.text.context_length
            for name, text in zip(("prompt", "negative prompt"), prompts, strict=True):
                if is_cut(text, length):
                    logger.warning("the %s is longer than the %d tokens the model reads; it is cut", name, length - 2)
            tokens = tokenize([*prompts], length).to(self.device)
            if len(self._texts) == REMEMBERED:
                self._texts.pop(next(iter(self._texts)))
            self._texts[prompts] = self._finite(lambda: self.model.encode_text(tokens), "text_encoder")
        return self._texts[prompts]

    def _encode_picture(self, keyframes: Tensor) -> Generator[Event, None, Tensor]:
        """The first of keyframes (n, 3, H, W), and a mid-grey picture → (2, queries, D). CLIP sees no more."""
        yield Encoding("picture")
        yield from self.hold("image_encoder", "projector")
        first = keyframes[:1].to(self.device)
        seen = torch.cat([first, torch.zeros_like(first)])
        return self._finite(lambda: self.model.encode_image(seen), "image_encoder", "projector")

    def _encode_frames(self, keyframes: Tensor, noise: Noise) -> Generator[Event, None, Tensor]:
        """Keyframes (n, 3, H, W) → latents as `encode_frames` gives them."""
        yield Encoding("frames")
        yield from self.hold("autoencoder")
        n, _, height, width = keyframes.shape
        factor = self.config.autoencoder.downsampling
        shape = (n, self.config.autoencoder.latent_channels, height // factor, width // factor)
        drawn = noise(shape).to(self.device)
        return self._finite(lambda: self.model.encode_frames(keyframes.to(self.device), drawn), "autoencoder")

    @torch.inference_mode()
    def sample(self, conditions: Conditions, settings: Settings, noise: Noise) -> Generator[Event, None, Tensor]:
        """Conditions of B videos → latents (B, C, T, h, w), as the generator's return value."""
        yield from self.hold("unet", *(["autoencoder"] if self.keeps_decoder else []))
        self.model.unet.set_context_scale(settings.context_scale)
        shape = tuple(conditions.concat_latents.shape)
        table = sampling_steps(self.config.schedule, settings.spacing, settings.steps)
        walk = load_sampler(settings.sampler)(
            self.denoiser(conditions, settings),
            noise(shape).to(self.device),
            table,
            lambda: noise(shape).to(self.device),
            prediction=self.config.schedule.prediction,
            eta=settings.eta,
        )
        for index, sampled in enumerate(walk, start=1):
            yield Step(index, len(table), sampled.x0)
        latents = sampled.x
        if self.config.keeps_ends and settings.command == "interpolate":
            latents[:, :, [0, -1]] = conditions.concat_latents[:, :, [0, -1]].to(latents)
        if self.config.keeps_ends and settings.command == "loop":
            latents[:, :, [0, -1]] = latents[:, :, [0, -1]].mean(dim=2, keepdim=True)
        return latents

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
    def decode(self, latents: Tensor, references: References | None = None) -> Generator[Event, None, Tensor]:
        """Latents (B, C, T, h, w) → pixels (B, 3, T, H, W) in [-1, 1], as the generator's return value.

        With references at the output size, without them as the autoencoder gives them.
        """
        yield from self.hold("autoencoder")
        total = latents.shape[2]
        frames = []
        for i in range(total):
            frame = latents[:, :, i]
            frames.append(self._finite(lambda: self.model.decode(frame), "autoencoder").cpu())  # noqa: B023
            yield Decoding(i + 1, total)
        clips = torch.stack(frames, dim=2)
        return clips if references is None else self.model.refine(clips, references)

    def hold(self, *components: str, dtype: torch.dtype | None = None) -> Iterator[Loading]:
        """Have these components (children of the model, by name) on the device; release others if any is missing."""
        held, *how = self._held
        if set(components) <= set(held) and components and how == [dtype or self.dtype, self.memory]:
            return
        self._held = ((), self.dtype, "")  # until all are there
        for handle in self._streaming:
            handle.remove()
        self._streaming.clear()
        for module in self.model.children():
            _release(module)
        for name in components:
            streamed = self.model.unet.blocks() if (name, self.memory) == ("unet", "min") else {}
            steps = self.checkpoint.load(
                self.model, name, device=self.device, dtype=dtype or self.dtype, leave_out=tuple(streamed)
            )
            for done, total in steps:
                yield Loading(name, done, total)
            for path, block in streamed.items():
                self._stream(f"{name}.{path}", block, dtype or self.dtype)
        self._held = (components, dtype or self.dtype, self.memory)

    def _stream(self, name: str, block: nn.Module, dtype: torch.dtype) -> None:
        """Has a block loaded whenever it is called, and released behind."""

        def load(*_: object) -> None:
            for _ in self.checkpoint.load(self.model, name, device=self.device, dtype=dtype):
                pass

        self._streaming.append(block.register_forward_pre_hook(load))
        self._streaming.append(block.register_forward_hook(lambda *_: _release(block)))

    # Memory

    def choose_memory(self, settings: Settings, plan: str = "auto", room: int | None = None) -> None:
        """Follow a memory plan; `auto` is the first that fits into `room` bytes, by default what is free now.

        A plan with which memory ran out before is passed over.
        """
        if plan == "auto":
            room = free_memory(self.device) if room is None else room
            plan = estimate.plan_for(self.model, settings, self.dtype, room)
        self._follow(max(plan, self._least, key=MEMORY_PLANS.index))

    def _follow(self, plan: str) -> None:
        self.memory = plan
        self.model.unet.set_slices(1 if plan == "normal" else SLICES)

    def save_memory(self) -> bool:
        """Go over to the next smaller plan, if there is one."""
        self.keeps_decoder = False
        for _ in self.hold():
            pass
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = MEMORY_PLANS[MEMORY_PLANS.index(self.memory) + 1 :]
        if smaller:
            self._least = smaller[0]
            self._follow(self._least)
        return bool(smaller)

    def held_memory(self) -> int:
        """Bytes that torch holds of the device now, its cache included; on a CPU what the process holds."""
        if self.device.type == "cuda":
            return torch.cuda.memory_reserved(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        return process_memory()

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


def _references(images: Tensor, command: Command, length: int) -> References:
    """What a clip of so many frames is decoded beside, of one video's images (n, 3, H, W).

    To animate: the given frame; in later segments the original image, then that frame. To interpolate: first and last.
    To loop: the one image, which is also the frame after the last.
    """
    if command == "animate":
        return References(images[None], (None, 0)[-len(images) :])
    if command == "interpolate":
        return References(images[None, :length], (0, length - 1)[:length])
    return References(images.expand(2, -1, -1, -1)[None], (0, length))


def _ends(keyframes: Tensor, command: Command) -> Tensor:
    """What the next part of a video is made from, of keyframes (n, 3, H, W): a first frame, or a first and a last."""
    return keyframes.expand(2, -1, -1, -1) if command == "loop" else keyframes[:2]


def seeded_noise(seed: int) -> Noise:
    """Noise from one generator on the CPU: the same seed is the same noise on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def _release(module: nn.Module) -> None:
    """Gives back the memory of a module's weights."""
    module.load_state_dict({key: value.to("meta") for key, value in module.state_dict().items()}, assign=True)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return available_memory()


def as_shown(frames: Tensor) -> Tensor:
    """Frames (n, 3, H, W) in [-1, 1] as their eight bits have them."""
    return ((frames + 1) * 127.5).round() / 127.5 - 1


def _joined(parts: list[Tensor], trim: bool) -> list[Tensor]:
    """Parts that begin where the one before ends: that frame is kept once, or with `trim` not at all."""
    joined = parts[:1]
    for part in parts[1:]:
        if trim:
            joined[-1] = joined[-1][:-1]
        joined.append(part[1:])
    return joined


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
        if place.type not in DEVICES:
            raise RuntimeError
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"there is no device {device} here", f"Choose {', '.join(DEVICES)}, or leave out --device"
        ) from error
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
