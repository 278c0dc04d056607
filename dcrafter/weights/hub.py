"""Models by name: finds their weights on this machine, downloads, converts, imports and verifies them."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.config import MODELS, Command, ModelConfig
from dcrafter.errors import UsageError, WeightsError
from dcrafter.generators import drain
from dcrafter.text import format_size
from dcrafter.weights import cache, families
from dcrafter.weights.cache import Progress, cache_dir, weights_path
from dcrafter.weights.families import PUBLISHED, VARIANTS, HubFile

if TYPE_CHECKING:
    from dcrafter.weights.checkpoint import Checkpoint
    from dcrafter.weights.download import Remote

EMBEDDED = Path(__file__).with_name("tiny.safetensors")  # comes with the package
logger = logging.getLogger(__name__)


ITEMSIZES = {None: 2, "float16": 2, "bfloat16": 2, "float32": 4}  # by `DownloadOptions.store`


@dataclass(frozen=True)
class DownloadOptions:
    """How to download a model and where to keep it.

    A model already on this machine is taken as it is, unless `variant`, `store` or `revision` ask for another.

    Attributes:
        variant: a smaller copy of the published file (see `VARIANTS`).
        store: the type to convert weights to. None: float16, or the original's type where that is as small.
        keep: keep the downloaded original beside the converted file.
        endpoint: a mirror of the hub. None: $HF_ENDPOINT, or the hub itself.
    """

    folder: Path = field(default_factory=cache_dir)
    variant: str | None = None
    store: str | None = None
    keep: bool = False
    revision: str | None = None
    endpoint: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class Plan:
    """What `acquire` would do: fetch `size` bytes (0: it is here) from `url` for `path`.

    `space` bytes of the `free` ones are needed.
    """

    path: Path
    url: str
    size: int
    space: int
    free: int


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
    return ours if ours.is_file() else _in_hugging_faces_cache(model)


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
    from huggingface_hub import try_to_load_from_cache

    if model not in PUBLISHED:
        return None
    cached = try_to_load_from_cache(PUBLISHED[model].repository, PUBLISHED[model].file)
    return Path(cached) if isinstance(cached, str) else None


# --- what is not ---


def fetch(model: str, *, offline: bool = False) -> Path:
    """The weights of a model, downloaded and converted if they are not on this machine.

    Raises WeightsError where they are not and cannot be had.
    """
    if find(model) is None and not offline and model in PUBLISHED:
        logger.warning(announcement(model))
    return drain(acquire(model, DownloadOptions(offline=offline)))


def announcement(model: str) -> str:
    """The line that announces an automatic download."""
    source = PUBLISHED[model]
    return (
        f"the model {model} is not on this machine yet: {format_size(source.size)} to download "
        f"({source.repository}) to {cache_dir()}"
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


def plan(model: str, options: DownloadOptions, *, look_up: bool = True) -> Plan:
    """Find out what `acquire` would do. Raises as it does.

    Args:
        model: A name of the registry, or of an imported model.
        options: How it would be downloaded.
        look_up: Ask the hub for the file's size and address, unless offline; else they are as published.
    """
    if path := _here(model, options):
        return Plan(path, "", 0, 0, 0)
    source = _hub_file(model, options.variant)
    path, size, url = weights_path(options.folder, model), source.size, source.repository
    folder = next(folder for folder in (options.folder, *options.folder.parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if options.offline:
        _check_offline(model, source, options)
    elif look_up:
        from dcrafter.weights import download

        remote = download.look_up(source.repository, source.file, revision=options.revision, endpoint=options.endpoint)
        size, url = remote.size, remote.url
    converted = size * ITEMSIZES[options.store] // source.itemsize
    if _original(model, source, options):
        return Plan(path, "", 0, converted, free)
    return Plan(path, url, size, size + converted, free)


def import_checkpoint(
    checkpoint: Checkpoint, name: str, options: DownloadOptions | None = None
) -> Generator[Progress, None, Path]:
    """Convert a user's checkpoint into our cache as the model `name`; the path is the generator's return value.

    The checkpoint stays as it is. Raises UsageError for a name that cannot be one or is taken.
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
        return (yield from cache.is_intact(entry.path))
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
    return replace(options, variant=entry.source.get("variant"), store=entry.source.get("store"))


def set_aside(path: Path) -> None:
    """Take a damaged file out of use; it is deleted when another is in its place."""
    with cache.writing_to(path.parent):
        path.replace(path.with_name(path.name + ".damaged"))


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
    """The published file, whole: left in our cache by an earlier run, or in Hugging Face's."""
    if options.revision:
        return None
    kept = cache.originals(options.folder, model)
    left = next((file for file in kept if file.suffix == Path(source.file).suffix and not file.is_symlink()), None)
    return left or (None if options.variant else _in_hugging_faces_cache(model))


def _acquire(
    model: str, source: HubFile, options: DownloadOptions, sleep: Callable[[float], None]
) -> Generator[Progress, None, Path]:
    from dcrafter.weights import download

    path = weights_path(options.folder, model)
    origin = {"repository": source.repository, "file": source.file, "variant": options.variant}
    original = _original(model, source, options)
    if original is None:
        remote = download.look_up(
            source.repository, source.file, revision=options.revision, endpoint=options.endpoint, sleep=sleep
        )
        origin |= {"commit": remote.commit, "revision": options.revision or "main"}
        if path.is_file():  # of another revision, perhaps
            present = cache.source_of(path)
            if present.get("sha256") == remote.key and _matches(present, options):
                return path
        original = yield from _fetch_original(model, source, remote, options, sleep)

    from dcrafter.weights.checkpoint import open_checkpoint
    from dcrafter.weights.convert import check_whole, convert

    is_ours = original.parent == cache.downloads(options.folder, model)
    try:
        opened = open_checkpoint(original, model=model)
        check_whole(opened)
    except WeightsError:
        if is_ours:
            original.unlink()  # whatever it is, the next run shall not meet it again
            cache.clear_downloads(options.folder, model)
        raise
    origin["sha256"] = original.stem if is_ours else original.resolve().name
    yield from convert(opened, path, width=options.store, source=origin)
    del opened  # some systems delete no mapped file
    cache.clear_downloads(options.folder, model, but=original if options.keep else None)
    path.with_name(path.name + ".damaged").unlink(missing_ok=True)
    return path


def _fetch_original(
    model: str, source: HubFile, remote: Remote, options: DownloadOptions, sleep: Callable[[float], None]
) -> Generator[Progress, None, Path]:
    """Download the published file into our cache."""
    from dcrafter.weights import download

    place = cache.downloads(options.folder, model)
    whole = place / f"{remote.key}{Path(source.file).suffix}"
    part = whole.with_suffix(".part")
    with cache.writing_to(options.folder):
        if place.is_symlink():
            place.unlink()
        place.mkdir(parents=True, exist_ok=True)
        for other in cache.originals(options.folder, model):
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
