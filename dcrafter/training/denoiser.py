"""The denoiser's stages: a text-to-video base, then the paper's three (section 3.3), and what each leaves frozen."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, default_collate

from dcrafter.config import ScheduleConfig
from dcrafter.metrics.pixels import as_input, as_pixels, frame_difference, psnr
from dcrafter.models.clip import tokenize
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.models.layers import DualCrossAttention
from dcrafter.models.unet import ResBlock, SpatialTransformer, TemporalConv, TemporalTransformer, UNet3D, UNetStage
from dcrafter.sampling.ddim import ddim
from dcrafter.sampling.guidance import guide, rescale_guidance
from dcrafter.sampling.schedule import alphas_cumprod, rescale_factors, sampling_steps
from dcrafter.training.plan import kept_bytes
from dcrafter.training.recipe import Conditioning, Recipe
from dcrafter.training.stage import TrainingStage
from dcrafter.training.videos import Videos, motion_condition

logger = logging.getLogger(__name__)

EVALUATION_CLIPS = 32  # that the loss is measured on
SHOWN = 6  # of them sampled, for metrics and to look at
STEPS, SEEN = 20, 8  # DDIM steps, frames of a clip in the picture
PIXELS = 2**22  # that the autoencoder gets at once: seven frames of the 1024 model

Group = Literal["temporal", "spatial", "image attention", "embeddings"]


@dataclass(frozen=True)
class StageParts:
    """What a stage trains of the UNet, and what the denoiser is given in it.

    With `context` it trains the query transformer too.
    """

    groups: tuple[Group, ...]
    context: bool = True  # the image context stream
    detail: bool = False  # visual detail guidance
    single_frames: bool = False  # one frame a clip: the temporal layers are left out
    needed: tuple[str, ...] = (
        "text_encoder",
        "autoencoder",
        "unet",
        "image_encoder",
        "projector",
    )  # components trained before


STAGES: dict[str, StageParts] = {
    "text-to-video": StageParts(
        ("temporal", "spatial", "embeddings"), context=False, needed=("text_encoder", "autoencoder")
    ),
    "context": StageParts(
        ("image attention",), single_frames=True, needed=("text_encoder", "autoencoder", "unet", "image_encoder")
    ),
    "adaptation": StageParts(("spatial", "image attention")),
    "detail": StageParts(("spatial", "image attention"), detail=True),
}
"""The paper's stages by their names in recipes (section 3.3)."""


def parameter_groups(unet: UNet3D) -> dict[str, Group]:
    """The group that each of the UNet's parameters belongs to."""
    groups: dict[str, Group] = {name: "spatial" for name, _ in unet.named_parameters()}
    for prefix, module in unet.named_modules():
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters()]
        if isinstance(module, TemporalConv | TemporalTransformer):
            groups |= dict.fromkeys(names, "temporal")
        elif isinstance(module, DualCrossAttention):
            added = ("to_k_ip.weight", "to_v_ip.weight", "alpha")
            groups |= {name: "image attention" for name in names if name.removeprefix(f"{prefix}.") in added}
        elif prefix in ("time_embed", "fs_embed"):
            groups |= dict.fromkeys(names, "embeddings")
    return groups


@torch.no_grad()
def initialise(unet: UNet3D) -> None:
    """Residual branches, the image's attention and its latent add nothing yet, and the prediction is zero."""
    silent: list[nn.Module] = [unet.conv_out]
    for module in unet.modules():
        match module:
            case ResBlock():
                silent.append(module.conv2)
            case TemporalConv():
                silent.append(module.convs[-1])
            case SpatialTransformer() | TemporalTransformer():
                silent.append(module.proj_out)
            case DualCrossAttention():
                silent.append(module.to_v_ip)
    for module in silent:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    unet.conv_in.weight[:, unet.config.in_channels // 2 :] = 0


def frames_to(given: Tensor) -> Tensor:
    """How far each frame is from the nearest one that is given: (B, T) bool → (B, T), infinite where none is."""
    place = torch.arange(given.shape[1], device=given.device)
    apart = (place[:, None] - place).abs().float()
    return torch.where(given[:, None], apart, torch.inf).amin(dim=2)


class Process:
    """The forward diffusion process and what is to be predicted (arXiv 2006.11239, equation 4; 2202.00512).

    With zero terminal SNR (2305.08891) x_t is all noise at the last timestep. The dynamic rescale multiplies x₀ by
    s_t, as the sampler expects.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        alphas = torch.from_numpy(alphas_cumprod(config))
        self.root, self.noise = alphas.sqrt(), (1 - alphas).sqrt()
        self.rescale = torch.from_numpy(rescale_factors(config))

    def noised(self, x0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents (B, C, T, h, w), timesteps (B,) and noise → x_t and the target, eps or v."""
        root, noise, rescale = (
            table[t.cpu()].to(x0)[:, None, None, None, None] for table in (self.root, self.noise, self.rescale)
        )
        x0 = rescale * x0
        x_t = root * x0 + noise * eps
        return x_t, eps if self.config.prediction == "eps" else root * eps - noise * x0


@dataclass(frozen=True)
class Inputs:
    """What the denoiser is given, for B clips of T frames. `latents` are the clean ones."""

    latents: Tensor  # (B, C, T, h, w)
    text: Tensor  # (B, L, D)
    image: Tensor  # (B, M, D)
    concat_latents: Tensor  # (B, C, T, h, w)
    fs: Tensor  # (B,)

    def denoise(self, unet: UNet3D, x_t: Tensor, t: Tensor) -> Tensor:
        return unet(torch.cat([x_t, self.concat_latents], dim=1), t, self.text, self.image, self.fs).float()


@dataclass(frozen=True)
class Drawn:
    """What is random of a batch, one value a clip; without the draws, what a person does who animates a picture.

    On the CPU, wherever the batch is.
    """

    condition: Tensor  # the frame that is the picture
    text: Tensor  # is the text kept?
    image: Tensor  # is the picture kept in the context?
    ends: Tensor  # are first and last frame the guidance, and none between?

    @staticmethod
    def none(clips: int, *, ends: bool = False) -> Drawn:
        yes = torch.ones(clips, dtype=torch.bool)
        return Drawn(torch.zeros(clips, dtype=torch.long), yes, yes, yes if ends else ~yes)

    @staticmethod
    def random(loops: Tensor, frames: int, options: Conditioning, generator: torch.Generator) -> Drawn:
        """For clips of so many frames; those that are `loops` (B,) have the guidance at both ends."""
        clips = len(loops)

        def uniform() -> Tensor:
            return torch.rand(clips, generator=generator)

        anywhere = torch.randint(frames, (clips,), generator=generator)
        condition = anywhere * (uniform() >= options.first_frame)
        dropped, text, image, both = uniform(), options.drop_text, options.drop_image, options.drop_both
        without_text = (dropped < text) | ((dropped >= text + image) & (dropped < text + image + both))
        without_image = (dropped >= text) & (dropped < text + image + both)
        share = options.interpolation * (1 - options.loops) / max(1 - options.loop_share, 1e-6)
        ends = loops | (uniform() < share)
        return Drawn(condition * ~ends, ~without_text, ~without_image, ends)


class DenoiserStage(TrainingStage):
    """Trains the parts that `STAGES` names; all else stays as it was found."""

    model: DynamiCrafter
    about = ""  # of the data
    only_parts: ClassVar[StageParts | None] = None  # of a subclass for one stage, whatever its name

    def __init__(self, recipe: Recipe, data: Path, *, plan_only: bool = False) -> None:
        """With `plan_only` the model has no memory, and no data is looked at: enough for `activations`."""
        super().__init__()
        self.config, self.options = recipe.model_config, recipe.conditioning
        self.parts = self.only_parts or STAGES[recipe.stage]
        torch.manual_seed(recipe.seed)
        with torch.device("meta" if plan_only else "cpu"):
            self.model = DynamiCrafter(self.config)
        self.unet = self.model.unet
        initialise(self.unet)
        self.has_context = self.parts.context and self.options.context
        self.has_detail = self.parts.detail and self.options.detail
        self.single_frames = self.parts.single_frames
        without = () if self.has_context else ("image_encoder", "projector")
        self.needed = tuple(name for name in self.parts.needed if name not in without)
        self._freeze()
        self._scale_context(float(self.has_context))
        if self.options.checkpointing:
            again = functools.partial(
                checkpoint, use_reentrant=False, context_fn=lambda: (self._kernel(), self._kernel())
            )
            for module in () if plan_only else self.unet_stages():
                module.forward = functools.partial(again, module.forward)  # type: ignore[method-assign]
        self.process = Process(self.config.schedule)
        self.only_ends = "animate" not in self.config.commands or self.options.interpolation == 1
        self.sampled: list[tuple[Tensor, Tensor]] = []  # true and made frames of the clips shown
        self.skipped: set[str] = set()  # videos that failed, each with its reason
        self.at_once = min(recipe.train.batch, SHOWN)  # clips
        self.frames_at_once = max(PIXELS // (self.config.height * self.config.width), 1)
        if plan_only:
            return
        items = recipe.train.steps * recipe.train.batch * recipe.train.accumulate
        held_out = self.draws(replace(recipe, seed=recipe.seed + 1), data, EVALUATION_CLIPS, held_out=True)
        self.held_out = [held_out[i] for i in range(EVALUATION_CLIPS)]
        self.dataset = self.draws(recipe, data, items)

    def draws(self, recipe: Any, data: Path, length: int, *, held_out: bool = False) -> Dataset[Any]:
        """What a run trains on, or with `held_out` is evaluated on."""
        config = self.config
        videos = Videos(
            data, recipe.videos, recipe.seed, length,
            height=config.height, width=config.width, frames=config.frames, held_out=held_out,
        )  # fmt: skip
        self.about = videos.about()
        return Items(videos.clip, recipe, length, loops=0.0 if held_out else recipe.conditioning.loop_share)

    def unet_stages(self) -> list[UNetStage]:
        return [module for module in self.unet.modules() if isinstance(module, UNetStage)]

    def about_data(self) -> str:
        return self.about

    def trained_parts(self) -> list[str]:
        groups = parameter_groups(self.unet)
        of_unet = {groups[name] for name, value in self.unet.named_parameters() if value.requires_grad}
        others = [name for name in super().trained_parts() if name != "unet"]
        return [*(f"unet's {group}" for group in sorted(of_unet)), *others]

    def _freeze(self) -> None:
        groups = parameter_groups(self.unet)
        trained = set(self.parts.groups)
        if self.options.train == "everything":
            trained |= {"temporal", "spatial", "embeddings"}
        if not self.has_context:
            trained.discard("image attention")
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(
                groups[name] in trained and not (name.endswith(".alpha") and not self.options.learn_scale)
            )
        trains = {"projector": self.has_context, "text_encoder": self.options.text_encoder}
        for name, component in self.model.named_children():
            if name != "unet":
                component.requires_grad_(trains.get(name, False))

    @torch.no_grad()
    def begin_from(self, paths: Sequence[Path]) -> None:
        """As any stage does. What the recipe leaves out is silenced, so that the model does without it too."""
        super().begin_from(paths)
        for layer in self.unet.dual_attentions():
            if not self.options.context:
                layer.to_v_ip.weight.zero_()
            if not self.options.learn_scale and layer.alpha is not None:
                layer.alpha.zero_()  # λ is 1
        if not self.options.detail:
            self.unet.conv_in.weight[:, self.config.unet.in_channels // 2 :] = 0

    # Training

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """A batch of `Items`."""
        self._note_skipped(batch["skipped"])
        drawn = Drawn.random(batch["loop"].cpu(), batch["frames"].shape[1], self.options, generator)
        single = self.single_frames or bool(torch.rand((), generator=generator) < self.options.single_frames)
        inputs = self.inputs(batch, drawn, generator, single=single)
        if self.has_context and self.options.scales:
            inputs = self._at_some_scale(inputs, drawn, generator)
        return {"loss": self._loss(inputs, generator)}

    def _note_skipped(self, of_clips: Sequence[str]) -> None:
        """Names each video that failed once, whichever worker met it."""
        for line in filter(None, "\n".join(of_clips).split("\n")):
            if line not in self.skipped:
                self.skipped.add(line)
                logger.warning("skipped %s (%d so far)", line, len(self.skipped))

    def _at_some_scale(self, inputs: Inputs, drawn: Drawn, generator: torch.Generator) -> Inputs:
        """The batch at a context scale s, told of a motion condition that usually moves s times as much as it does."""
        exponent, share = torch.rand(2, generator=generator).tolist()
        scale = 2 ** (2 * exponent - 1) if share < self.options.scales else 1.0
        self._scale_context(scale)
        slower = 1 / scale if self.config.motion.unit == "FPS" else scale  # the one falls with motion, a stride grows
        ends = drawn.ends.to(self._device)  # the motion between given frames is given too
        return replace(inputs, fs=torch.where(ends, inputs.fs, inputs.fs * slower))

    def _scale_context(self, scale: float) -> None:
        self.unet.set_context_scale([scale] * self.config.unet.dual_attention_layers)

    def _loss(self, inputs: Inputs, generator: torch.Generator) -> Tensor:
        x0 = inputs.latents
        t = torch.randint(self.config.schedule.num_timesteps, (len(x0),), generator=generator)
        if self.training and self.options.noisiest:
            noisiest = torch.rand(len(x0), generator=generator) < self.options.noisiest
            t = torch.where(noisiest, self.config.schedule.num_timesteps - 1, t)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        x_t, target = self.process.noised(x0, t, eps)
        with self._kernel():
            predicted = inputs.denoise(self.unet, x_t, t.to(x0.device))
        errors = ((predicted - target) ** 2).mean(dim=(1, 3, 4))  # (B, T)
        if not self.training:
            return errors.mean()
        given = (x0 == inputs.concat_latents).all(dim=4).all(dim=3).all(dim=1)
        weights = 1 + (self.options.given - 1) * 0.5 ** frames_to(given)
        return (errors * weights).sum() / weights.sum()

    def _kernel(self) -> AbstractContextManager[None]:
        # On a CPU the fused attention's backward pass takes longer than all the rest of a step.
        return sdpa_kernel(SDPBackend.MATH) if self._device.type == "cpu" else nullcontext()

    @property
    def _device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    def inputs(
        self, batch: dict[str, Any], drawn: Drawn, generator: torch.Generator, *, single: bool = False
    ) -> Inputs:
        """Encodes a batch. `single` keeps one frame a clip, the picture itself, for the spatial layers alone."""
        frames: Tensor = batch["frames"].to(self._device)  # (B, T, H, W, 3)
        clips, count = frames.shape[:2]
        every = torch.arange(clips)
        pictures = as_input(frames[every, drawn.condition])  # (B, 3, H, W)
        place = drawn.condition
        if single:
            frames = frames[every, place][:, None]
            drawn = replace(drawn, condition=torch.zeros_like(place))
        captions = [text if keep else "" for text, keep in zip(batch["caption"], drawn.text, strict=True)]
        tokens = tokenize(captions, self.config.clip.text.context_length).to(self._device)
        text = self.model.encode_text(tokens)
        with torch.no_grad():
            latents = self._encoded(frames, generator)
        latents[batch["loop"], :, -1] = latents[batch["loop"], :, 0]  # the same draw of the posterior
        concat = self._guidance(latents, drawn) if self.has_detail else torch.zeros_like(latents)
        if self.has_context:
            image = self.model.encode_image(pictures * drawn.image.to(pictures)[:, None, None, None])
            if single:  # the tokens of the frame that the picture is
                image = rearrange(image, "b (t m) d -> b t m d", t=count)[every, place]
        else:
            image = text.new_zeros(clips, 1, text.shape[-1])
        self.unet.set_temporal(not single)
        return Inputs(latents, text, image, concat, batch["fs"].to(self._device))

    def _encoded(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """(B, T, H, W, 3) uint8 → latents (B, C, T, h, w), one draw of the posterior."""
        pixels = as_input(rearrange(frames, "b t h w c -> (b t) h w c"))
        factor, channels = self.config.autoencoder.downsampling, self.config.autoencoder.latent_channels
        shape = (len(pixels), channels, pixels.shape[-2] // factor, pixels.shape[-1] // factor)
        noise = torch.randn(shape, generator=generator).to(pixels)
        pairs = zip(*(torch.split(part, self.frames_at_once) for part in (pixels, noise)), strict=True)
        latents = torch.cat([self.model.encode_frames(*pair) for pair in pairs])
        return rearrange(latents, "(b t) c h w -> b c t h w", b=len(frames))

    def _guidance(self, latents: Tensor, drawn: Drawn) -> Tensor:
        """Visual detail guidance (paper, sections 3.2 and 6): the picture's latent in every frame, or both ends."""
        picture = latents[torch.arange(len(latents)), :, drawn.condition][:, :, None].expand_as(latents)
        ends = torch.zeros_like(latents)
        ends[:, :, [0, -1]] = latents[:, :, [0, -1]]
        return torch.where(drawn.ends.to(latents.device)[:, None, None, None, None], ends, picture)

    def activations(self, batch: int, dtype: torch.dtype) -> int:
        """Bytes beside the weights that a batch's passes through the UNet take at most, about. Needs `plan_only`.

        That is what is kept for the backward pass, or, with `checkpointing`, what goes into each stage of the UNet and
        then all of the largest one, which is evaluated anew; and in a half type the weights' copies in it. Attention
        counts as on a GPU; the plain one that a CPU gets keeps its matrices too.
        """
        config, factor = self.config, self.config.autoencoder.downsampling
        single = self.single_frames
        frames = 1 if single else config.frames
        tokens = config.unet.image_tokens_per_frame * frames if self.has_context else 1
        size = (batch, config.autoencoder.latent_channels, frames, config.height // factor, config.width // factor)
        self.unet.to(dtype)
        self.unet.set_temporal(not single)

        def run() -> None:
            text = torch.empty(batch, config.clip.text.context_length, config.unet.context_dim)
            image = torch.empty(batch, tokens, config.unet.context_dim)
            inputs = Inputs(torch.empty(size), text, image, torch.empty(size), torch.ones(batch))
            inputs.denoise(self.unet, torch.empty(size), torch.ones(batch))

        kept, within = kept_bytes(run, self.unet_stages())
        copies = sum(value.numel() for value in self.unet.parameters()) * dtype.itemsize if dtype.itemsize == 2 else 0
        if not self.options.checkpointing:
            return kept + copies
        return kept - sum(within) + max([copies, *within])

    # Metrics

    def evaluate(self) -> dict[str, float]:
        """The loss on held-out clips, and figures of some that are sampled.

        Their first frame is the picture; where a model only interpolates, the last one is given too.
        """
        generator = torch.Generator().manual_seed(0)
        self._scale_context(float(self.has_context))
        losses = []
        for i in range(0, EVALUATION_CLIPS, self.at_once):
            batch = default_collate(self.held_out[i : i + self.at_once])
            given = Drawn.none(len(batch["frames"]), ends=self.only_ends)
            inputs = self.inputs(batch, given, generator, single=self.single_frames)
            losses.append(self._loss(inputs, generator) * len(batch["frames"]))
        shown = self.held_out[:SHOWN]
        parts = [self._sample(shown[i : i + self.at_once], generator) for i in range(0, SHOWN, self.at_once)]
        true, made = (torch.cat(frames) for frames in zip(*parts, strict=True))
        self.sampled = list(zip(true, made, strict=True))
        figures = {
            "held_out_loss": float(torch.stack(losses).sum() / EVALUATION_CLIPS),
            "psnr_first_frame": psnr(as_input(made[:, 0]), as_input(true[:, 0])),
        }
        if self.only_ends:
            figures["psnr_last_frame"] = psnr(as_input(made[:, -1]), as_input(true[:, -1]))
        if made.shape[1] > 1:
            figures["frame_difference"] = float(frame_difference(made).mean())
            figures["frame_difference_of_data"] = float(frame_difference(true).mean())
        return figures

    def _sample(self, items: list[dict[str, Any]], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """True and made frames (n, T, H, W, 3) uint8 of n held-out clips."""
        batch = default_collate(items)
        clips = len(items)
        given = Drawn.none(clips, ends=self.only_ends)
        single = self.single_frames
        inputs = self.inputs(batch, given, generator, single=single)
        nothing = replace(given, text=~given.text, image=~given.image)
        without = replace(self.inputs(batch, nothing, generator, single=single), concat_latents=inputs.concat_latents)

        def denoiser(x: Tensor, t: int) -> Tensor:
            times = torch.full((clips,), t, device=x.device)
            conditional = inputs.denoise(self.unet, x, times)
            guided = guide(without.denoise(self.unet, x, times), conditional, self.config.guidance)
            return rescale_guidance(guided, conditional, self.config.guidance_rescale)

        def noise() -> Tensor:
            return torch.randn(inputs.latents.shape, generator=generator).to(inputs.latents)

        schedule = self.config.schedule
        steps = sampling_steps(schedule, schedule.spacing, STEPS)
        for sampled in ddim(denoiser, noise(), steps, noise, prediction=schedule.prediction):
            latents = sampled.x
        frames = latents.shape[2]
        codes = torch.split(rearrange(latents, "b c t h w -> (b t) c h w"), self.frames_at_once)
        made = torch.cat([as_pixels(self.model.decode(some)).cpu() for some in codes])
        return batch["frames"][:, :frames], rearrange(made, "(b t) c h w -> b t h w c", b=clips)

    def picture(self) -> Tensor:
        """Each sampled clip below the one it should resemble."""
        rows = []
        for clips in self.sampled:
            for frames in clips:
                chosen = torch.linspace(0, len(frames) - 1, min(SEEN, len(frames))).round().long()
                rows.append(torch.cat([*frames[chosen]], dim=1))
        return torch.cat(rows, dim=0)


class Items(Dataset[dict[str, Any]]):
    """What a denoiser's stage collates: {"frames": (T, H, W, 3) uint8, "caption", "fs", "loop", "skipped"}.

    "fs" is the model's motion condition; a "loop" comes back to its first frame; "skipped" names videos that failed
    (see `Videos`).
    """

    def __init__(self, draw: Callable[..., dict[str, Any]], recipe: Recipe, length: int, *, loops: float) -> None:
        """`draw(index, loop=…)` gives {"frames", "caption", "fps", "stride"}; a share `loops` of items are loops."""
        self.draw, self.seed, self.length, self.loops = draw, recipe.seed, length, loops
        self.motion = recipe.model_config.motion

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        loop = bool(np.random.default_rng([self.seed, index, 1]).random() < self.loops)
        clip = self.draw(index, loop=loop)
        return {
            "frames": clip["frames"],
            "caption": clip["caption"],
            "fs": motion_condition(clip, self.motion),
            "loop": loop,
            "skipped": clip.get("skipped", ""),
        }
