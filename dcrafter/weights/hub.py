"""Models by name: finds their weights on this machine, downloads, converts, imports and verifies them."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.config import MODELS, Command, ModelConfig
from dcrafter.errors import UsageError, WeightsError
from dcrafter.generators import drain
from dcrafter.text import format_size
from dcrafter.weights import cache, families, originals, towers
from dcrafter.weights.cache import Progress, cache_dir, weights_path
from dcrafter.weights.families import OPENCLIP, PUBLISHED, VARIANTS, HubFile
from dcrafter.weights.originals import ITEMSIZES
from dcrafter.weights.originals import DownloadOptions as DownloadOptions

if TYPE_CHECKING:
    from dcrafter.weights.checkpoint import Checkpoint

EMBEDDED = Path(__file__).with_name("tiny.safetensors")  # comes with the package
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What `acquire` would do: fetch `size` bytes (0: it is here) from `url` for `path`.

    `towers` of them are CLIP's towers, from OpenCLIP's repository. `space` bytes of the `free` ones are needed.
    """

    path: Path
    url: str
    size: int
    space: int
    free: int
    towers: int = 0


@dataclass(frozen=True)
class Entry:
    """A model's file on this machine. `source` is known of files that `acquire` or `import_checkpoint` made."""

    model: str
    path: Path
    place: str  # package, cache, or Hugging Face's cache
    size: int
    used: float  # seconds since 1970
    source: Mapping[str, Any]


# --- what is here ---


def find(model: str, folder: Path | None = None) -> Path | None:
    """The weights of a model on this machine: in the package, in our cache, or in Hugging Face's."""
    if model == "tiny":
        return EMBEDDED if EMBEDDED.is_file() else None
    ours = weights_path(folder or cache_dir(), model)
    if cache.is_usable(ours):
        return ours
    return _in_hugging_faces_cache(model)


def entries(folder: Path | None = None) -> list[Entry]:
    """Every model on this machine: those of the registry, then imported ones."""
    folder = folder or cache_dir()
    mine = [name for name in cache.models(folder) if name not in MODELS]
    found = []
    for model in (*MODELS, *mine):
        if path := find(model, folder):
            place = "package" if path == EMBEDDED else "cache" if path.parent == folder else "Hugging Face's cache"
            status = path.stat()  # follows links
            source = cache.source_of(path) if place == "cache" else {}
            found.append(Entry(model, path, place, status.st_size, status.st_atime, source))
    return found


def choose(model: str, command: Command) -> str:
    """The name of the model that `model` stands for: itself, or for `auto` the best that is here.

    Raises UsageError for an unknown model and for one that does not do the command, WeightsError where `auto` finds
    nothing.
    """
    able = families.able(command)
    if model == "auto":
        for name in able:
            if find(name):
                return name
        name = families.advised(command)
        size = format_size(PUBLISHED[name].size)
        raise WeightsError(
            f"no model for {command} is on this machine",
            f"Give --checkpoint FILE, or fetch one with dcrafter download {name} ({size})",
        )
    if command not in config(model).commands:
        raise UsageError(f"the model {model} does not {command}", f"Use {' or '.join(able)}")
    return model


def config(model: str) -> ModelConfig:
    """What a model is made of: one of the registry, or an imported one. Raises UsageError for any other name."""
    if model in MODELS:
        return MODELS[model]
    path = weights_path(cache_dir(), model)
    if not path.is_file():
        raise UsageError(
            f"there is no model {model}",
            f"Choose among {', '.join(MODELS)}, or take in your own: dcrafter download --import FILE --name {model}",
        )
    try:
        return ModelConfig.from_dict(json.loads(cache.read_header(path)[0]["__metadata__"][cache.HEADER]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} was not written by this version of dcrafter", "Import it again") from error


def _in_hugging_faces_cache(model: str) -> Path | None:
    return originals.in_hugging_faces_cache(PUBLISHED[model]) if model in PUBLISHED else None


# --- what is not ---


def fetch(model: str, *, offline: bool = False) -> Path:
    """The weights of a model, downloaded and converted if they are not on this machine.

    Raises WeightsError where they are not and cannot be had.
    """
    if find(model) is None and not offline and model in PUBLISHED:
        logger.warning(announcement(model))
    return drain(acquire(model, DownloadOptions(offline=offline)))


def with_towers(opened: Checkpoint, options: DownloadOptions | None = None, *, plan_only: bool = False) -> Checkpoint:
    """A checkpoint with CLIP's towers, downloaded if no file on this machine has them.

    Args:
        opened: the checkpoint; it is returned as it is where it has its towers.
        options: where towers may come from.
        plan_only: download nothing: what would be is only told, and the checkpoint `awaits_towers`.

    Raises:
        WeightsError: there are none of this size, or they cannot be had.
    """
    options = options or DownloadOptions()
    if plan_only and opened.lacks_towers and not options.offline and towers.is_missing(opened.config.clip, options):
        logger.warning(towers.announcement(opened.path))
        return replace(opened, awaits_towers=True)
    return drain(towers.complete(opened, options))


def announcement(model: str) -> str:
    """The line that announces an automatic download."""
    source = PUBLISHED[model]
    too = ""
    if not source.has_towers and towers.is_missing(config(model).clip, DownloadOptions()):
        too = f" and {format_size(OPENCLIP.size)} of CLIP towers for all models ({OPENCLIP.repository})"
    return (
        f"the model {model} is not on this machine yet: {format_size(source.size)} to download "
        f"({source.repository}){too} to {cache_dir()}"
    )


def acquire(
    model: str, options: DownloadOptions | None = None, sleep: Callable[[float], None] = time.sleep
) -> Generator[Progress, None, Path]:
    """Fetch and convert a model's weights unless they are here; their path is the generator's return value.

    Interrupted at whatever point, it goes on from there when called again. Several processes share one download.

    Raises:
        UsageError: there is no such model or variant.
        WeightsError: the weights cannot be had, or not be written, or are not what they should be.
    """
    options = options or DownloadOptions()
    if path := _here(model, options):
        if _needs_towers(model, path, options):
            yield from towers.acquire(options, sleep)
        return path
    source = _hub_file(model, options.variant)
    if options.offline:
        _check_offline(model, source, options)
    with cache.writing_to(options.folder):
        options.folder.mkdir(parents=True, exist_ok=True)
        held = yield from cache.lock(options.folder, model)
    try:
        if path := _here(model, options):  # another process was faster
            return path
        return (yield from _acquire(model, source, options, sleep))
    finally:
        cache.unlock(held)


def _check_offline(model: str, source: HubFile, options: DownloadOptions) -> None:
    """Raises WeightsError unless a model can be had without a network."""
    if not _original(model, source, options):
        raise WeightsError(
            f"the weights of {model} are not on this machine, and --offline was given",
            f"Run dcrafter download {model} where there is a network",
        )
    if not source.has_towers and towers.is_missing(config(model).clip, options):
        raise WeightsError(
            f"CLIP's towers, which {model} needs, are not on this machine, and --offline was given",
            f"Run dcrafter download {model} where there is a network",
        )


def _needs_towers(model: str, path: Path, options: DownloadOptions) -> bool:
    """Whether a file in Hugging Face's cache goes without its towers, which are not here either."""
    is_reduced = path.parent != options.folder and model in PUBLISHED and not PUBLISHED[model].has_towers
    return is_reduced and not options.offline and towers.is_missing(config(model).clip, options)


def plan(model: str, options: DownloadOptions, *, look_up: bool = True) -> Plan:
    """Find out what `acquire` would do. Raises as it does.

    Args:
        model: A name of the registry, or of an imported model.
        options: How it would be downloaded.
        look_up: Ask the hub for the file's size and address, unless offline; else they are as published.
    """
    if path := _here(model, options):
        more = OPENCLIP.size if _needs_towers(model, path, options) else 0
        return Plan(path, OPENCLIP.repository if more else "", more, 2 * more, _free(options.folder), more)
    source = _hub_file(model, options.variant)
    path, size, url = weights_path(options.folder, model), source.size, source.repository
    if options.offline:
        _check_offline(model, source, options)
    elif look_up and not _original(model, source, options):
        remote = originals.look_up(source, options)
        size, url = remote.size, remote.url
    space = size * ITEMSIZES[options.store] // source.itemsize
    if _original(model, source, options):
        size, url = 0, ""
    space += size
    more = 0
    if not source.has_towers and towers.is_missing(config(model).clip, options):
        more = OPENCLIP.size
        space += more + more * ITEMSIZES[options.store] // OPENCLIP.itemsize
    return Plan(path, url or OPENCLIP.repository, size + more, space, _free(options.folder), more)


def _free(folder: Path) -> int:
    """Bytes that are free where a folder is, or is to be."""
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.is_dir())).free


def import_checkpoint(
    checkpoint: Checkpoint, name: str, options: DownloadOptions | None = None
) -> Generator[Progress, None, Path]:
    """Convert a user's checkpoint into our cache as the model `name`; the path is the generator's return value.

    The checkpoint stays as it is; where it has no towers, they come from `towers.complete`. Raises UsageError for a
    name that cannot be one or is taken.
    """
    from dcrafter.weights.convert import check_whole, convert

    options = options or DownloadOptions()
    path = weights_path(options.folder, name)
    if name in (*MODELS, "auto") or path.is_file():
        raise UsageError(
            f"there is a model {name} already", f"Choose another name, or dcrafter download --remove {name}"
        )
    with cache.writing_to(options.folder):
        options.folder.mkdir(parents=True, exist_ok=True)
        held = yield from cache.lock(options.folder, name)
    try:
        checkpoint = yield from towers.complete(checkpoint, options)
        check_whole(checkpoint)
        renamed = replace(checkpoint, config=replace(checkpoint.config, name=name))
        yield from convert(renamed, path, width=options.store, source={"file": str(checkpoint.path)})
    finally:
        cache.unlock(held)
    return path


def verify(entry: Entry) -> Generator[Progress, None, bool]:
    """Whether a file is unchanged since it was written, as the generator's return value."""
    if entry.place == "package":
        return (yield from _is_as_installed(entry.path))
    if entry.place == "cache":
        files = [entry.path, *filter(None, [cache.find_towers(entry.path)])]
        for file in files:
            if not (yield from cache.is_intact(file)):
                return False
        return True
    digest = yield from cache.hash_file(entry.path)
    return bool(entry.path.resolve().name == digest.hexdigest())  # they are called by their SHA-256 there


def _is_as_installed(path: Path) -> Generator[Progress, None, bool]:
    """Whether a file of the package has the hash that its installer noted, or, where none was, is whole."""
    digest = yield from cache.hash_file(path)
    with suppress(PackageNotFoundError):
        for file in files("dcrafter") or ():
            if file.hash and file.hash.mode == "sha256" and Path(str(file.locate())).resolve() == path.resolve():
                return bool(file.hash.value == base64.urlsafe_b64encode(digest.digest()).decode().rstrip("="))
    return cache.is_whole(path)


def options_of(entry: Entry, options: DownloadOptions) -> DownloadOptions:
    """The options that a file on this machine was downloaded with."""
    variant, store = entry.source.get("variant"), entry.source.get("store")
    if variant and (entry.model, variant) not in [*VARIANTS]:  # there were others once; a header may hold anything
        variant = next((name for model, name in VARIANTS if model == entry.model), None)
    return replace(options, variant=variant, store=store if store in [*ITEMSIZES] else None)


def set_aside(path: Path) -> None:
    """Take a damaged file out of use, and its towers; both are deleted when others are in their place."""
    with cache.writing_to(path.parent):
        for file in filter(None, [cache.find_towers(path), path]):
            if not drain(cache.is_intact(file)) or file == path:
                file.replace(file.with_name(file.name + ".damaged"))


def _here(model: str, options: DownloadOptions) -> Path | None:
    """The file on this machine, if it matches the options."""
    path = find(model, options.folder)
    if path is None or options.revision:
        return None
    if path.parent != options.folder:
        return None if options.store or options.variant else path
    if not _matches(cache.source_of(path), options):
        return None
    cache.touch(path)
    return path


def _matches(source: Mapping[str, Any], options: DownloadOptions) -> bool:
    return options.store in (None, source.get("store")) and options.variant in (None, source.get("variant"))


def _hub_file(model: str, variant: str | None) -> HubFile:
    if variant:
        if (model, variant) not in VARIANTS:
            known = ", ".join(f"{name} {variant}" for name, variant in VARIANTS)
            raise UsageError(f"{model} has no variant {variant}", f"There are {known}")
        return VARIANTS[model, variant]
    if model not in PUBLISHED:
        config(model)
        raise WeightsError(f"the weights of {model} are not on the hub", "They come with the package, or by an import")
    return PUBLISHED[model]


def _original(model: str, source: HubFile, options: DownloadOptions) -> Path | None:
    return originals.on_this_machine(model, source, options)


def _acquire(
    model: str, source: HubFile, options: DownloadOptions, sleep: Callable[[float], None]
) -> Generator[Progress, None, Path]:

    from dcrafter.weights.checkpoint import open_checkpoint
    from dcrafter.weights.convert import check_whole, convert

    path = weights_path(options.folder, model)
    origin = {"repository": source.repository, "file": source.file, "variant": options.variant}
    original = _original(model, source, options)
    if original is None:
        remote = originals.look_up(source, options, sleep)
        origin |= {"file": remote.file, "commit": remote.commit, "revision": options.revision or "main"}
        if cache.is_usable(path):  # of another revision, perhaps
            present = cache.source_of(path)
            if present.get("sha256") == remote.key and _matches(present, options):
                return path
        original = yield from originals.fetch(model, source, remote, options, sleep)
    is_ours = original.parent == cache.downloads(options.folder, model)
    try:
        opened = open_checkpoint(original, model=model)
        check_whole(opened, but=cache.TOWERS)
    except WeightsError:
        if is_ours:
            original.unlink()  # whatever it is, the next run shall not meet it again
            cache.clear_downloads(options.folder, model)
        raise
    if opened.oddity:
        logger.warning(opened.oddity)
    opened = yield from towers.complete(opened, options, sleep)
    origin["sha256"] = original.stem if is_ours else original.resolve().name
    yield from convert(opened, path, width=options.store, source=origin)
    del opened  # some systems delete no mapped file
    cache.clear_downloads(options.folder, model, but=original if options.keep else None)
    cache.clear_damaged(path)
    return path
