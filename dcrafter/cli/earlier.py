"""--from: what an earlier result says of itself, as the options that make it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcrafter.config import MODELS
from dcrafter.errors import InputError
from dcrafter.settings import DTYPES, Settings

ARGUMENTS = ("images", "pictures")  # the names that commands have for their pictures


def take_over(values: dict[str, Any], flags: set[str]) -> None:
    """Puts an earlier result's settings in the place of options (by their names) that were not given as flags.

    Raises InputError where the file tells no settings, or its pictures are not to be found.
    """
    from dcrafter.media.video import read_settings

    path: Path = values["from_"]
    earlier = read_settings(path)
    if not isinstance(earlier, dict) or "seed" not in earlier:
        raise InputError(f"{path} holds no settings", "Only videos made by dcrafter, with their metadata, do")
    found = {name: value for name, value in earlier.items() if name in Settings.__dataclass_fields__}
    found["motion"] = str(found["motion"])
    scale = found["context_scale"]
    layers = scale if isinstance(scale, list) else []
    found["context_scale"] = ",".join(f"{i}:{s}" for i, s in enumerate(layers, start=1)) or str(scale)
    if earlier.get("dtype") in DTYPES:
        found["dtype"] = earlier["dtype"]
    if found["model"] not in MODELS or values["checkpoint"] is not None:
        del found["model"]
    for name, value in found.items():
        if name in values and name not in flags:
            values[name] = value
    for name in ARGUMENTS:
        if name in values and not values[name]:
            values[name] = [str(_find(path, picture)) for picture in earlier.get("images", [])]


def _find(earlier: Path, picture: str) -> Path:
    """A picture by the name that an earlier result knows it by, here or beside that result."""
    for folder in (Path(), earlier.parent):
        if (folder / picture).is_file():
            return folder / picture
    raise InputError(f"the picture {picture}, of which {earlier} was made, is not here", "Name it before --from")
