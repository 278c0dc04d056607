"""--from: what an earlier result says of itself, as the options that make it again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, get_type_hints

from dcrafter.cli.arguments import STDIO
from dcrafter.config import MODELS, Command, ModelConfig
from dcrafter.errors import InputError
from dcrafter.media.fetch import is_url
from dcrafter.settings import DTYPES, Options, Settings, resolve
from dcrafter.validation import build

ARGUMENTS = ("images", "inputs")  # the names that commands have for their pictures

logger = logging.getLogger(__name__)


def take_over(values: dict[str, Any], flags: set[str], command: Command) -> None:
    """Puts an earlier result's settings in the place of options (by their names) that were not given as flags.

    Where the model, the command or the sampler is another now, only what was not left to the earlier one's defaults.

    Raises InputError where the file tells no settings, or its pictures or weights are not to be found.
    """
    path: Path = values["from_"]
    earlier = read(path)
    found = {name: value for name, value in earlier.items() if name in Settings.__dataclass_fields__}
    if values["checkpoint"] is not None:
        model = values["model"] if "model" in flags else found["model"]
        del found["model"]
    elif "model" in flags:
        model = values["model"]
    else:
        model = found["model"]
        if not _is_here(model):
            raise InputError(f"the model {model}, with which {path} was made, is not here", "Name another one with -m")
    sampler = values["sampler"] if "sampler" in flags else found["sampler"]
    other = (model, command, sampler) != (earlier["model"], found["command"], found["sampler"])
    if other or any(values.get(name) for name in ARGUMENTS):
        config = MODELS.get(earlier["model"])
        if config and {found.get("width"), found.get("height")} == {config.width, config.height}:  # perhaps turned
            del found["width"], found["height"]  # as pictures lie
    if other:
        found = _asked_for(found, earlier["model"], model)
    if "motion" in found:
        found["motion"] = str(found["motion"])
    if isinstance(layers := found.get("context_scale"), list):
        found["context_scale"] = ",".join(f"{i}:{s}" for i, s in enumerate(layers, start=1))
    elif layers is not None:
        found["context_scale"] = str(layers)
    if earlier.get("dtype") in DTYPES:
        found["dtype"] = earlier["dtype"]
    found["auto_prompt"] = False  # its caption is in the prompt
    for name, value in found.items():
        if name in values and name not in flags:
            values[name] = value
    if "images" in values and not values["images"]:
        values["images"] = [_find(path, picture) for picture in earlier.get("images", [])]


def read(path: Path) -> dict[str, Any]:
    """What a video of ours says of itself. Raises InputError where it says nothing."""
    from dcrafter.media.video import read_settings

    earlier = read_settings(path)
    if earlier is None or not _is_ours(earlier):
        raise InputError(f"{path} holds no settings", "Only videos made by dcrafter, with their metadata, do")
    return earlier


def _is_ours(earlier: dict[str, Any]) -> bool:
    """True if what a file says are our settings, each of its type."""
    types = get_type_hints(Settings)
    types |= {"context_scale": float | tuple[float, ...], "images": tuple[str, ...], "checkpoint": str, "dtype": str}
    try:
        for name in earlier.keys() & types:
            build(types[name], earlier[name])
    except (TypeError, ValueError):
        return False
    return earlier.keys() >= {"command", "model", "sampler", "seed"}


def warn_of_other_weights(path: Path, model: str, fingerprint: str) -> None:
    """Says so if a result was made with a model of the same name whose weights were others."""
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


def _is_here(model: str) -> bool:
    if model in MODELS:
        return True
    from dcrafter.weights.cache import cache_dir, weights_path

    return weights_path(cache_dir(), model).is_file()


def _find(earlier: Path, picture: str) -> str:
    """A picture by the name that an earlier result knows it by, beside that result or here."""
    if is_url(picture):
        return picture
    for folder in (earlier.parent, Path()):
        if picture != STDIO and (folder / picture).is_file():
            return str(folder / picture)
    what = "a picture from stdin" if picture == STDIO else f"the picture {picture}"
    raise InputError(f"{what}, of which {earlier} was made, is not here", "Name it before --from")
