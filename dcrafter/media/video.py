"""Frames to video files that carry their settings, and back.

PyAV does MP4 and WebM. Pillow does GIF, animated WebP and APNG, because through PyAV those lose their
settings or cannot be read; it merges identical frames, so their length is judged by time.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from dcrafter.errors import InputError, OutputError, UsageError
from dcrafter.media.fetch import is_url
from dcrafter.settings import CODECS, FORMATS, named_format

Frames = NDArray[np.uint8]

# Each codec with PyAV's encoder and its options; a lower CRF is better.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"crf": "18"}),
    "h265": ("libx265", {"crf": "20", "x265-params": "log-level=error"}),
    "vp9": ("libvpx-vp9", {"crf": "24", "b": "0", "row-mt": "1"}),  # the CRF is obeyed at bit rate 0 only
    "av1": ("libsvtav1", {"crf": "24"}),
}
_PILLOW_FORMAT = {"gif": "GIF", "webp": "WEBP", "apng": "PNG"}
_PILLOW_MAGIC = re.compile(rb"GIF8|\x89PNG|RIFF....WEBP", re.DOTALL)
_FRAME_NAME = re.compile(r"\d+\.png")
# The faster conversion to RGB is darker by one or two in 255.
_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_DESCRIPTION = ExifTags.Base.ImageDescription


def format_of(path: str | Path, wanted: str | None = None) -> str:
    """The format to write `path` in: `wanted` if given, else what the suffix means. Raises UsageError."""
    found = named_format(str(path)) if wanted is None else wanted
    if found in FORMATS:
        return found
    problem = f"there is no format {wanted!r}" if wanted else f"the name {Path(path).name!r} tells no format"
    raise UsageError(problem, f"Choose one of {', '.join(FORMATS)} with -f, or a suffix like .mp4")


def write_video(
    frames: Frames,
    path: str | Path,
    *,
    format: str | None = None,
    fps: float = 8.0,
    settings: dict[str, Any] | None = None,
    codec: str | None = None,
    crf: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes uint8 frames (T, H, W, 3) to `path` and returns it.

    `settings` (whatever JSON can hold) is embedded in the file, or in every picture of a frames folder.
    `codec` (one of the format's CODECS, or any video encoder PyAV has) and `crf` (0…63, lower is better)
    concern mp4 and webm. Their 4:2:0 pictures have even sizes: an odd width or height gains a copy of its
    last column or row, so that nothing is cut off.

    The file gets its name once it is complete and has been read back. Until then, and after any failure,
    there is nothing new in the folder, and what was at `path` is untouched. A missing parent folder is made.

    Raises UsageError for options without a meaning, OutputError if `path` exists (unless `overwrite`) or
    cannot be written.
    """
    path = Path(path)
    format = format_of(path, format)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.size == 0:
        raise InputError(f"frames must be uint8 (T, H, W, 3), not {frames.dtype} {frames.shape}")
    fastest = 50 if format == "gif" else 240  # a GIF counts in hundredths of a second, and players refuse 1
    if not 0.1 <= fps <= fastest:
        raise UsageError(f"{fps} frames per second is out of range", f"A {format} takes 0.1 to {fastest}")
    if format not in CODECS and (codec, crf) != (None, None):
        raise UsageError(f"the format {format} has neither codec nor crf", "They belong to mp4 and webm")
    if codec in ENCODERS and codec not in CODECS[format]:
        raise UsageError(f"a {format} holds no {codec}", f"Choose one of {', '.join(CODECS[format])} with --codec")
    if crf is not None and not 0 <= crf <= 63:
        raise UsageError(f"a crf of {crf} is out of range", "It goes from 0 (best) to 63; 18 looks lossless")
    comment = None if settings is None else json.dumps(settings)  # plain ASCII, safe in every container
    with _replacing(path, format, overwrite) as temporary:
        if format in CODECS:
            height, width = frames.shape[1:3]
            frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            _write_av(frames, temporary, format, fps, comment, codec or CODECS[format][0], crf)
        elif format == "frames":
            temporary.mkdir()
            for number, frame in enumerate(frames, 1):
                Image.fromarray(frame).save(temporary / f"{number:04}.png", pnginfo=_png_info(comment, fps))
        else:
            _write_animation(frames, temporary, format, fps, comment)
        _verify(temporary, frames, fps)
    return path


def places_of(pictures: Iterable[str]) -> frozenset[Path]:
    """Where pictures are that are files, and the folders around them."""
    files = [Path(os.path.realpath(picture)) for picture in pictures if not is_url(picture)]
    return frozenset(place for file in files for place in (file, *file.parents))


def is_at(path: Path, places: Collection[Path]) -> bool:
    """Whether a path leads to one of the places that `places_of` gave."""
    return Path(os.path.realpath(path)) in places


def check_output(path: Path, format: str, overwrite: bool = False, kept: Collection[Path] = ()) -> None:
    """Raises OutputError where `write_video` would, to find out before the work and not after it.

    Nothing takes the place of what is `kept` (see `places_of`), with `overwrite` either.
    """
    if is_at(path, kept):
        raise OutputError(f"{path} would take the place of a picture", "Choose another name")
    with _writing(path):
        ancestor = next(parent for parent in path.absolute().parents if os.path.exists(parent))
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
            raise OutputError(f"{ancestor} is not a folder that can be written to", "Choose another with -o")
        if not path.exists():
            return
        if not overwrite:
            raise OutputError(f"{path} exists already", "Choose another name with -o, or pass --overwrite")
        # Only its like is replaced: a folder of photos, or a device, must never be.
        if not (path.is_dir() if format == "frames" else path.is_file()):
            kind = "folder" if format == "frames" else "file"
            raise OutputError(f"{path} is not a {kind}", "Choose another name with -o")
        if path.is_dir() and not holds_frames(path):
            raise OutputError(f"{path} holds more than numbered PNGs", "Choose another folder with -o")


def holds_frames(folder: Path) -> bool:
    """Whether there is nothing but numbered PNGs in a folder."""
    return all(_FRAME_NAME.fullmatch(entry.name) for entry in folder.iterdir())


def encode_video(frames: Frames, format: str, **options: Any) -> bytes:
    """The file that `write_video` would write with the same options, for pipes, in which nobody can seek."""
    if format == "frames":
        raise UsageError("a folder of frames cannot go to a pipe", "Choose another format with -f")
    with TemporaryDirectory() as folder:
        return write_video(frames, Path(folder) / "video", format=format, **options).read_bytes()


@contextmanager
def _replacing(path: Path, format: str, overwrite: bool) -> Iterator[Path]:
    """Yields a name beside `path` to write under; it becomes `path` if the block succeeds, else vanishes."""
    temporary, aside = (path.with_name(f".dcrafter-{secrets.token_hex(8)}.{use}") for use in ("tmp", "old"))
    made = [parent for parent in path.absolute().parents if not os.path.exists(parent)]  # nearest first
    try:
        with _writing(path):
            check_output(path, format, overwrite)
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        advice = "Check the folder's permissions and free space, or write elsewhere with -o"
        raise OutputError(f"cannot write {path}: {reason(error)}", advice) from error


def _verify(path: Path, frames: Frames, fps: float) -> None:
    """Reads the file back; OutputError unless it shows `frames` at their size for their time."""
    try:
        shown = [(frame.shape, seconds) for frame, seconds in _stored_frames(path)]
    except InputError as error:
        raise OutputError("the video was written but does not read back", "Is the disk full?") from error
    right_time = abs(sum(seconds for _, seconds in shown) * fps - len(frames)) < 0.5
    # A still shrinks to one picture, and in APNG and WebP it has no duration.
    right_time |= len(shown) == 1 and bool((frames == frames[0]).all())
    if not right_time or {shape for shape, _ in shown} != {frames.shape[1:]}:
        raise OutputError("the video reads back with another length or size", "Is the disk full?")


def _write_av(
    frames: Frames, path: Path, format: str, fps: float, comment: str | None, codec: str, crf: int | None
) -> None:
    encoder, encoder_options = ENCODERS.get(codec, (codec, {}))
    if encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it talks on stderr and has no option against it
    options = {"movflags": "+faststart"} if format == "mp4" else {}  # the index first, to play while loading
    with av.open(str(path), "w", format=format, options=options) as container:
        if comment is not None:
            container.metadata["comment"] = comment
        try:
            stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
            if not isinstance(stream, av.VideoStream):
                raise ValueError(f"{codec} encodes no video")
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {**encoder_options, **({} if crf is None else {"crf": str(crf)})}
            context = stream.codec_context
            if encoder == "libx265":
                context.codec_tag = "hvc1"  # the only spelling that Apple's players take
            # Players guess at the matrix of untagged video.
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            context.open()
        except (ValueError, TypeError, av.error.FFmpegError) as error:
            size = f"{frames.shape[2]}×{frames.shape[1]}"
            others = [name for name in CODECS[format] if name != codec]
            raise UsageError(
                f"the codec {codec!r} cannot write {format} of {size} here",
                f"Choose {', '.join(others)} or another video encoder that PyAV has with --codec, or a smaller size",
            ) from error
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.AREA,
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _write_animation(frames: Frames, path: Path, format: str, fps: float, comment: str | None) -> None:
    images = [Image.fromarray(frame) for frame in frames]
    options: dict[str, Any] = {}
    if format == "gif":
        # One palette for all, or colours would flicker. Some 2 million pixels are enough to choose it from.
        step = 1 + int((frames[..., 0].size / 2e6) ** 0.5)
        sample = frames[:, ::step, ::step].reshape(-1, len(frames[0, 0, ::step]), 3)
        palette = Image.fromarray(sample).quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)
        images = [image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for image in images]
        options["comment"] = comment or ""
    elif format == "webp":
        exif = Image.Exif()
        if comment is not None:
            exif[_DESCRIPTION] = comment
        options |= {"quality": 90, "exif": exif}
    else:
        options["pnginfo"] = _png_info(comment, fps)
    tick = 10 if format == "gif" else 1  # milliseconds. Times are rounded, not durations, to keep the pace
    times = [tick * round(1000 * index / fps / tick) for index in range(len(frames) + 1)]
    options |= {"append_images": images[1:], "duration": np.diff(times).tolist(), "loop": 0}
    images[0].save(path, format=_PILLOW_FORMAT[format], save_all=True, **options)


def _png_info(comment: str | None, fps: float) -> PngInfo:
    info = PngInfo()
    info.add_text("fps", str(fps))
    if comment is not None:
        info.add_itxt("Comment", comment)
    return info


def read_video(path: str | Path) -> tuple[Frames, float]:
    """The frames (T, H, W, 3) of a video, an animation or a folder of numbered PNGs, and their rate (1/s).

    Frames that an animation shows for longer are repeated. All are in memory at once. Raises InputError.
    """
    stored = list(_stored_frames(Path(path)))
    if not stored or len({frame.shape for frame, _ in stored}) > 1:
        problem = "holds frames of several sizes" if stored else "holds no frames"
        raise InputError(f"{path} {problem}", "Give a video, or a folder of numbered PNGs")
    shortest = min(seconds for _, seconds in stored)
    frames = np.stack([frame for frame, seconds in stored for _ in range(round(seconds / shortest))])
    return frames, round(len(frames) / sum(seconds for _, seconds in stored), 3)


def read_settings(path: str | Path) -> dict[str, Any] | None:
    """The settings that `write_video` embedded; None if there are none. Raises InputError."""
    path = Path(path)
    with _reading(path):
        if path.is_dir():
            path = _numbered(path)[0]
        if _is_for_pillow(path):
            with Image.open(path) as image:
                info = image.info
                comment = info.get("Comment") or info.get("comment") or image.getexif().get(_DESCRIPTION)
        else:
            with av.open(str(path)) as container:
                comment = container.metadata.get("comment") or container.metadata.get("COMMENT")
    try:
        settings = json.loads(comment or "null")
    except ValueError:  # somebody else's comment
        return None
    return settings if isinstance(settings, dict) else None


def _stored_frames(path: Path) -> Iterator[tuple[Frames, float]]:
    """Every stored frame, uint8 (H, W, 3), and the seconds it is shown for. Raises InputError."""
    with _reading(path):
        if path.is_dir():
            for file in _numbered(path):
                with Image.open(file) as image:
                    yield np.asarray(image.convert("RGB")), 1 / float(image.info.get("fps", 8))
        elif _is_for_pillow(path):
            with Image.open(path) as image:
                for index in range(getattr(image, "n_frames", 1)):
                    image.seek(index)
                    frame = np.asarray(image.convert("RGB"))  # decodes, which is what sets the duration
                    yield frame, (image.info.get("duration") or 100) / 1000  # browsers take 0 for 100 ms
        else:
            with av.open(str(path)) as container:
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
        raise InputError(f"cannot read {path}: {reason(error)}", advice) from error


def reason(error: Exception) -> str:
    """What a library says went wrong, on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _numbered(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if _FRAME_NAME.fullmatch(p.name)), key=lambda p: int(p.stem))


def _is_for_pillow(path: Path) -> bool:
    with path.open("rb") as file:
        return _PILLOW_MAGIC.match(file.read(12)) is not None
