"""What weights know of each model, in one place: its files on the hub, its parts, and what its keys are called.

To add a model, give `config.MODELS` what it is made of and this table where its files are; how its keys become ours
is a rule in `keys`, where it has any of its own. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dcrafter.config import MODELS, Command


@dataclass(frozen=True)
class HubFile:
    """A file on the hub.

    Attributes:
        repository: "owner/name".
        file: its name when this table was written.
        size: in bytes.
        itemsize: bytes that a number takes in it.
        pattern: a regular expression of names that it may have been given since.
        sha256: its digest when this table was written, where that is known.
        has_towers: whether CLIP's towers are in it.
    """

    repository: str
    file: str
    size: int
    itemsize: int
    pattern: str = ""
    sha256: str | None = None
    has_towers: bool = True


@dataclass(frozen=True)
class Family:
    """A model's checkpoints.

    Attributes:
        files: on the hub, by variant; "" is the published original.
        components: what a whole checkpoint holds, by our names.
        marks: a regular expression of the published keys that only this family's checkpoints have.
        renamed: stretches of published keys that this family calls otherwise than `keys.RULES`.
        is_advised: the one to download first, among those that do a command.
        tuned: the model that this one has the keys and the schedule of: only a file's name tells it from that.
    """

    files: Mapping[str, HubFile] = field(default_factory=dict)
    components: tuple[str, ...] = ("unet", "autoencoder", "text_encoder", "image_encoder", "projector")
    marks: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    is_advised: bool = False
    tuned: str = ""


# Digests and sizes are those that the repositories' pages and commits gave in 2024 and 2025; the file of 512 was seen
# in two copies that name it as their source, that of 512-interp nowhere. The reduced files have the published keys,
# tables of the schedule included, all in float16: their sizes are those of such files to the byte.


def _published(repository: str, sha256: str | None = None) -> HubFile:
    return HubFile(repository, "model.ckpt", 10_437_548_346, 4, r"model.*\.(ckpt|safetensors)", sha256)


def _reduced(file: str, pattern: str, sha256: str) -> HubFile:
    """A copy without CLIP's towers, in float16."""
    pattern = rf"dynamicrafter[-_]{pattern}.*\.safetensors"
    return HubFile("Kijai/DynamiCrafter_pruned", file, 3_142_870_350, 2, pattern, sha256, has_towers=False)


# Whose image tower and text tower all published models have. Which of its names the file has now was not to be seen:
# the first is what open_clip 3.3 looks for, the second what links of 2024 lead to.
OPENCLIP = HubFile(
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "open_clip_model.safetensors",
    3_944_517_836,
    4,
    r"open_clip(_pytorch)?_model\.(safetensors|bin)",
)


# In the order in which `auto` takes them.
FAMILIES = {
    "1024": Family(
        {
            "": _published(
                "Doubiiu/DynamiCrafter_1024", "97181be1431cc1c08fe31f8d0385a43c2beb1c7f36d25d2df301636f0c4f20f2"
            ),
            "fp16": _reduced(
                "dynamicrafter_1024_fp16_pruned.safetensors",
                "1024",
                "8f2c62b7da8b613ba158a201527cdf4646a520a4cbf7e0647796d55de9a20830",
            ),
        },
    ),
    "512": Family(
        {
            "": _published(
                "Doubiiu/DynamiCrafter_512", "87b5eb1981ffa96110369dfc358c5a9e90b8ee18b24d711badab4e58baeaba97"
            ),
            "fp16": _reduced(
                "dynamicrafter_512_fp16_pruned.safetensors",
                "512(?!.*interp)",
                "abe38e28a9521c2f38e8d08fad5d44643c2fec932288dc7088c0a24b9ce5289b",
            ),
        },
        is_advised=True,
    ),
    # Tuned against conditional image leakage (arXiv 2406.15735); the authors' own 512 (GraceZhao/DynamiCrafter-CIL-512)
    # is of watermarked video.
    "cil-1024": Family(
        {
            "": _reduced(
                "dynamicrafter-CIL-1024-no-watermark-pruned-fp16.safetensors",
                "CIL.*1024",
                "2f77af7a23d706ab62a0ccecacda3fb1dd947da7fdbffaed654163db1f2d9706",
            )
        },
        tuned="1024",
    ),
    "cil-512": Family(
        {
            "": _reduced(
                "dynamicrafter-CIL-512-no-watermark-fixed-pruned-fp16.safetensors",
                "CIL.*512",
                "dc1bc18ae3c37408014c25e6479fd45ef677f575266d60f3d41bcdf822f03697",
            )
        },
        tuned="512",
    ),
    "512-interp": Family(
        {
            "": _published("Doubiiu/DynamiCrafter_512_Interp"),
            "fp16": _reduced(
                "dynamicrafter_512_interp_fp16_pruned.safetensors",
                "512.*interp",
                "c6f50c98f1ec3b97ecfb347e2378e721cf796ebc866692631435070510e09b3d",
            ),
        },
        is_advised=True,
    ),
    "toon": Family(
        {
            "": HubFile(
                "Doubiiu/ToonCrafter",
                "model.ckpt",
                10_500_000_000,
                4,
                r"model.*\.(ckpt|safetensors)",
                "e4df5aecd9919af2f41a92912bb6391e03531b269785a7448d87e964462edf53",
            ),
            "fp16": HubFile(
                "Kijai/DynamiCrafter_pruned",
                "tooncrafter_512_interp-pruned-fp16.safetensors",
                3_175_466_358,
                2,
                r"tooncrafter.*\.safetensors",
                "7a60eefa72b85b98400fe12c6cc66ea1af84d51b8bd4472cc7764dce499f8891",
                has_towers=False,
            ),
        },
        marks=r"first_stage_model\.decoder\.attn_refinement\..*",
    ),
    "256": Family(
        {"": _published("Doubiiu/DynamiCrafter", "328d23963f1fe5af1324793117dfa80c8f5d3d31a2a7d5a6089a1c8aa72fb2da")},
        marks=r".*(\.attn2\.alpha|\.framestride_embed\..*)",
        renamed={".fps_embedding.": ".framestride_embed."},
    ),
    "tiny": Family(),  # comes with the package
}


@dataclass(frozen=True)
class Descendant:
    """Models that grew out of published ones, with the same keys, shapes and tables, and take other inputs.

    Nothing within their files tells them: names and digests do, where there are any.
    """

    name: str
    pattern: str  # a regular expression within the path of a file
    sha256: tuple[str, ...]
    inputs: str


DESCENDANTS = [
    Descendant(
        "ViewCrafter",  # arXiv 2409.02048; its files are all called model.ckpt or model_sparse.ckpt
        r"view[-_ ]?crafter",
        (
            "5676e29d8f9d5b6c9bebdaaf6c2fa048c79fd31486937adfb10cc58c918ce422",  # Drexubery/ViewCrafter_25
            "d6f46e70d0297e510352d899a280dd7d805261dd6fdd5305306dec2149a76753",  # Drexubery/ViewCrafter_16
        ),
        "16 or 25 renderings of a point cloud in the place of an image",
    )
]


def family(model: str) -> Family:
    """A registry model's; of an imported one, what all have in common."""
    return FAMILIES.get(model, Family())


PUBLISHED = {name: family(name).files[""] for name in MODELS if "" in family(name).files}
VARIANTS = {(name, variant): file for name in PUBLISHED for variant, file in FAMILIES[name].files.items() if variant}


def able(command: Command) -> list[str]:
    """The models that do a command, the best first."""
    return [name for name in FAMILIES if command in MODELS[name].commands]


def advised(command: Command) -> str:
    """The model to download for a command."""
    return next(name for name in able(command) if FAMILIES[name].is_advised)


def recognize(keys: Iterable[str], rescale_base: float | None, tolerance: float) -> list[str]:
    """The published models that a checkpoint with these keys may hold. Each stands for those `tuned` from it, too.

    Args:
        keys: published ones.
        rescale_base: what the checkpoint's dynamic rescale falls to, where it says so.
        tolerance: how far that may be from the configured one.
    """
    keys = list(keys)
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        return []
    marked = [name for name in PUBLISHED if FAMILIES[name].marks and _any(FAMILIES[name].marks, keys)]
    if marked:
        return marked
    return [
        name
        for name in PUBLISHED
        if not (FAMILIES[name].marks or FAMILIES[name].tuned)
        and (rescale_base is None or abs(MODELS[name].schedule.rescale_base - rescale_base) < tolerance)
    ]


def named(file: str, models: Iterable[str]) -> str | None:
    """The model that a file's name speaks of, of several the one with the longest name."""
    found = [name for name in models if re.search(rf"(?<!\d){name.replace('-', '.*')}(?!\d)", file, re.IGNORECASE)]
    return max(found, key=len, default=None)


def descendant(path: Path, sha256: str | None = None) -> Descendant | None:
    """The descendant of a published model that a file is, as far as its path and digest tell."""
    for each in DESCENDANTS:
        if sha256 in each.sha256 or re.search(each.pattern, str(path), re.IGNORECASE):
            return each
    return None


def closest(prediction: str, rescale_base: float, command: Command, *, has_references: bool = False) -> str:
    """The published model that one of this schedule is most like: of the same prediction, and with the command.

    Only models whose decoder takes references are like one whose decoder does.
    """
    alike = [
        name
        for name in PUBLISHED
        if MODELS[name].schedule.prediction == prediction
        and not FAMILIES[name].tuned
        and (MODELS[name].autoencoder.references is not None) == has_references
    ]
    doing = [name for name in alike if command in MODELS[name].commands] or alike
    return min(doing, key=lambda name: abs(MODELS[name].schedule.rescale_base - rescale_base))


def _any(pattern: str, keys: list[str]) -> bool:
    return any(map(re.compile(pattern).fullmatch, keys))
