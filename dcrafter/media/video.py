"""Frames to video files that carry their settings, and back.

Formats are in `formats.FORMATS`. Files are read by content, not by name: Pillow reads the animations that it wrote,
PyAV everything else. Pillow merges identical frames, so lengths are compared in seconds.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation
from PIL import ExifTags, Image

from dcrafter.errors import InputError, OutputError, UsageError, WriteError
from dcrafter.media.containers import CODECS
from dcrafter.media.encoding import EncoderError, Encoding, Frames
from dcrafter.media.fetch import is_url
from dcrafter.media.formats import FORMATS, format_of
from dcrafter.media.image import open_image
from dcrafter.settings import WriteOptions
from dcrafter.text import error_text

MAX_SETTINGS = 1_000_000  # characters
READABLE_IMAGES = ("GIF", "PNG", "WEBP")
# FFmpeg's names of what holds its own pictures and sound.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,ogg,asf,h264,hevc,ivf,nut,mxf,gif,apng"
_PILLOW_MAGIC = re.compile(rb"GIF8|\x89PNG|RIFF....WEBP", re.DOTALL)
_FRAME_NAME = re.compile(r"\d+\.png")
# The faster conversion to RGB is darker by one or two in 255.
_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


def write_video(
    frames: Frames,
    path: str | Path,
    options: WriteOptions = WriteOptions(),
    *,
    fps: float = 8.0,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    sync: bool = True,
) -> Path:
    """Write frames to a video file, which appears under its name once it is complete and has been read back.

    Until then, and after any failure, there is nothing new in the folder and what was at `path` is untouched. A missing
    parent folder is made. MP4 and WebM need even sizes: an odd one gains a copy of its last row or column.

    Args:
        frames: uint8 (T, H, W, 3).
        path: a file, or a folder for the format "frames".
        options: the format, by the suffix of `path` if None; one of its codecs, or any video encoder of PyAV; the
            constant rate factor, 0 (best) to 63. Only formats with codecs take codec and rate factor.
        fps: frames per second.
        settings: anything that JSON can hold, embedded in the file (in each file of a folder) as metadata.
        overwrite: replace what is at `path`, if it is of the same kind.
        sync: wait for the disk, which a busy one takes a second for; not for a file that is deleted at once.

    Returns:
        `path`.

    Raises:
        InputError: `frames` has another type or shape.
        UsageError: the options make no sense for the format.
        OutputError: `path` exists, or cannot be written.
        WriteError: Writing began and failed.
    """
    path = Path(path)
    name, codec, crf = format_of(path, options.format), options.codec, options.crf
    kind = FORMATS[name]
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.size == 0:
        raise InputError(f"frames must be uint8 (T, H, W, 3), not {frames.dtype} {frames.shape}")
    _check_encoding(name, fps, codec, crf)
    embedded = options.metadata and settings is not None
    comment = json.dumps(settings) if embedded else None  # plain ASCII, safe in every container
    encoding = Encoding(fps, comment, codec or next(iter(kind.codecs), ""), crf)
    height, width = frames.shape[1:3]
    bottom, right = -height % kind.size_multiple, -width % kind.size_multiple
    frames = np.pad(frames, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
    with _replacing(path, name, overwrite, sync) as temporary:
        try:
            kind.write(frames, temporary, encoding)
        except EncoderError as error:
            others = ", ".join(other for other in kind.codecs if other != codec)
            raise UsageError(
                f"the codec {encoding.codec!r} cannot write {name} of {width}×{height} here",
                f"Choose {others} or another video encoder of PyAV with --codec, or a smaller size",
            ) from error
        _verify(temporary, frames, fps)
    return path


def _check_encoding(name: str, fps: float, codec: str | None, crf: int | None) -> None:
    """Raises UsageError for options that make no sense for a format."""
    kind = FORMATS[name]
    if not 0.1 <= fps <= kind.max_fps:
        raise UsageError(f"{fps} frames per second is out of range", f"{name} takes 0.1 to {kind.max_fps:g}")
    if not kind.codecs and (codec, crf) != (None, None):
        coded = " and ".join(other for other, entry in FORMATS.items() if entry.codecs)
        raise UsageError(f"the format {name} has neither codec nor crf", f"They are for {coded}")
    if codec in CODECS and codec not in kind.codecs:
        raise UsageError(f"{name} cannot hold {codec}", f"Choose one of {', '.join(kind.codecs)} with --codec")
    if crf is not None and not 0 <= crf <= 63:
        raise UsageError(f"a crf of {crf} is out of range", "It goes from 0 (best) to 63; 18 looks lossless")


def places_of(images: Iterable[str]) -> frozenset[Path]:
    """The real paths of images that are files, and of all folders around them."""
    files = [Path(os.path.realpath(image)) for image in images if not is_url(image)]
    return frozenset(place for file in files for place in (file, *file.parents))


def is_at(path: Path, places: Collection[Path]) -> bool:
    """True if a path resolves to one of `places` (see `places_of`)."""
    return Path(os.path.realpath(path)) in places


def check_output(path: Path, format: str, overwrite: bool = False, kept: Collection[Path] = ()) -> None:
    """Check beforehand what `write_video` would refuse after the work.

    Args:
        path: where the result shall go.
        format: a name in FORMATS.
        overwrite: replace what is at `path`, if it is of the same kind.
        kept: paths that are never replaced, such as those of the input images (see `places_of`).

    Raises:
        OutputError: `path` exists or cannot be written.
    """
    if is_at(path, kept):
        raise OutputError(f"{path} would overwrite the input image", "Choose another name")
    with _writing(path):
        ancestor = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        check_folder(ancestor, "-o")
        if not path.exists():
            return
        if not overwrite:
            raise OutputError(f"{path} already exists", "Choose another name with -o, or pass --overwrite")
        # Only a result of the same kind is replaced, never a folder of photos or a device.
        is_folder = FORMATS[format].is_folder
        if not (path.is_dir() if is_folder else path.is_file()):
            raise OutputError(f"{path} is not a {'folder' if is_folder else 'file'}", "Choose another name with -o")
        if path.is_dir() and not holds_frames(path):
            raise OutputError(f"{path} contains more than numbered PNGs", "Choose another folder with -o")


def check_folder(folder: Path, option: str) -> None:
    """Raises OutputError where no file can be made in a folder that `option` names, whatever its permissions say."""
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        if WriteError.means(error):
            raise
        raise OutputError(f"{folder} is not a writable folder", f"Choose another with {option}") from error


def holds_frames(folder: Path) -> bool:
    """True if a folder contains nothing but numbered PNGs."""
    return all(_FRAME_NAME.fullmatch(entry.name) for entry in folder.iterdir())


def encode_video(frames: Frames, options: WriteOptions, **more: Any) -> bytes:
    """The bytes of the file that `write_video` writes with the same options, for pipes, where nothing can seek.

    Raises:
        UsageError: the format is a folder of files.
    """
    if options.format and FORMATS[options.format].is_folder:
        raise UsageError("a folder of frames cannot go to a pipe", "Choose another format with -f")
    with TemporaryDirectory() as folder:
        return write_video(frames, Path(folder) / "video", options, sync=False, **more).read_bytes()


@contextmanager
def _replacing(path: Path, format: str, overwrite: bool, sync: bool) -> Iterator[Path]:
    """Yield a temporary name beside `path`, which is renamed to `path` if the block succeeds, else removed."""
    temporary, aside = (path.with_name(f".dcrafter-{secrets.token_hex(8)}.{use}") for use in ("tmp", "old"))
    made = [parent for parent in path.absolute().parents if not os.path.exists(parent)]  # nearest first
    try:
        check_output(path, format, overwrite)
        with _writing(path, begun=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if sync:
                _sync(temporary)
            check_output(path, format, overwrite)  # again: another process may have been faster
            if path.is_dir():  # a folder cannot be renamed over another
                path.rename(aside)
            temporary.replace(path)
    finally:
        if os.path.exists(aside) and not os.path.exists(path):
            aside.rename(path)
        for leftover in (temporary, aside):
            shutil.rmtree(leftover, ignore_errors=True)  # for folders; does nothing to a file
            with suppress(OSError):
                leftover.unlink()
        for parent in made:
            with suppress(OSError):  # after a success it is not empty, and stays
                parent.rmdir()


def _sync(path: Path) -> None:
    """Have a file, or a folder's files, reach the disk: a name that appears before its content may outlive it."""
    for file in path.iterdir() if path.is_dir() else [path]:
        with file.open("r+b") as written:
            os.fsync(written.fileno())


@contextmanager
def _writing(path: Path, begun: bool = False) -> Iterator[None]:
    """Raise what the system says of a place as OutputError, or where there is work to be lost as WriteError."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        advice = "Check the folder's permissions and free space, or write elsewhere with -o"
        kind = WriteError if begun or WriteError.means(error) else OutputError
        raise kind(f"cannot write {path}: {error_text(error)}", advice) from error


def _verify(path: Path, frames: Frames, fps: float) -> None:
    """Read the file back. Raises OutputError unless it has the size and the duration of `frames`."""
    try:
        shown = [(frame.shape, seconds) for frame, seconds in _stored_frames(path)]
    except InputError as error:
        raise WriteError("the video was written but does not read back", "Is the disk full?") from error
    right_time = abs(sum(seconds for _, seconds in shown) * fps - len(frames)) < 0.5
    # Identical frames are merged to one, which has no duration in APNG and WebP.
    right_time |= len(shown) == 1 and bool((frames == frames[0]).all())
    if not right_time or {shape for shape, _ in shown} != {frames.shape[1:]}:
        raise WriteError("the video reads back with another length or size", "Is the disk full?")


def read_video(path: str | Path) -> tuple[Frames, float]:
    """Read all frames of a video, an animation or a folder of numbered PNGs into memory.

    Frames that an animation shows for longer are repeated.

    Returns:
        uint8 frames (T, H, W, 3), and the frames per second.

    Raises:
        InputError: it cannot be read, or its frames differ in size.
    """
    stored = list(_stored_frames(Path(path)))
    if not stored or len({frame.shape for frame, _ in stored}) > 1:
        problem = "contains frames of several sizes" if stored else "contains no frames"
        raise InputError(f"{path} {problem}", "Give a video, or a folder of numbered PNGs")
    shortest = min(seconds for _, seconds in stored)
    frames = np.stack([frame for frame, seconds in stored for _ in range(round(seconds / shortest))])
    return frames, round(len(frames) / sum(seconds for _, seconds in stored), 3)


def read_drawings(path: str | Path, frames: int) -> dict[int, Image.Image]:
    """Read line drawings of some of a clip's frames, by the frame's number from 0 on.

    Args:
        path: a folder of PNGs that are numbered as the frames are, 1 the first; or a video, whose frames are spread
            evenly over the clip.
        frames: of the clip.

    Raises:
        InputError: it cannot be read, or holds none that fits.
    """
    path = Path(path)
    if path.is_dir():
        files = {int(file.stem) - 1: file for file in _numbered(path)}
        if not files or not files.keys() <= {*range(frames)}:
            raise InputError(f"{path} holds no drawings of a clip", f"It must have PNGs called 1.png to {frames}.png")
        return {number: open_image(file) for number, file in files.items()}
    drawn, _ = read_video(path)
    if len(drawn) < 2:
        raise InputError(f"{path} is one drawing", "Put it into a folder, named after its frame: 8.png")
    last = len(drawn) - 1
    return {t: Image.fromarray(drawn[round(t * last / (frames - 1))]) for t in range(frames)}


def read_settings(path: str | Path) -> dict[str, Any] | None:
    """Read the settings that `write_video` embedded; None without any.

    Raises:
        InputError: the file cannot be read.
    """
    path = Path(path)
    with _reading(path):
        if path.is_dir():
            path = _numbered(path)[0]
        if _is_for_pillow(path):
            with Image.open(path, formats=READABLE_IMAGES) as image:
                info = image.info
                comment = (
                    info.get("Comment") or info.get("comment") or image.getexif().get(ExifTags.Base.ImageDescription)
                )
        else:
            with open_container(path) as container:
                comment = container.metadata.get("comment") or container.metadata.get("COMMENT")
    if not isinstance(comment, str | bytes) or len(comment) > MAX_SETTINGS:
        return None
    try:
        settings = json.loads(comment)
    except (ValueError, RecursionError):  # somebody else's comment
        return None
    return settings if isinstance(settings, dict) else None


def settings_in(path: Path) -> dict[str, Any]:
    """The settings that `write_video` embedded; empty without any, and where the file cannot be read."""
    try:
        return read_settings(path) or {}
    except InputError:
        return {}


def open_container(path: Path) -> InputContainer:
    """Open a video file: no list of other files and addresses, as playlists are, which FFmpeg would open too."""
    return av.open(str(path), options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})


def _stored_frames(path: Path) -> Iterator[tuple[Frames, float]]:
    """Yield each stored frame, uint8 (H, W, 3), with the seconds that it is shown. Raises InputError."""
    with _reading(path):
        if path.is_dir():
            for file in _numbered(path):
                with Image.open(file, formats=["PNG"]) as image:
                    yield np.asarray(image.convert("RGB")), 1 / float(image.info.get("fps", 8))
        elif _is_for_pillow(path):
            with Image.open(path, formats=READABLE_IMAGES) as image:
                for index in range(getattr(image, "n_frames", 1)):
                    image.seek(index)
                    frame = np.asarray(image.convert("RGB"))  # decodes, which is what sets the duration
                    yield frame, (image.info.get("duration") or 100) / 1000  # browsers take 0 for 100 ms
        else:
            with open_container(path) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                seconds = float(1 / (stream.average_rate or stream.guessed_rate or 8))
                for decoded in container.decode(stream):
                    pixels = np.asarray(decoded.to_ndarray(format="rgb24", interpolation=_EXACT), np.uint8)
                    yield np.rot90(pixels, decoded.rotation // 90), seconds


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # decoders raise nearly anything on damaged data
        advice = "Give a complete video, or a folder of numbered PNGs"
        raise InputError(f"cannot read {path}: {error_text(error)}", advice) from error


def _numbered(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if _FRAME_NAME.fullmatch(p.name)), key=lambda p: int(p.stem))


def _is_for_pillow(path: Path) -> bool:
    with path.open("rb") as file:
        return _PILLOW_MAGIC.match(file.read(12)) is not None
