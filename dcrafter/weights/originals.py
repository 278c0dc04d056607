"""Published files: named as the hub has them now, found on this machine, or downloaded into our cache."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dcrafter.weights import cache
from dcrafter.weights.cache import Progress, cache_dir
from dcrafter.weights.families import HubFile

if TYPE_CHECKING:
    from dcrafter.weights.download import Remote

ITEMSIZES = {None: 2, "float16": 2, "bfloat16": 2, "float32": 4}  # by `DownloadOptions.store`
Sleep = Callable[[float], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DownloadOptions:
    """How to download a model and where to keep it.

    A model already on this machine is taken as it is, unless `variant`, `store` or `revision` ask for another.

    Attributes:
        variant: a smaller copy of the published file (see `VARIANTS`).
        store: the type to convert weights to. None: float16, or the original's type where that is as small.
        keep: keep the downloaded original beside the converted file.
        endpoint: a mirror of the hub. None: $HF_ENDPOINT, or the hub itself.
        towers: a file with CLIP's towers, for one without.
    """

    folder: Path = field(default_factory=cache_dir)
    variant: str | None = None
    store: str | None = None
    keep: bool = False
    revision: str | None = None
    endpoint: str | None = None
    offline: bool = False
    towers: Path | None = None


def in_hugging_faces_cache(source: HubFile) -> Path | None:
    """A published file in Hugging Face's cache."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source.repository, source.file)
    return Path(cached) if isinstance(cached, str) else None


def on_this_machine(name: str, source: HubFile, options: DownloadOptions) -> Path | None:
    """A published file, whole: left in our cache by an earlier run under `name`, or in Hugging Face's."""
    if options.revision:
        return None
    kept = cache.originals(options.folder, name)
    left = next((file for file in kept if file.suffix == Path(source.file).suffix and not file.is_symlink()), None)
    return left or in_hugging_faces_cache(source)


def look_up(source: HubFile, options: DownloadOptions, sleep: Sleep = time.sleep) -> Remote:
    """Ask the hub about a file, by the name that it has there now.

    Where the hub gives no SHA-256, it is the known one; another than that is told. Raises WeightsError where there is
    no such file, and says what the repository has instead.
    """
    from dcrafter.weights import download

    remote = download.look_up(
        source.repository,
        source.file,
        pattern=source.pattern,
        revision=options.revision,
        endpoint=options.endpoint,
        sleep=sleep,
    )
    if remote.file != source.file:
        logger.warning("%s is called %s now", source.file, remote.file)
    elif source.sha256 is None or options.revision:
        return remote
    elif remote.sha256 is None:  # mirrors may give none
        return replace(remote, sha256=source.sha256)
    elif remote.sha256 != source.sha256:
        logger.warning("%s of %s has changed since this version of dcrafter", source.file, source.repository)
    return remote


def fetch(
    name: str, source: HubFile, remote: Remote, options: DownloadOptions, sleep: Sleep
) -> Generator[Progress, None, Path]:
    """Download a published file into our cache, as that of `name`."""
    from dcrafter.weights import download

    place = cache.downloads(options.folder, name)
    whole = place / f"{remote.key}{Path(remote.file).suffix}"
    part = whole.with_suffix(".part")
    with cache.writing_to(options.folder):
        if place.is_symlink():
            place.unlink()
        place.mkdir(parents=True, exist_ok=True)
        for other in cache.originals(options.folder, name):
            if other not in (part, whole) or other.is_symlink():
                other.unlink()  # of another version, or not ours
        if whole.exists():
            return whole
        missing = remote.size - (part.stat().st_size if part.exists() else 0)
        cache.check_space(options.folder, missing, remote.size * ITEMSIZES[options.store] // source.itemsize)
    yield from download.download(remote, part, sleep=sleep)
    with cache.writing_to(options.folder):
        part.replace(whole)
    return whole
