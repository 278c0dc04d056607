"""What each model is made of, and the registry of the models this package knows. Imports no torch.

The numbers of 256, 512, 1024 and 512-interp are those of the published checkpoints (Xing et al., ECCV 2024,
arXiv 2310.12190, and their released configurations), as are those of ToonCrafter, `toon` (Xing et al., 2024,
arXiv 2405.17933); `tiny` is this package's own small model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from dcrafter.limits import check_consistent, check_ranges
from dcrafter.validation import build

Prediction = Literal["eps", "v"]
Spacing = Literal["uniform", "uniform_trailing"]
Command = Literal["animate", "interpolate", "loop"]


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser. `attention_resolutions` are downsampling factors (1 = full latent size)."""

    in_channels: int = 8  # the noisy latent, then the image latent
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2  # a level, in the encoder half; the decoder half has one more
    attention_resolutions: tuple[int, ...] = (1, 2, 4)
    head_channels: int = 64
    init_attn_heads: int = 8  # of the temporal transformer behind the first convolution
    transformer_depth: int = 1
    context_dim: int = 1024
    image_tokens_per_frame: int = 16
    learnable_image_scale: bool = False  # a tanh-gated λ per layer (256 only)
    norm_groups: int = 32
    time_channels: int = 0  # of the sinusoidal embeddings; 0: `model_channels`

    @property
    def embedding_channels(self) -> int:
        return self.time_channels or self.model_channels

    @property
    def downsampling(self) -> int:
        """Latent heights and widths must be divisible by this."""
        return int(2 ** (len(self.channel_mult) - 1))

    @property
    def dual_attention_layers(self) -> int:
        """How many layers see text and image (16 in the published models): down, middle, up."""
        levels = sum(2**level in self.attention_resolutions for level in range(len(self.channel_mult)))
        return (levels * (2 * self.num_res_blocks + 1) + 1) * self.transformer_depth


@dataclass(frozen=True)
class ReferenceConfig:
    """How ToonCrafter's decoder (arXiv 2405.17933) sees images: other levels than those of attention add them."""

    attention_levels: tuple[int, ...] = (2, 3)
    heads: int = 8
    head_channels: int = 64


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder. `fold` pixels a side go into channels first (1: none).

    Frames are encoded and decoded one by one, or with `references` decoded together, beside a first and a last image.
    """

    latent_channels: int = 4
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    decoder_channels: int = 128
    decoder_res_blocks: int = 3
    fold: int = 1
    scale: float = 0.18215  # latents are multiplied by this, to be of about unit variance
    norm_groups: int = 32
    references: ReferenceConfig | None = None

    @property
    def downsampling(self) -> int:
        """Pixels per latent, each way."""
        return int(self.fold * 2 ** (len(self.channel_mult) - 1))


@dataclass(frozen=True)
class VisionConfig:
    """The image tower, in open_clip's terms (ViT-H-14 by default)."""

    image_size: int = 224
    layers: int = 32
    width: int = 1280
    head_width: int = 80
    patch_size: int = 14
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class TextConfig:
    """The text tower, in open_clip's terms (ViT-H-14 by default)."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 1024
    heads: int = 16
    layers: int = 24
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class CLIPConfig:
    embed_dim: int = 1024
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()


@dataclass(frozen=True)
class QueryTransformerConfig:
    """The projector from CLIP's image tokens to the text-aligned image context (paper, section 3.2)."""

    embedding_dim: int = 1280
    dim: int = 1024
    depth: int = 4
    heads: int = 12
    head_channels: int = 64
    ff_mult: int = 4
    queries_per_frame: int = 16
    frames: int = 16
    output_dim: int = 1024
    tokens: Literal["all", "class"] = "all"  # of CLIP's: "class" is the global one alone, as in the paper's table 4


@dataclass(frozen=True)
class ScheduleConfig:
    """The diffusion process. `rescale_base` 1 means no dynamic rescale."""

    num_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: Prediction = "v"
    zero_terminal_snr: bool = True
    rescale_base: float = 0.7
    rescale_steps: int = 400  # over which the dynamic rescale falls from 1 to its base
    spacing: Spacing = "uniform_trailing"


@dataclass(frozen=True)
class Motion:
    """The motion condition `fs`. Its raw number means frame stride (256) or frames a second (the others).

    The range and the default are those of the published demos; low, medium and high are our choice within it.
    """

    unit: Literal["frame stride", "FPS"]
    minimum: int
    maximum: int
    default: int
    low: int
    medium: int
    high: int


@dataclass(frozen=True)
class ModelConfig:
    """A model whole: its parts, its process, and how it is meant to be used.

    `height` and `width` are pixels, `frames` the number of frames it was trained to sample at once. The sampler, its
    steps, eta and final rescale (None: as `SAMPLERS` has it) and the guidance's numbers are what is taken where nobody
    asks for others; eta and final rescale are that sampler's alone. A model that `keeps_ends` interpolates from one
    picture's latent to the other's themselves, and joins a loop where its first and its last estimate of the one
    picture meet, their mean; others keep their own estimates of all frames, as published.
    """

    name: str
    height: int
    width: int
    motion: Motion
    commands: tuple[Command, ...] = ("animate",)
    frames: int = 16
    sampler: str = "ddim"
    steps: int = 50
    eta: float | None = None
    final_rescale: bool | None = None
    guidance: float = 7.5
    guidance_rescale: float = 0.7
    unet: UNetConfig = UNetConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    clip: CLIPConfig = CLIPConfig()
    projector: QueryTransformerConfig = QueryTransformerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    keeps_ends: bool = False
    output_scale: int = 1  # pixels of a decoded frame per pixel of the input, each way
    repository: str | None = None  # where the hub has its weights

    def __post_init__(self) -> None:
        """Raises ValueError for sizes out of range, and where parts that meet have different ones."""
        check_ranges(self)
        check_consistent(self)
        if unknown := set(self.commands) - set(get_args(Command)):
            raise ValueError(f"commands: there is no {', '.join(sorted(map(str, unknown)))}")
        meeting = {
            "latent channels": (2 * self.autoencoder.latent_channels, self.unet.in_channels),
            "predicted channels": (self.autoencoder.latent_channels, self.unet.out_channels),
            "text context": (self.clip.text.width, self.unet.context_dim),
            "image context": (self.projector.output_dim, self.unet.context_dim),
            "image tokens": (self.clip.vision.width, self.projector.embedding_dim),
        }
        for what, (given, taken) in meeting.items():
            if given != taken:
                raise ValueError(f"{what}: {given} are given where {taken} are taken")

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the frames decoded from an input of this size."""
        return width * self.output_scale, height * self.output_scale

    @property
    def takes_sketches(self) -> bool:
        """Whether there is a sketch encoder for it: ToonCrafter's, whose UNet it was trained with."""
        return self.autoencoder.references is not None

    @property
    def size_multiple(self) -> int:
        """Pixel heights and widths must be divisible by this."""
        return self.autoencoder.downsampling * self.unet.downsampling

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, as a checkpoint's header holds them."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ModelConfig:
        """The reverse of `to_dict`. Raises TypeError, ValueError: see `validation.build`."""
        return build(ModelConfig, values)


_512 = ModelConfig(
    name="512",
    height=320,
    width=512,
    motion=Motion("FPS", 15, 30, default=24, low=30, medium=24, high=15),
    repository="Doubiiu/DynamiCrafter_512",
)

_1024 = replace(
    _512,
    name="1024",
    height=576,
    width=1024,
    motion=Motion("FPS", 5, 15, default=10, low=15, medium=10, high=5),
    schedule=ScheduleConfig(rescale_base=0.3),
    repository="Doubiiu/DynamiCrafter_1024",
)

MODELS: dict[str, ModelConfig] = {
    "256": ModelConfig(
        name="256",
        height=256,
        width=256,
        motion=Motion("frame stride", 1, 6, default=3, low=1, medium=3, high=6),
        guidance_rescale=0.0,
        unet=UNetConfig(learnable_image_scale=True),
        schedule=ScheduleConfig(prediction="eps", zero_terminal_snr=False, rescale_base=1.0, spacing="uniform"),
        repository="Doubiiu/DynamiCrafter",
    ),
    "512": _512,
    "1024": _1024,
    "512-interp": replace(
        _512,
        name="512-interp",
        motion=Motion("FPS", 5, 30, default=5, low=24, medium=12, high=5),
        commands=("interpolate", "loop"),
        repository="Doubiiu/DynamiCrafter_512_Interp",
    ),
    # Tuned against conditional image leakage, for more motion (arXiv 2406.15735).
    "cil-512": replace(_512, name="cil-512", repository="Kijai/DynamiCrafter_pruned"),
    "cil-1024": replace(_1024, name="cil-1024", repository="Kijai/DynamiCrafter_pruned"),
    "toon": replace(
        _512,
        name="toon",
        motion=Motion("FPS", 5, 30, default=10, low=24, medium=12, high=5),
        commands=("interpolate", "loop"),
        autoencoder=AutoencoderConfig(references=ReferenceConfig()),
        repository="Doubiiu/ToonCrafter",
    ),
    "tiny": ModelConfig(
        name="tiny",
        height=128,
        width=128,
        motion=Motion("FPS", 6, 24, default=11, low=20, medium=11, high=6),
        commands=("animate", "interpolate", "loop"),
        sampler="ddim",  # which it was distilled to: see the recipe tiny-few-steps
        steps=6,
        eta=0.0,
        final_rescale=True,
        guidance=1.0,
        keeps_ends=True,
        output_scale=2,
        unet=UNetConfig(
            in_channels=64,
            out_channels=32,
            model_channels=128,
            channel_mult=(1, 1),
            num_res_blocks=1,
            attention_resolutions=(1, 2),
            head_channels=32,
            init_attn_heads=4,
            context_dim=96,
            learnable_image_scale=True,
        ),
        autoencoder=AutoencoderConfig(
            latent_channels=32,
            channels=64,
            channel_mult=(1, 1, 2),
            num_res_blocks=1,
            decoder_channels=96,
            decoder_res_blocks=2,
            fold=4,
            scale=0.76,
        ),
        clip=CLIPConfig(
            embed_dim=96,
            vision=VisionConfig(image_size=128, layers=4, width=128, head_width=32, patch_size=16),
            text=TextConfig(context_length=32, width=96, heads=3, layers=4),
        ),
        projector=QueryTransformerConfig(embedding_dim=128, dim=96, depth=2, heads=3, head_channels=32, output_dim=96),
    ),
}
