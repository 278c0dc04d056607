"""GIF, animated WebP, APNG and folders of PNGs, by Pillow: through PyAV they lose their settings or cannot be read.

Pillow merges identical consecutive frames.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcrafter.media.encoding import Encoding

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

    from dcrafter.media.encoding import Frames

PALETTE_PIXELS = 2e6  # that a GIF's palette is chosen from, at most
SETTLED = 500  # one pixel in so many may still change its color when the palette is taken: 0.01 dB, half the time


def write_gif(frames: Frames, path: Path, encoding: Encoding) -> None:
    """Write a GIF with one palette for all frames, since colors would flicker otherwise."""
    from PIL import Image

    step = 1 + int((frames[..., 0].size / PALETTE_PIXELS) ** 0.5)
    sample = frames[:, ::step, ::step].reshape(-1, len(frames[0, 0, ::step]), 3)
    few = 1 + sample[..., 0].size // SETTLED
    palette = Image.fromarray(sample).quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=few)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
    _save(images, path, "GIF", _durations(len(frames), encoding.fps, tick=10), comment=encoding.comment or "")


def write_webp(frames: Frames, path: Path, encoding: Encoding) -> None:
    """Write an animated WebP, lossy."""
    from PIL import ExifTags, Image

    exif = Image.Exif()
    if encoding.comment is not None:
        exif[ExifTags.Base.ImageDescription] = encoding.comment
    images = [Image.fromarray(frame) for frame in frames]
    _save(images, path, "WEBP", _durations(len(frames), encoding.fps), quality=90, exif=exif)


def write_apng(frames: Frames, path: Path, encoding: Encoding) -> None:
    """Write an animated PNG, lossless."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    _save(images, path, "PNG", _durations(len(frames), encoding.fps), pnginfo=_png_info(encoding))


def write_frames(frames: Frames, path: Path, encoding: Encoding) -> None:
    """Write a folder of PNGs, 0001.png first, each with the settings."""
    from PIL import Image

    path.mkdir()
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(path / f"{number:04}.png", pnginfo=_png_info(encoding))


def _durations(count: int, fps: float, tick: int = 1) -> list[int]:
    """Milliseconds that each frame is shown, multiples of `tick`. Rounding times, not durations, keeps the pace."""
    times = [tick * round(1000 * index / fps / tick) for index in range(count + 1)]
    return [end - start for start, end in pairwise(times)]


def _save(images: list[Any], path: Path, format: str, durations: list[int], **options: Any) -> None:
    first, *others = images
    first.save(path, format=format, save_all=True, append_images=others, duration=durations, loop=0, **options)


def _png_info(encoding: Encoding) -> PngInfo:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("fps", str(encoding.fps))
    if encoding.comment is not None:
        info.add_itxt("Comment", encoding.comment)
    return info
