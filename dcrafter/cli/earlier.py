"""--from: what an earlier result says of itself, as the options that make it again.

The result may be a stranger's. It chooses numbers and words, never what is read or fetched: images are looked up by
their bare names, and models that are not on this machine are not downloaded, unless the user names them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, get_type_hints

from dcrafter.cli.arguments import STDIO
from dcrafter.config import MODELS, Command, ModelConfig
from dcrafter.errors import DCrafterError, InputError
from dcrafter.media.fetch import is_url, public_name
from dcrafter.settings import DTYPES, LONGEST_TEXT, Options, Settings, flag, options_of, resolve
from dcrafter.validation import build


@dataclass(frozen=True)
class LoRARecord:
    """What a result says of a LoRA file: its bare name, the SHA-256 of its content, and its scale."""

    name: str
    hash: str
    scale: float


ARGUMENTS = ("images", "inputs")  # the names that commands have for their images
MAX_IMAGES = 1000
# Types of what an earlier result says, where they differ from those of Settings.
TYPES = {
    "context_scale": float | tuple[float, ...],
    "images": tuple[str, ...],
    "checkpoint": str,
    "dtype": str,
    "lora": tuple[LoRARecord, ...],
}
FILES = {name for name, each in options_of(Settings).items() if each.given_type is Path}
LORAS = 16  # that one result may name
REQUIRED = {"command", "model", "sampler", "seed"}

logger = logging.getLogger(__name__)


def take_over(values: dict[str, Any], flags: set[str], command: Command) -> None:
    """Put an earlier result's settings in the place of options that were not given as flags.

    Where the model, the command or the sampler is another now, only what was not left to the earlier one's defaults.

    Args:
        values: Options and arguments by name, changed in place.
        flags: Names of those that are given on the command line.
        command: What is to be made now.

    Raises:
        InputError: The file holds no settings, or its images or its model are not here.
    """
    path: Path = values["from_"]
    earlier = read(path)
    found = {name: value for name, value in earlier.items() if name in Settings.__dataclass_fields__}
    model = values["model"] if "model" in flags else found["model"]
    if values["checkpoint"] is not None:
        del found["model"]
    elif "model" not in flags:
        _check_here(model, path)
    sampler = values["sampler"] if "sampler" in flags else found["sampler"]
    other = (model, command, sampler) != (earlier["model"], found["command"], found["sampler"])
    found = _without_size(found, earlier, values, model, flags)
    if other:
        found = _asked_for(found, earlier["model"], model)
    else:
        found.setdefault("final_rescale", False)  # in 0.1.0 no sampler did it
    if "frames" in flags:
        found = {name: value for name, value in found.items() if name not in ("window", "overlap")}
    found |= _as_options(found)
    if model == earlier["model"] and "lora" not in flags:
        found["lora"] = _loras(path, earlier)
    if earlier.get("dtype") in DTYPES:
        found["dtype"] = earlier["dtype"]
    found["auto_prompt"] = False  # its caption is in the prompt
    for name, value in found.items():
        if name in values and name not in flags:
            values[name] = value
    for name in FILES & values.keys() & found.keys() - flags:
        values[name] = found[name] and _find_file(path, found[name], name)
    if "images" in values and not values["images"]:
        values["images"] = [_find(path, image) for image in earlier.get("images", [])]


def _without_size(
    found: dict[str, Any], earlier: dict[str, Any], values: dict[str, Any], model: str, flags: set[str]
) -> dict[str, Any]:
    """Settings without a size that follows from a model, images or a --size that are others now."""
    named = [public_name(image) for argument in ARGUMENTS for image in values.get(argument) or ()]
    config, size = MODELS.get(earlier["model"]), found.get("size", "model")
    other = model != earlier["model"]
    if size == "as-input":
        follows = other or (bool(named) and named != earlier.get("images"))
    else:
        turned = config and {found.get("width"), found.get("height")} == {config.width, config.height}
        follows = bool(turned and (other or named))
    resized = "size" in flags and values["size"] != size
    left_out = {"width", "height"} if follows or resized else set()
    left_out |= {"fit"} if resized and size == "as-input" else set()  # it was stretched for that
    return {name: value for name, value in found.items() if name not in left_out}


def _as_options(found: dict[str, Any]) -> dict[str, Any]:
    """Settings that options say in other words."""
    words = {"motion": str(found["motion"])} if "motion" in found else {}
    scales = found.get("context_scale")
    if isinstance(scales, list):
        words["context_scale"] = ",".join(f"{i}:{s}" for i, s in enumerate(scales, start=1))
    elif scales is not None:
        words["context_scale"] = str(scales)
    return words


def read(path: Path) -> dict[str, Any]:
    """Read the settings in a video. Raises InputError if it holds none."""
    from dcrafter.media.video import read_settings

    earlier = read_settings(path)
    if earlier is None or not _is_ours(earlier):
        raise InputError(f"{path} holds no settings", "Only videos made by dcrafter, with their metadata, do")
    return earlier


def _is_ours(earlier: dict[str, Any]) -> bool:
    """True if what a file says are our settings, each of its type and of a sane length."""
    types = get_type_hints(Settings) | TYPES
    said = {name: earlier[name] for name in earlier.keys() & types}
    texts = [*said.values(), *said.get("images", ())]
    try:
        if any(isinstance(text, str | list) and len(text) > LONGEST_TEXT for text in texts):
            return False
        for name, value in said.items():
            build(types[name], value)
    except (TypeError, ValueError):
        return False
    if len(said.get("lora", ())) > LORAS:
        return False
    return said.keys() >= REQUIRED and len(said.get("images", ())) <= MAX_IMAGES


def warn_of_other_weights(path: Path, model: str, fingerprint: str) -> None:
    """Warn if a result was made with a model of the same name whose weights were others."""
    earlier = read(path)
    if earlier["model"] == model and earlier.get("checkpoint", fingerprint) != fingerprint:
        logger.warning("%s was made with other weights of the %s model; the result will differ", path, model)


def _asked_for(found: dict[str, Any], before: str, now: str) -> dict[str, Any]:
    """Settings without those that equal the defaults of the model `before`; its motion in words, or in its unit."""
    config = MODELS.get(before)
    if config is None:
        return found
    sampler = found["sampler"]
    defaults = resolve(config, found["command"], "", 0, Options(sampler=sampler)).to_dict() | {
        "sampler": config.sampler
    }
    kept = {
        name: value
        for name, value in found.items()
        if name not in Options.__annotations__ or value != defaults.get(name)
    }
    if "motion" in kept and now != before:
        word = _word(config, kept["motion"])
        if word or MODELS.get(now, config).motion.unit == config.motion.unit:
            kept["motion"] = word or kept["motion"]
        else:
            del kept["motion"]
    return kept


def _word(config: ModelConfig, motion: int) -> str | None:
    words = {getattr(config.motion, word): word for word in ("low", "medium", "high")}
    return words.get(motion)


def _check_here(model: str, earlier: Path) -> None:
    """Raises InputError unless a model is on this machine."""
    from dcrafter.weights import hub

    try:
        here = hub.find(model) is not None
    except DCrafterError:  # no model can have that name
        here = False
    if not here:
        fetch = f"Fetch it with dcrafter download {model}, or name" if model in MODELS else "Name"
        problem = f"the model {model}, with which {earlier} was made, is not on this machine"
        raise InputError(problem, f"{fetch} another with -m")


def _find(earlier: Path, image: str) -> str:
    """An image by the bare name that an earlier result knows it by, beside that result or in the current folder."""
    if is_url(image):
        raise InputError(f"{earlier} was made of {image}, which is not fetched unasked", "Name it before --from")
    if image == STDIO:
        raise InputError(f"an image from stdin, of which {earlier} was made, is not here", "Name it before --from")
    for path in _beside(earlier, image):
        return str(path)
    raise InputError(f"the image {image}, of which {earlier} was made, is not here", "Name it before --from")


def _find_file(earlier: Path, name: str, option: str) -> Path:
    """A file of an option. Raises InputError if it is not here."""
    for path in _beside(earlier, name):
        return path
    raise InputError(f"the file {name}, with which {earlier} was made, is not here", f"Give it with {flag(option)}")


def _beside(earlier: Path, name: str) -> Iterator[Path]:
    """The files of a bare name beside an earlier result and in the current folder."""
    if name not in ("", ".", "..") and PurePosixPath(name).name == name == PureWindowsPath(name).name:
        yield from (folder / name for folder in (earlier.parent, Path()) if os.path.exists(folder / name))


def _loras(earlier: Path, settings: dict[str, Any]) -> list[str]:
    """The LoRA files of an earlier result as --lora has them: of their bare names, and of the same content."""
    found: list[str] = []
    if not settings.get("lora"):
        return found
    for each in settings["lora"]:
        path = next((path for path in _beside(earlier, each["name"]) if _has_hash(path, each["hash"])), None)
        if path is None:
            problem = f"the LoRA {each['name']}, with which {earlier} was made, is not here"
            raise InputError(problem, "Put it beside the video, or name it with --lora")
        found.append(f"{path}:{each['scale']}")
    return found


def _has_hash(path: Path, expected: str) -> bool:
    from dcrafter.weights.lora import digest, lora_file

    try:
        return lora_file(path).is_file() and digest(path) == expected  # a pipe would be waited for
    except OSError:
        return False
