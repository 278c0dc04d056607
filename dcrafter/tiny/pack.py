"""Packs a prepared data set to train on another machine: `python -m dcrafter.tiny.pack DATA FILE`, and back.

What takes 4.2 GB as pixels is 50 MB compressed, with losses below those of the autoencoder. `--unpack` makes a data set
of it again. Held-out material goes along: runs are evaluated on it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from dcrafter.errors import InputError, exit_on_error
from dcrafter.tiny.prepared import Array, PreparedData, Row

PICTURE_SIDE = 768  # pixels of the shorter side
QUALITY = {"pictures": 80, "cutouts": 80, "stills": 70}  # of WebP
MODES = {"pictures": "RGB", "cutouts": "RGBa", "stills": "RGBa"}  # a: premultiplied alpha
FILM = {"crf": "23", "preset": "medium"}  # of H.264


def pack(folder: Path, file: Path) -> None:
    """Write a prepared data set as a ZIP file. Raises InputError where there is none."""
    data = PreparedData(folder)
    about = data.about
    images = {
        "pictures": [data.pixels(row) for row in about["pictures"]],
        "cutouts": [data.cutout(row) for row in about["cutouts"]],
        "stills": [*data.stills],
    }
    part = file.with_name(f"{file.name}.part")
    with zipfile.ZipFile(part, "w") as archive, ProcessPoolExecutor(os.cpu_count()) as pool:
        for kind, some in images.items():
            for number, content in enumerate(pool.map(partial(_to_webp, kind), some, chunksize=16)):
                archive.writestr(f"{kind}/{number}.webp", content)
        archive.writestr("animations.mkv", _to_film(data.animations))
        archive.writestr("index.json", json.dumps(about, ensure_ascii=False), zipfile.ZIP_DEFLATED)
    part.rename(file)


def unpack(file: Path, folder: Path) -> None:
    """Make a prepared data set of a packed one. Raises InputError where the file is none."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(file) as archive, ProcessPoolExecutor(os.cpu_count()) as pool:
            about = json.loads(archive.read("index.json"))
            rows = {"pictures": about["pictures"], "cutouts": about["cutouts"], "stills": about["emoji"]}
            for kind, of_kind in rows.items():
                packed = [archive.read(f"{kind}/{number}.webp") for number in range(len(of_kind))]
                images = pool.map(partial(_from_webp, kind), packed, chunksize=16)
                _write(folder / f"{kind}.u8", images, of_kind if kind != "stills" else [])
            _write(folder / "animations.u8", _from_film(archive.read("animations.mkv")), [])
    except (OSError, KeyError, zipfile.BadZipFile, av.FFmpegError) as error:
        raise InputError(f"{file} is no packed data set: {error}") from error
    (folder / "index.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), "utf-8")  # last: complete


def _write(path: Path, images: Iterable[Array], rows: list[Row]) -> None:
    """Write pixels one after the other. Rows, where there are any, get their place and size."""
    offset = 0
    with open(path, "wb") as out:
        for number, pixels in enumerate(images):
            out.write(pixels.tobytes())
            if rows:
                rows[number] |= {"offset": offset, "height": pixels.shape[0], "width": pixels.shape[1]}
            offset += pixels.size


def _to_webp(kind: str, pixels: Array) -> bytes:
    """(H, W, 3 or 4) uint8 as WebP."""
    height, width = pixels.shape[:2]
    image = Image.frombytes(MODES[kind], (width, height), np.ascontiguousarray(pixels).tobytes())
    if kind == "pictures" and (scale := PICTURE_SIDE / min(image.size)) < 1:
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.convert(image.mode.upper()).save(content, "WEBP", quality=QUALITY[kind])
    return content.getvalue()


def _from_webp(kind: str, content: bytes) -> Array:
    with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
        return np.asarray(image.convert(MODES[kind].upper()).convert(MODES[kind]))


def _to_film(frames: Array) -> bytes:
    """Premultiplied frames (N, S, S, 4) uint8 as a video, their alpha in grey beside them."""
    content = io.BytesIO()
    with av.open(content, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=24, options=FILM)
        stream.width, stream.height, stream.pix_fmt = 2 * frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            both = np.concatenate([frame[..., :3], np.repeat(frame[..., 3:], 3, axis=-1)], axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(both, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def _from_film(content: bytes) -> Iterator[Array]:
    """The frames (S, S, 4) one by one."""
    with av.open(io.BytesIO(content), "r", format="matroska") as container:
        for frame in container.decode(video=0):
            both = frame.to_ndarray(format="rgb24")
            color, alpha = np.split(both, 2, axis=1)
            alpha = alpha[..., :1]
            yield np.concatenate([np.minimum(color, alpha), alpha], axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dcrafter.tiny.pack", description="Pack a prepared data set.")
    parser.add_argument("data", type=Path, metavar="DATA", help="the prepared data set")
    parser.add_argument("file", type=Path, metavar="FILE", help="the packed one")
    parser.add_argument("--unpack", action="store_true", help="make DATA of FILE")
    arguments = parser.parse_args()
    with exit_on_error("dcrafter.tiny.pack"):
        (unpack(arguments.file, arguments.data) if arguments.unpack else pack(arguments.data, arguments.file))


if __name__ == "__main__":
    main()
