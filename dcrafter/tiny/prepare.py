"""Builds the built-in model's data set from package registries: `python -m dcrafter.tiny.prepare OUT`.

Emoji and their animations come from npm (`npm pack`), pictures from Debian's wallpaper packages
(`apt-get download`, after an `apt-get update`); `pictures.toml` beside this file says which pictures, under which
licence and by whom. Existing downloads are used. OUT then holds

- `animations.u8`: (N, 128, 128, 4) bytes, the frames of all animated emoji at 24 frames a second, one after the other;
- `stills.u8`: (M, 128, 128, 4) bytes, one frame of each emoji. Both are RGBA with premultiplied alpha;
- `pictures.u8`: RGB pictures of different sizes, short side at most 1024, one after the other;
- `index.json`: what is where, with label, tags, licence, credit and split of each (see `PreparedData`).

Of an emoji with skin tones every tone is a still, and one, chosen by a hash, an animation: all move alike.
Splits are chosen by hashes of names, so they stay the same wherever and whenever this runs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from dcrafter.errors import InputError, exit_on_error

EMOJI_PACKAGES = tuple(f"@lobehub/fluent-emoji-anim-{part}" for part in (1, 2, 3, 4))
LABEL_PACKAGE = "emojibase-data"
EMOJI_LICENSE = "MIT"
EMOJI_CREDIT = "Microsoft Fluent Emoji, packaged by LobeHub; labels by emojibase"

EMOJI_SIZE = 128
PICTURE_SIDE = 1024
HELD_OUT_LABELS = 0.05
HELD_OUT_PICTURES = 0.10  # 5 % would be two photographs

Image.MAX_IMAGE_PIXELS = None  # the wallpapers are large, and trusted


def fraction(name: str) -> float:
    """A number in [0, 1) that depends on `name` alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def emoji_split(label: str) -> str:
    return "held-out" if fraction(label) < HELD_OUT_LABELS else "train"


def held_out_pictures(names: list[str]) -> set[str]:
    """The `HELD_OUT_PICTURES` share of names, rounded up, whose hashes are smallest."""
    return set(sorted(names, key=fraction)[: math.ceil(HELD_OUT_PICTURES * len(names))])


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


# --- fetching


def run(command: list[str], folder: Path, advice: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not installed", advice) from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{' '.join(command)} failed: {last}", advice) from error


def npm_archive(package: str, work: Path) -> Path:
    """The package's archive in `work`, downloaded if it is missing."""
    stem = package.lstrip("@").replace("/", "-")
    if not any(work.glob(f"{stem}-[0-9]*.tgz")):
        say(f"npm pack {package}")
        run(["npm", "pack", "--silent", package], work, "It needs npm and its registry")
    return max(work.glob(f"{stem}-[0-9]*.tgz"))


def debian_files(package: str, work: Path) -> Path:
    """The folder in `work` with the package's files, downloaded and unpacked if it is missing."""
    folder = work / package
    if not folder.is_dir():
        if not any(work.glob(f"{package}_*.deb")):
            say(f"apt-get download {package}")
            run(
                ["apt-get", "download", package],
                work,
                "It needs Debian's packages; run `apt-get update` first",
            )
        part = work / f"{package}.part"
        run(
            ["dpkg-deb", "-x", str(max(work.glob(f"{package}_*.deb"))), str(part)],
            work,
            "Delete it and try again",
        )
        part.rename(folder)
    return folder


# --- emoji


def normal_code(code: str) -> str:
    """A hex code in lower case without variation selectors: packages spell it differently."""
    return code.lower().replace("_", "-").replace("-fe0f", "")


def read_labels(archive: Path) -> dict[str, dict[str, Any]]:
    """Normal hex code → {"label", "tags"} of the emoji; a skin tone has those of its base."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/en/data.json")
        assert member is not None
        rows = json.load(member)
    labels: dict[str, dict[str, Any]] = {}
    for row in rows:
        for one in [row, *row.get("skins", [])]:
            labels[normal_code(one["hexcode"])] = {"label": row["label"], "tags": row.get("tags", [])}
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
                "split": emoji_split(label["label"]),
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


# --- pictures


def picture_table() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("pictures.toml").read_text("utf-8"))["picture"]
    return rows


def convert_pictures(work: Path, out: Path) -> list[dict[str, Any]]:
    """Write `pictures.u8`; return the index of the images."""
    names = {f"{row['package']}/{row['file']}": row for row in picture_table()}
    held_out: set[str] = set()
    for photograph in (True, False):
        held_out |= held_out_pictures([name for name, row in names.items() if row["photograph"] is photograph])

    index = []
    offset = 0
    with open(out / "pictures.u8", "wb") as pictures:
        for name, row in sorted(names.items()):
            path = debian_files(row["package"], work) / row["file"]
            try:
                with Image.open(path) as image:
                    image.draft("RGB", (2 * PICTURE_SIDE, 2 * PICTURE_SIDE))
                    rgb = image.convert("RGB")
            except (OSError, UnidentifiedImageError) as error:
                raise InputError(f"{name} cannot be read: {error}", "Has the package changed?") from error
            scale = PICTURE_SIDE / min(rgb.size)
            if scale < 1:
                width, height = (round(side * scale) for side in rgb.size)
                rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
            pictures.write(rgb.tobytes())
            split = "held-out" if name in held_out else "train"
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
    pictures = convert_pictures(work, out)
    say(f"{len(pictures)} pictures")
    emoji = convert_emoji(archives, labels, out)
    index = {
        "emoji_size": EMOJI_SIZE,
        "emoji_licence": EMOJI_LICENSE,
        "emoji_credit": EMOJI_CREDIT,
        "emoji": emoji,
        "pictures": pictures,
    }
    part = out / "index.json.part"
    part.write_text(json.dumps(index, indent=1, ensure_ascii=False), "utf-8")
    part.rename(out / "index.json")  # last: an index means a complete data set
    say(f"{len(emoji)} emoji, {sum(row['animation'] is not None for row in emoji)} of them animated, in {out}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dcrafter.tiny.prepare", description="Build the data set.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the data set, 4 GB")
    parser.add_argument("--work", type=Path, help="folder that keeps the downloads (default: OUT/downloads)")
    arguments = parser.parse_args()
    with exit_on_error("dcrafter.tiny.prepare"):
        prepare(arguments.out, arguments.work or arguments.out / "downloads")


if __name__ == "__main__":
    main()
