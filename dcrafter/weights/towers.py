"""CLIP's towers for checkpoints without: those of another file here, or OpenCLIP's, fetched once for all models."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dcrafter.config import MODELS, CLIPConfig
from dcrafter.errors import WeightsError
from dcrafter.text import format_size
from dcrafter.weights import cache, originals
from dcrafter.weights.cache import Progress
from dcrafter.weights.families import OPENCLIP, PUBLISHED
from dcrafter.weights.originals import DownloadOptions, Sleep
from dcrafter.weights.structure import differences

if TYPE_CHECKING:
    from dcrafter.weights.checkpoint import Checkpoint

OPENCLIPS = "openclip"  # what our cache calls OpenCLIP's file
logger = logging.getLogger(__name__)


def announcement(path: Path) -> str:
    """What is fetched where a checkpoint has no towers, and why."""
    return (
        f"{path.name} has no CLIP towers, and no other model here has them: "
        f"OpenCLIP ViT-H-14, {format_size(OPENCLIP.size)} to download ({OPENCLIP.repository}), once for all models"
    )


def is_missing(clip: CLIPConfig, options: DownloadOptions) -> bool:
    """Whether the towers of a checkpoint without would have to be downloaded. Opens no file."""
    return not options.towers and clip == CLIPConfig() and next(_places(clip, options), None) is None


def complete(
    opened: Checkpoint, options: DownloadOptions, sleep: Sleep = time.sleep
) -> Generator[Progress, None, Checkpoint]:
    """A checkpoint with its towers: as it is where it has them, else with those of another file.

    That is the file that the options name; towers in our cache; a whole checkpoint here; OpenCLIP's file.

    Raises:
        WeightsError: there are none of this size here, and none to be downloaded.
    """
    if options.towers:
        found = opened.with_towers(options.towers)
        for key, is_, wanted in differences(opened.config, found.towers.tensors if found.towers else {}):
            raise WeightsError(
                f"{options.towers} holds towers of another size: {key} is {is_}, not {wanted}",
                f"Name a file with those of {opened.config.name}",
            )
        return found
    if not opened.lacks_towers:
        return opened
    if opened.names_towers:
        raise WeightsError(
            f"the towers that {opened.path} was written with are not beside it",
            f"Run dcrafter download {opened.config.name}, or give a file that has them: --towers FILE",
        )
    for place in _places(opened.config.clip, options):
        found = opened.with_towers(place)
        logger.info("%s has no CLIP towers: those of %s are taken", opened.path.name, place.name)
        return found
    if opened.config.clip != CLIPConfig() or options.offline:
        raise WeightsError(
            f"{opened.path} has no CLIP towers, and no file on this machine has any that fit it",
            "Give a file that has them: --towers FILE",
        )
    if not opened.awaits_towers:  # else it was told
        logger.warning(announcement(opened.path))
    return opened.with_towers((yield from acquire(options, sleep)))


def acquire(options: DownloadOptions, sleep: Sleep = time.sleep) -> Generator[Progress, None, Path]:
    """Download OpenCLIP's towers and keep them, converted, in our cache; their path is the return value."""
    from dcrafter.weights.checkpoint import open_towers
    from dcrafter.weights.convert import share_towers

    options = replace(options, revision=None, variant=None)  # which are a model's
    folder = options.folder
    with cache.writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = yield from cache.lock(folder, OPENCLIPS)
    try:
        original = originals.on_this_machine(OPENCLIPS, OPENCLIP, options)
        if original is None:
            remote = originals.look_up(OPENCLIP, options, sleep)
            original = yield from originals.fetch(OPENCLIPS, OPENCLIP, remote, options, sleep)
        is_ours = original.parent == cache.downloads(folder, OPENCLIPS)
        source = {"repository": OPENCLIP.repository, "file": OPENCLIP.file, "sha256": original.resolve().stem}
        try:
            opened = open_towers(original, MODELS["512"])
        except WeightsError:
            if is_ours:
                cache.clear_downloads(folder, OPENCLIPS)  # the next run shall not meet it again
            raise
        path = cache.weights_path(folder, OPENCLIPS)
        digest = yield from share_towers(opened, path, width=options.store, source=source)
        del opened  # some systems delete no mapped file
        if is_ours:
            cache.clear_downloads(folder, OPENCLIPS, but=original if options.keep else None)
        return cache.towers_path(folder, digest)
    finally:
        cache.unlock(held)


def _places(clip: CLIPConfig, options: DownloadOptions) -> Iterator[Path]:
    """Files on this machine that hold towers of this size, those of published models first."""
    ours = sorted(cache.all_towers(options.folder), key=lambda path: not cache.source_of(path).get("repository"))
    models = [cache.weights_path(options.folder, name) for name in cache.models(options.folder)]  # once, all were whole
    yield from (path for path in (*ours, *models) if _fits(path, clip))
    for source in (OPENCLIP, *PUBLISHED.values()):
        cached = originals.in_hugging_faces_cache(source)
        if cached and source.has_towers and clip == CLIPConfig():
            yield cached


def _fits(path: Path, clip: CLIPConfig) -> bool:
    """Whether a file of ours holds towers of this size, by its header."""
    try:
        header = cache.read_header(path)[0]
    except WeightsError:
        return False
    wanted = {
        "text_encoder.token_embedding.weight": [clip.text.vocab_size, clip.text.width],
        "image_encoder.conv1.weight": [clip.vision.width, 3, clip.vision.patch_size, clip.vision.patch_size],
    }
    found = {key: header[key].get("shape") for key in wanted if isinstance(header.get(key), dict)}
    return found == wanted
