"""Builds the built-in model's data set from package registries: `python -m dcrafter.tiny.prepare OUT`.

Emoji and their animations come from npm (`npm pack`), images and cut-outs from Debian's packages (`apt-get download`,
after an `apt-get update`); `pictures.toml` beside this file says which images, under which licence and by whom.
Existing downloads are used. OUT then holds

- `animations.u8`: (N, 128, 128, 4) bytes, the frames of all animated emoji at 24 frames a second, one after the other;
- `stills.u8`: (M, 128, 128, 4) bytes, one frame of each emoji. Both are RGBA with premultiplied alpha;
- `cutouts.u8`: cut-outs of different sizes, at most 256 pixels a side, RGBA with premultiplied alpha;
- `pictures.u8`: RGB images of different sizes, short side at most 1024, one after the other;
- `index.json`: what is where, with label, tags, licence, credit and split of each (see `PreparedData`).

Of an emoji with skin tones every tone is a still, and one, chosen by a hash, an animation: all move alike.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from dcrafter.errors import InputError, exit_on_error
from dcrafter.tiny.cutouts import convert_cutouts
from dcrafter.tiny.packages import debian_files, npm_archive, qt_resources, say
from dcrafter.tiny.splits import fraction, held_out_names, label_split

EMOJI_PACKAGES = tuple(f"@lobehub/fluent-emoji-anim-{part}" for part in (1, 2, 3, 4))
LABEL_PACKAGE = "emojibase-data"
EMOJI_LICENSE = "MIT"
EMOJI_CREDIT = "Microsoft Fluent Emoji, packaged by LobeHub; labels by emojibase"

EMOJI_SIZE = 128
PICTURE_SIDE = 1024
Image.MAX_IMAGE_PIXELS = None  # the wallpapers are large, and trusted


# --- emoji


def normal_code(code: str) -> str:
    """A hex code in lower case without variation selectors: packages spell it differently."""
    return code.lower().replace("_", "-").replace("-fe0f", "")


def read_labels(archive: Path) -> dict[str, dict[str, Any]]:
    """Normal hex code → {"label", "tags", "group"} of the emoji; a skin tone has those of its base."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/en/data.json")
        assert member is not None
        rows = json.load(member)
    labels: dict[str, dict[str, Any]] = {}
    for row in rows:
        for one in [row, *row.get("skins", [])]:
            labels[normal_code(one["hexcode"])] = {
                "label": row["label"],
                "tags": row.get("tags", []),
                "group": row.get("group"),
            }
    return labels


def emoji_files(archives: list[Path]) -> Iterator[tuple[str, bytes]]:
    """(hex code, WebP file), package by package."""
    for archive in archives:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.endswith(".webp") and (file := tar.extractfile(member)) is not None:
                    yield Path(member.name).stem, file.read()


def emoji_frames(webp: bytes, animated: bool) -> np.ndarray:
    """The frames (n, 128, 128, 4), premultiplied; without `animated` only the first that shows something."""
    with Image.open(io.BytesIO(webp)) as image:
        frames = []
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            small = image.convert("RGBA").convert("RGBa").resize((EMOJI_SIZE, EMOJI_SIZE), Image.Resampling.LANCZOS)
            frame = np.asarray(small)
            if not animated and (frame[..., 3] > 127).mean() > 0.02:
                return frame[None]
            frames.append(frame)
    return np.stack(frames) if animated else frames[0][None]


def is_animated(webp: bytes) -> bool:
    with Image.open(io.BytesIO(webp)) as image:
        return getattr(image, "n_frames", 1) > 1


def convert_emoji(archives: list[Path], labels: dict[str, dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Write `animations.u8` and `stills.u8`; return the index of the emoji, by label then code."""
    files = sorted((code, webp) for code, webp in emoji_files(archives) if normal_code(code) in labels)
    by_label: dict[str, list[str]] = {}
    for code, webp in files:
        if is_animated(webp):
            by_label.setdefault(labels[normal_code(code)]["label"], []).append(code)
    moving = {min(codes, key=fraction) for codes in by_label.values()}

    index = []
    start = 0
    with (
        ProcessPoolExecutor(os.cpu_count()) as pool,
        open(out / "animations.u8", "wb") as animations,
        open(out / "stills.u8", "wb") as stills,
    ):
        converted = pool.map(
            emoji_frames, [webp for _, webp in files], [code in moving for code, _ in files], chunksize=8
        )
        for i, ((code, _), frames) in enumerate(zip(files, converted, strict=True)):
            label = labels[normal_code(code)]
            full = max(range(len(frames)), key=lambda k: (frames[k][..., 3] > 127).mean() > 0.02)
            stills.write(frames[full].tobytes())
            entry = {
                **label,
                "hexcode": code,
                "split": label_split(label["label"]),
                "still": i,
                "animation": None,
            }
            if code in moving:
                animations.write(frames.tobytes())
                entry["animation"] = [start, len(frames)]
                start += len(frames)
            index.append(entry)
            if (i + 1) % 500 == 0:
                say(f"{i + 1} of {len(files)} emoji")
    return index


# --- images


def image_table() -> list[dict[str, Any]]:
    """The rows of `pictures.toml`."""
    rows: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("pictures.toml").read_text("utf-8"))["picture"]
    return rows


def image_name(row: dict[str, Any]) -> str:
    """What an image of the table is known by."""
    return "/".join([row["package"], row["file"], *([row["member"].lstrip("/")] if "member" in row else [])])


def held_out_images(rows: list[dict[str, Any]]) -> set[str]:
    """A share of each kind of image of the wallpaper packages, and of those in resource files.

    So images of another source change nothing about what was held out before.
    """
    groups: dict[tuple[bool, bool], list[str]] = {}
    for row in rows:
        groups.setdefault((row["photograph"], "member" in row), []).append(image_name(row))
    return set().union(*map(held_out_names, groups.values()))


def open_image(row: dict[str, Any], work: Path) -> Image.Image:
    """An image of the table in RGB, its short side at most `PICTURE_SIDE`. Raises InputError where it is unreadable."""
    path = debian_files(row["package"], work) / row["file"]
    try:
        content = dict(qt_resources(path))[row["member"]] if "member" in row else path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (2 * PICTURE_SIDE, 2 * PICTURE_SIDE))
            rgb = image.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, KeyError) as error:
        raise InputError(f"{image_name(row)} cannot be read: {error}", "Has the package changed?") from error
    scale = PICTURE_SIDE / min(rgb.size)
    if scale >= 1:
        return rgb
    width, height = (round(side * scale) for side in rgb.size)
    return rgb.resize((width, height), Image.Resampling.LANCZOS)


def convert_images(work: Path, out: Path) -> list[dict[str, Any]]:
    """Write `pictures.u8`; return the index of the images."""
    rows = image_table()
    held_out = held_out_images(rows)
    index = []
    offset = 0
    with open(out / "pictures.u8", "wb") as images:
        for row in sorted(rows, key=image_name):
            rgb = open_image(row, work)
            images.write(rgb.tobytes())
            split = "held-out" if image_name(row) in held_out else "train"
            index.append({**row, "split": split, "offset": offset, "height": rgb.height, "width": rgb.width})
            offset += rgb.height * rgb.width * 3
    return index


def prepare(out: Path, work: Path) -> None:
    """Build the data set in `out`; `work` keeps the downloads. Raises InputError where a package is out of reach."""
    if (out / "index.json").exists():
        say(f"{out} is complete: nothing to do")
        return
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    labels = read_labels(npm_archive(LABEL_PACKAGE, work))
    archives = [npm_archive(package, work) for package in EMOJI_PACKAGES]
    images = convert_images(work, out)
    say(f"{len(images)} images")
    cutouts = convert_cutouts(work, out)
    say(f"{len(cutouts)} cut-outs")
    emoji = convert_emoji(archives, labels, out)
    index = {
        "emoji_size": EMOJI_SIZE,
        "emoji_licence": EMOJI_LICENSE,
        "emoji_credit": EMOJI_CREDIT,
        "emoji": emoji,
        "cutouts": cutouts,
        "pictures": images,
    }
    part = out / "index.json.part"
    part.write_text(json.dumps(index, indent=1, ensure_ascii=False), "utf-8")
    part.rename(out / "index.json")  # last: an index means a complete data set
    say(f"{len(emoji)} emoji, {sum(row['animation'] is not None for row in emoji)} of them animated, in {out}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dcrafter.tiny.prepare", description="Build the data set.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the data set, 5 GB")
    parser.add_argument("--work", type=Path, help="folder that keeps the downloads (default: OUT/downloads)")
    arguments = parser.parse_args()
    with exit_on_error("dcrafter.tiny.prepare"):
        prepare(arguments.out, arguments.work or arguments.out / "downloads")


if __name__ == "__main__":
    main()
