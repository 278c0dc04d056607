from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dcrafter.errors import InputError
from dcrafter.tiny import cutouts, prepare
from dcrafter.tiny.clips import ClipSampler
from dcrafter.tiny.packages import debian_files, qt_resources
from dcrafter.tiny.prepare import EMOJI_PACKAGES, held_out_images, image_name, normal_code
from dcrafter.tiny.prepared import PreparedData
from dcrafter.tiny.splits import fraction, held_out_names

LABELS = [
    {"label": "cat face", "hexcode": "1F431", "tags": ["pet"]},
    {
        "label": "hand",
        "hexcode": "270B",
        "tags": [],
        "skins": [{"label": "hand: dark", "hexcode": "270B-1F3FF"}, {"label": "hand: light", "hexcode": "270B-1F3FB"}],
    },
]


def archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def webp(color: tuple[int, int, int], frames: int) -> bytes:
    images = [Image.new("RGBA", (64, 64), (*color, 100 + 20 * i)) for i in range(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], duration=42, lossless=True)
    return buffer.getvalue()


def stamp(size: tuple[int, int]) -> Image.Image:
    """A blue ellipse on nothing, with some space around."""
    image = Image.new("RGBA", (size[0] + 40, size[1] + 40))
    ImageDraw.Draw(image).ellipse((20, 20, size[0] + 19, size[1] + 19), fill=(0, 0, 255, 255))
    return image


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Downloads as the registries' clients would leave them, and a small picture table."""
    folder = tmp_path / "work"
    folder.mkdir()
    archive(folder / "emojibase-data-1.0.0.tgz", {"package/en/data.json": json.dumps(LABELS).encode()})
    contents: list[dict[str, bytes]] = [
        {"package/assets/1f431.webp": webp((255, 0, 0), 4), "package/assets/ffff.webp": webp((1, 2, 3), 1)},
        {"package/assets/270b.webp": webp((0, 255, 0), 3), "package/assets/270b-1f3ff.webp": webp((0, 0, 255), 3)},
        {"package/assets/270b-1f3fb.webp": webp((0, 9, 255), 1)},
        {},
    ]
    for package, files in zip(EMOJI_PACKAGES, contents, strict=True):
        archive(folder / f"{package.lstrip('@').replace('/', '-')}-1.0.0.tgz", files)
    (folder / "walls").mkdir()
    Image.new("RGB", (300, 200), (9, 8, 7)).save(folder / "walls" / "a.png")
    Image.new("RGB", (3000, 2048), (1, 2, 3)).save(folder / "walls" / "b.png")
    rows = [{"package": "walls", "file": f"{name}.png", "label": name, "photograph": True} for name in "ab"]
    monkeypatch.setattr(prepare, "image_table", lambda: rows)
    stamps = folder / cutouts.STAMPS / cutouts.STAMP_FOLDER / "animals"
    stamps.mkdir(parents=True)
    stamp((200, 160)).save(stamps / "frog.png")
    (stamps / "frog.txt").write_text("A frog.\n")
    return folder


def test_it_builds_what_data_reads(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare.prepare(out, work)
    index = PreparedData(out)
    emoji = {row["hexcode"]: row for row in index.about["emoji"]}
    assert emoji.keys() == {"1f431", "270b", "270b-1f3ff", "270b-1f3fb"}  # what has no label is left out
    assert emoji["1f431"]["label"] == "cat face"
    assert emoji["270b-1f3ff"]["label"] == "hand"
    assert len({emoji[code]["split"] for code in emoji if code.startswith("270b")}) == 1
    moving = [code for code in emoji if emoji[code]["animation"] and code.startswith("270b")]
    assert len(moving) == 1  # one tone moves
    start, count = emoji["1f431"]["animation"]
    frames = index.animations[start : start + count]
    assert frames[:, 64, 64].tolist() == [[a, 0, 0, a] for a in (100, 120, 140, 160)]  # premultiplied red
    sizes = {row["label"]: index.pixels(row).shape for row in index.about["pictures"]}
    assert sizes == {"a": (200, 300, 3), "b": (1024, 1500, 3)}
    assert str(tmp_path) not in (out / "index.json").read_text()
    assert sum(row["split"] == "held-out" for row in index.about["pictures"]) == 1
    assert ClipSampler(out).ingredients.animated
    (frog,) = index.about["cutouts"]
    assert (frog["label"], frog["licence"], frog["name"]) == ("a frog", "GPL-2.0-or-later", "animals/frog.png")
    assert index.cutout(frog).shape == (160, 200, 4)
    assert index.cutout(frog)[80, 100].tolist() == [0, 0, 255, 255]


def test_twice_is_the_same_and_complete_is_left_alone(work: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        prepare.prepare(tmp_path / name, work)
    for file in ("animations.u8", "stills.u8", "cutouts.u8", "pictures.u8", "index.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    for path in work.glob("*.tgz"):
        path.unlink()
    prepare.prepare(tmp_path / "one", work)  # asks for nothing


def test_what_cannot_be_fetched_is_an_input_error(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    next(work.glob("emojibase*")).unlink()
    with pytest.raises(InputError, match="npm is not installed"):
        prepare.prepare(tmp_path / "out", work)
    assert not (tmp_path / "out" / "index.json").exists()


def test_a_package_is_unpacked_in_a_folder_with_a_relative_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "dpkg-deb"
    tool.write_text('#!/bin/sh\nmkdir "$3" && cp "$2" "$3/content"\n')
    tool.chmod(0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/pictures_1_all.deb").write_text("a package")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    assert (debian_files("pictures", Path("data")) / "content").read_text() == "a package"


def test_every_picture_of_the_table_names_its_licence_and_credit() -> None:
    rows = prepare.image_table()
    free = {"CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "GPL-2.0-or-later",
            "LGPL-3.0-only", "public-domain"}  # fmt: skip
    assert {row["licence"] for row in rows} <= free
    assert all(row["credit"] and row["label"] for row in rows)
    assert len({image_name(row) for row in rows}) == len(rows)


def test_splits_depend_on_names_alone() -> None:
    names = [f"picture {i}" for i in range(21)]
    assert len(held_out_names(names)) == 3
    assert held_out_names(names) == held_out_names(names[::-1])
    assert 0.03 < np.mean([fraction(name) < 0.05 for name in map(str, range(2000))]) < 0.07


def test_hex_codes_in_all_spellings() -> None:
    assert normal_code("1F3F3-FE0F-200D-26A7-FE0F") == normal_code("1f3f3-200d-26a7-fe0f") == "1f3f3-200d-26a7"


def test_a_new_source_of_images_changes_nothing_about_what_was_held_out() -> None:
    rows = prepare.image_table()
    wallpapers = [row for row in rows if "member" not in row]
    assert {"member" in row for row in rows} == {True, False}
    names = {image_name(row) for row in wallpapers}
    assert held_out_images(rows) & names == held_out_images(wallpapers)
    photographs = [image_name(row) for row in rows if row["photograph"]]
    assert len(held_out_images(rows) & {*photographs}) >= 0.1 * len(photographs)


def resource_file(files: dict[str, bytes], compressed: set[str]) -> bytes:
    """A binary Qt resource file of version 1 with a folder `pictures`."""
    names, data, tree, offsets = b"", b"", b"", {}
    for name in ("pictures", *files):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    tree += struct.pack(">IHII", 0, 2, 1, 1)  # the root, with one child
    tree += struct.pack(">IHII", offsets["pictures"], 2, len(files), 2)
    for name, content in files.items():
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if name in compressed else content
        tree += struct.pack(">IHHHI", offsets[name], int(name in compressed), 0, 0, len(data))
        data += struct.pack(">I", len(stored)) + stored
    header = struct.pack(">4s4I", b"qres", 1, 20, 20 + len(tree), 20 + len(tree) + len(data))
    return header + tree + data + names


def test_images_in_a_resource_file_are_read(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    red = io.BytesIO()
    Image.new("RGB", (64, 48), (255, 0, 0)).save(red, "PNG")
    files = {"a.png": red.getvalue(), "readme": b"words " * 100}
    path = work / "walls" / "all.rcc"
    path.write_bytes(resource_file(files, {"readme"}))
    assert dict(qt_resources(path)) == {f"/pictures/{name}": content for name, content in files.items()}
    row = {"package": "walls", "file": "all.rcc", "member": "/pictures/a.png"}
    assert prepare.open_image(row, work).getpixel((0, 0)) == (255, 0, 0)
    for wrong in ({**row, "member": "/pictures/b.png"}, {**row, "file": "a.png"}):
        with pytest.raises(InputError, match="cannot be read"):
            prepare.open_image(wrong, work)


@pytest.mark.parametrize(("text", "label"), [
    ("A hot air balloon.\nde=…", "a hot air balloon"),
    ("Teddy bear.", "teddy bear"),
    ("A boxcar is used to carry livestock.", ""),
    ("Eat your broccoli!", ""),
    ('A toy called a "Räuchermännchen".', ""),
    ("", ""),
])  # fmt: skip
def test_a_stamps_text_becomes_a_noun_phrase(text: str, label: str) -> None:
    assert cutouts.noun_phrase(text) == label


def test_what_is_no_cut_out() -> None:
    assert cutouts.trimmed(Image.new("RGBA", (200, 200), (1, 2, 3, 255))) is None  # an image
    assert cutouts.trimmed(Image.new("RGBA", (200, 200))) is None
    assert cutouts.trimmed(stamp((60, 200))) is None  # small
    large = cutouts.trimmed(stamp((1024, 512)))
    assert large is not None
    assert large.shape == (128, 256, 4)
