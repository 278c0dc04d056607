from __future__ import annotations

import builtins
import importlib.util
import json
import struct
import subprocess
import sys
import types
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import binary, integers, lists, none, sampled_from, tuples
from PIL import Image, ImageCms, ImageOps
from safetensors.torch import load_file

from dcrafter.errors import InputError, NumericalError, UsageError
from dcrafter.media import image as module
from dcrafter.media.image import (
    describe_crop,
    fit_image,
    fit_reference,
    match_colors,
    open_image,
    read_stdin,
    to_frames,
    to_tensor,
)

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_without_pixels(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# The published preprocessing


@pytest.mark.parametrize("case", ["dc256/animate", "dc512/animate", "dc512/interpolate", "dc512/multicfg"])
def test_frames_are_the_golden_ones_exactly(case: str) -> None:
    facts = json.loads((GOLDEN / f"{case}.json").read_text())
    tensors = load_file(GOLDEN / f"{case}.safetensors")
    for name, picture in zip(("first_frame", "last_frame"), facts["images"], strict=False):
        image = open_image((GOLDEN / case).parent / picture)
        assert torch.equal(to_tensor(fit_image(image, facts["width"], facts["height"])), tensors[name])


@pytest.mark.parametrize(("number", "width", "height"), [(0, 512, 320), (1, 256, 256), (2, 1024, 576)])
def test_full_size_frames_have_the_golden_sums(number: int, width: int, height: int) -> None:
    expected = load_file(GOLDEN / "preprocess.safetensors")[f"{number}.model_input_sha"]
    image = open_image(GOLDEN / f"preprocess_{number}.png")
    tensor = to_tensor(fit_image(image, width, height)).double()
    # One pixel off by one would change the sum by 8e-3.
    assert tensor.sum().item() == pytest.approx(expected[0].item(), abs=1e-3)
    assert tensor.square().sum().item() == pytest.approx(expected[1].item(), abs=1e-3)


# Opening


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    picture = noise(5, 3)
    path = tmp_path / "noise.png"
    path.write_bytes(saved(picture))
    pixels = np.asarray(picture)
    sources = [str(path), path, path.read_bytes(), BytesIO(path.read_bytes()), picture, pixels, pixels / 255]
    for source in sources:
        opened = open_image(source)
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), pixels)


def test_arrays_may_have_one_or_four_channels() -> None:
    grey = np.array([[0, 255]], np.uint8)
    assert np.asarray(open_image(grey)).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert np.asarray(open_image(grey[..., None])).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    clear = np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)
    assert np.asarray(open_image(clear, background=BLUE)).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_exif_orientation_is_applied_and_the_source_left_alone() -> None:
    picture = noise(4, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned = open_image(saved(picture, exif=exif))
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(picture), -1))

    source = Image.open(BytesIO(saved(picture, exif=exif)))
    assert open_image(source).size == (2, 4)
    assert source.size == (4, 2)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    picture = noise(4, 2)
    opened = open_image(saved(picture, exif=b"Exif\0\0II*\0garbage, not a directory"))
    assert np.array_equal(np.asarray(opened), np.asarray(picture))


def palette_with_transparency() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    return saved(image, transparency=b"\xff\x00")


def rgb_with_transparent_colour() -> bytes:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    return saved(image, transparency=GREEN)


def rgba() -> bytes:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*GREEN, 0))
    return saved(image)


@pytest.mark.parametrize("make", [palette_with_transparency, rgb_with_transparent_colour, rgba])
def test_transparency_shows_the_background(make: object) -> None:
    assert np.asarray(open_image(make())).tolist() == [[list(RED), list(WHITE)]]  # type: ignore[operator]
    assert np.asarray(open_image(make(), background=BLUE)).tolist() == [[list(RED), list(BLUE)]]  # type: ignore[operator]


def test_half_transparent_grey_is_mixed_with_the_background() -> None:
    image = Image.new("LA", (1, 1), (0, 128))
    assert open_image(saved(image)).getpixel((0, 0)) == (127, 127, 127)


def test_wide_greyscale_is_scaled_not_cut_off() -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    expected = [0, 1, 128, 255]
    assert np.asarray(open_image(saved(Image.fromarray(values))))[0, :, 0].tolist() == expected
    assert np.asarray(open_image(saved(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == expected
    assert np.asarray(open_image(Image.fromarray(values.astype(np.int32))))[0, :, 0].tolist() == expected
    unit = (values / 65535).astype(np.float32)
    assert np.asarray(open_image(saved(Image.fromarray(unit), "TIFF")))[0, :, 0].tolist() == expected
    assert np.asarray(open_image(Image.fromarray(unit * 255)))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_colour_modes_keep_their_colours(mode: str) -> None:
    colour = WHITE if mode in "1L" else RED
    opened = open_image(Image.new("RGB", (2, 2), colour).convert(mode))
    assert np.abs(np.asarray(opened).astype(int) - colour).max() <= 1


def test_cmyk_jpeg() -> None:
    opened = open_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(np.asarray(opened).astype(int) - RED).max() <= 3


def red_green_swapped_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmp.", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tmp.", b"gXYZ", 1)


def test_embedded_profile_is_converted_to_srgb() -> None:
    profile = red_green_swapped_profile()
    opened = open_image(saved(Image.new("RGB", (1, 1), RED), icc_profile=profile))
    assert np.abs(np.subtract(opened.getpixel((0, 0)), GREEN)).max() <= 1
    clear = open_image(saved(Image.new("RGBA", (1, 1), (*RED, 0)), icc_profile=profile))
    assert clear.getpixel((0, 0)) == WHITE  # the background is sRGB already


def test_an_opened_image_opens_as_itself() -> None:
    gray = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    for profile in (gray, srgb, None):
        opened = open_image(saved(noise(8, 5), "JPEG", icc_profile=profile, exif=exif))
        assert opened.size == (5, 8)
        again = open_image(opened)
        assert again.size == (5, 8)
        assert again.tobytes() == opened.tobytes()


def test_srgb_profile_changes_nothing() -> None:
    picture = noise(64, 64)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(np.asarray(open_image(saved(picture, icc_profile=profile))), np.asarray(picture))


@pytest.mark.parametrize("profile", [b"no profile", red_green_swapped_profile()[:300]], ids=["none", "cut"])
def test_damaged_profile_is_ignored(profile: bytes) -> None:
    assert open_image(saved(Image.new("RGB", (1, 1), RED), icc_profile=profile)).getpixel((0, 0)) == RED


def test_profile_of_another_colour_space_is_ignored() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    opened = open_image(saved(image, "TIFF", icc_profile=red_green_swapped_profile()))
    assert opened.getpixel((0, 0)) == RED


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], duration=100, **options)
    assert open_image(data).getpixel((4, 4)) == RED


def test_huge_pictures_are_refused_by_their_header() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    for size in ((30_000, 30_000), (12_000, 10_000)):  # Pillow refuses the first and warns of the second
        with pytest.raises(InputError, match="more than 64 million pixels"):
            open_image(png_without_pixels(*size))
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match="cannot be decoded"):
        open_image(png_without_pixels(100, 100))
    with pytest.raises(InputError, match="million pixels"):
        open_image(noise(5, 5), max_pixels=24)
    assert open_image(noise(5, 5), max_pixels=25).size == (5, 5)


def test_heic_needs_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    heic = b"\0\0\0\x18ftypheic" + bytes(32)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match="pip install pillow-heif"):
        open_image(heic)

    def register() -> None:
        monkeypatch.setattr(Image, "ID", [*Image.ID, "HEIF"])
        opener = (lambda file, name: Image.new("RGB", (2, 2), RED), lambda head: head[4:8] == b"ftyp")
        monkeypatch.setitem(Image.OPEN, "HEIF", opener)

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    assert open_image(heic).getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"a cat, in words", "not an image"),
        (saved(noise(64, 64), "JPEG")[:1500], "cannot be decoded"),
        (saved(noise(64, 64))[:1500], "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded|not an image"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "cat.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        open_image(path)
    assert str(path) in caught.value.message
    assert caught.value.advice
    assert "\n" not in str(caught.value)


def test_folders_and_forbidden_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        open_image(tmp_path)

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", forbidden)
    with pytest.raises(InputError, match=r"Permission denied.*readable"):
        open_image("cat.png")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 9), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.int64),
        np.full((8, 8, 3), 200.0),
        np.full((8, 8, 3), -0.5),
        np.full((8, 8, 3), np.nan),
        np.array(["cat"]),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError) as caught:
        open_image(array)
    assert caught.value.advice


def test_things_that_are_no_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="NoneType"):
        open_image(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))


# What attackers send


def test_postscript_never_reaches_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(subprocess, "check_call", forbidden)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n"
    path = tmp_path / "cat.png"
    path.write_bytes(program)
    for source in (path, program, BytesIO(program)):
        with pytest.raises(InputError, match="not an image"):
            open_image(source)


def jpeg_of(width: int, height: int, progressive: bool = False) -> bytes:
    """A JPEG whose header says that it is so large, and which has a few rows."""
    small = saved(noise(64, 64), "JPEG", progressive=progressive)
    marker = small.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    return small[: marker + 5] + struct.pack(">HH", height, width) + small[marker + 9 :]


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    """Each goes over all pixels: 500 of them, in 64 kB, took 4 seconds."""
    whole = saved(noise(64, 64), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    assert open_image(whole + b"\xff\xda" * 200).size == (64, 64)  # a film behind it, as telephones append
    with pytest.raises(InputError, match="too many scans"):
        open_image(whole[:last] + whole[last:-2] * 200 + whole[-2:])


@pytest.mark.slow
def test_photos_larger_than_the_limit_are_decoded_reduced() -> None:
    photo = Image.new("RGB", (12000, 9000), RED)
    photo.paste(BLUE, (6000, 0, 12000, 9000))
    opened = open_image(saved(photo, "JPEG", exif=turned(6)))
    assert opened.size == (4500, 6000)
    assert np.abs(np.subtract(opened.getpixel((2000, 100)), RED)).max() <= 3  # left became top
    assert np.abs(np.subtract(opened.getpixel((2000, 5900)), BLUE)).max() <= 3
    for size in ((30_000, 20_000), (65_000, 65_000)):
        with pytest.raises(InputError, match="more than 400 million pixels"):
            open_image(jpeg_of(*size))
    with pytest.raises(InputError, match="more than 128 million pixels"):
        open_image(jpeg_of(12_000, 11_000, progressive=True))  # its coefficients alone would take 800 MB


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright(orientation: int) -> None:
    picture = noise(3, 2)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(saved(picture, exif=turned(orientation)))))
    assert np.array_equal(
        np.asarray(open_image(saved(picture, exif=turned(orientation)))), np.asarray(expected.convert("RGB"))
    )


def test_strips_are_converted_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 60000, (37, 11), dtype=np.uint16))
    clear = noise(11, 37).convert("RGBA")
    clear.putalpha(deep.point(lambda value: value / 256).convert("L"))
    for image in (deep, clear, palette_with_transparency()):
        monkeypatch.setattr(module, "STRIP_PIXELS", 10**6)
        whole = np.asarray(open_image(image))
        monkeypatch.setattr(module, "STRIP_PIXELS", 30)
        assert np.array_equal(np.asarray(open_image(image)), whole)


def test_endless_and_oversized_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    content = saved(noise(64, 64))
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    stream = BytesIO(content)
    for read in (lambda: open_image(path), lambda: open_image(stream), lambda: read_stdin(BytesIO(content))):
        with pytest.raises(InputError, match=r"more than 0\.001 MB"):
            read()
    assert stream.tell() == 1001


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes as Linux does")
@pytest.mark.parametrize(("mode", "side"), [("F", 10_000), ("F", 5_000), ("I;16", 5_000), ("RGBA", 6_000)])
def test_small_files_take_no_gigabytes(tmp_path: Path, mode: str, side: int) -> None:
    path = tmp_path / "bomb.tif"
    Image.new(mode, (side, side)).save(path, "TIFF", compression="tiff_adobe_deflate")
    assert path.stat().st_size < 1_000_000
    script = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from dcrafter.errors import InputError\n"
        "from dcrafter.media.image import open_image\n"
        "open_image(np.zeros((8, 8, 3), np.uint8))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    open_image(sys.argv[1])\n"
        "except InputError:\n"
        "    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    kilobytes = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    assert int(kilobytes) < 340_000


def test_much_metadata_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(4, 2)
    image.info["exif"] = turned(6).tobytes() + bytes(2_000_000)
    monkeypatch.setattr(Image.Image, "getexif", lambda *_: pytest.fail("it was"))
    assert open_image(image).size == (4, 2)


def test_heic_is_offered_only_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="AVIF file"):
        open_image(b"a cat, in words")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace())
    with pytest.raises(InputError, match="HEIC file"):
        open_image(b"a cat, in words")


SEEDS = {
    format: saved(noise(24, 16).convert(mode), format, **options)
    for format, mode, options in (
        ("PNG", "RGBA", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"}),
        ("JPEG", "RGB", {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}),
        ("WEBP", "RGBA", {}),
        ("TIFF", "F", {"compression": "tiff_adobe_deflate"}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("PPM", "RGB", {}),
        ("AVIF", "RGB", {}),
    )
}


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(
    format=sampled_from(sorted(SEEDS)),
    edits=lists(tuples(integers(0, 2**16), binary(min_size=1, max_size=4)), max_size=6),
    end=none() | integers(0, 2**16),
)
def test_damaged_files_are_images_or_clean_errors(format: str, edits: list[tuple[int, bytes]], end: int | None) -> None:
    content = bytearray(SEEDS[format])
    for place, replacement in edits:
        place %= len(content)
        content[place : place + len(replacement)] = replacement
    with suppress(InputError):
        opened = open_image(bytes(content[:end]))
        assert opened.mode == "RGB"
        assert 0 < opened.width * opened.height <= module.MAX_PIXELS


# Fitting


@pytest.mark.parametrize(
    ("source", "frame", "scaled", "corner"),
    [
        ((200, 100), (96, 64), (128, 64), (16, 0)),  # too wide: the sides are cut
        ((100, 200), (96, 64), (96, 192), (0, 64)),  # upright: nothing is padded, top and bottom are cut
        ((161, 100), (96, 64), (103, 64), (4, 0)),  # 103.04 is rounded down, half of 7 to the even 4
        ((165, 100), (96, 64), (105, 64), (4, 0)),  # half of 9 to the even 4
        ((40, 20), (64, 128), (256, 128), (96, 0)),  # a small one is enlarged
    ],
)
def test_crop_covers_the_frame(
    source: tuple[int, int], frame: tuple[int, int], scaled: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = noise(*source)
    left, top = corner
    expected = image.resize(scaled, Image.Resampling.BILINEAR)
    expected = expected.crop((left, top, left + frame[0], top + frame[1]))
    assert np.array_equal(np.asarray(fit_image(image, *frame)), np.asarray(expected))


def test_pad_shows_everything_centred_on_the_background() -> None:
    pixels = np.asarray(fit_image(Image.new("RGB", (200, 100), RED), 96, 64, "pad", background=BLUE))
    assert (pixels[8:56] == RED).all()
    assert (np.concatenate([pixels[:8], pixels[56:]]) == BLUE).all()
    pixels = np.asarray(fit_image(Image.new("RGB", (1, 500), RED), 96, 64, "pad"))
    assert (pixels[:, 47:49] == RED).all(axis=(0, 2)).sum() == 1  # thinner than a pixel, yet there


@pytest.mark.parametrize(
    ("fit", "upright", "wide"),
    [
        ("crop", 50, 50),
        ("crop:top", 0, 50),
        ("crop:bottom", 100, 50),
        ("crop:left", 50, 0),
        ("crop:right", 50, 100),
    ],
)
def test_a_crop_may_keep_one_side(fit: str, upright: int, wide: int) -> None:
    image = noise(100, 200)
    expected = np.asarray(image)[upright : upright + 100]
    assert np.array_equal(np.asarray(fit_image(image, 100, 100, fit)), expected)
    lying = image.transpose(Image.Transpose.TRANSPOSE)
    assert np.array_equal(np.asarray(fit_image(lying, 100, 100, fit)), np.asarray(lying)[:, wide : wide + 100])


@pytest.mark.parametrize(
    ("size", "fit", "line"),
    [
        ((250, 450), "crop", "keeps the middle 56 %; --fit pad keeps all, --fit crop:top the top"),
        ((250, 450), "crop:top", "keeps the top 56 %; --fit pad keeps all"),
        ((250, 450), "crop:left", "keeps the middle 56 %; --fit pad keeps all, --fit crop:top the top"),
        ((2560, 440), "crop", "keeps the middle 17 %; --fit pad keeps all, --fit crop:left the left"),
        ((3000, 10), "crop", "keeps the middle less than 1 %; --fit pad keeps all, --fit crop:left the left"),
        ((250, 450), "pad", None),
        ((250, 450), "stretch", None),
        ((450, 300), "crop", None),
        ((300, 450), "crop", "keeps the middle 67 %; --fit pad keeps all, --fit crop:top the top"),
    ],
)
def test_what_a_crop_leaves_is_told(size: tuple[int, int], fit: str, line: str | None) -> None:
    assert describe_crop(size, 256, 256, fit) == line


def test_stretch_ignores_the_aspect_ratio() -> None:
    image = noise(200, 100)
    expected = image.resize((64, 96), Image.Resampling.BILINEAR)
    assert np.array_equal(np.asarray(fit_image(image, 64, 96, "stretch")), np.asarray(expected))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_picture_of_the_right_size_is_untouched(fit: str) -> None:
    image = noise(96, 64)
    assert np.array_equal(np.asarray(fit_image(image, 96, 64, fit)), np.asarray(image))


def test_unknown_fits_and_slivers_are_refused() -> None:
    with pytest.raises(UsageError, match="crop, crop:top"):
        fit_image(noise(4, 4), 4, 4, "cover")
    with pytest.raises(InputError, match="too narrow"):
        fit_image(Image.new("RGB", (1, 5000)), 512, 320)


# Tensors


def test_all_256_values_survive_the_round_trip() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = to_tensor(Image.fromarray(values))
    assert (tensor.dtype, tensor.shape) == (torch.float32, (3, 16, 16))
    assert (tensor.min(), tensor.max()) == (-1, 1)
    frames = to_frames(tensor[:, None])
    assert (frames.dtype, frames.shape) == (np.uint8, (1, 16, 16, 3))
    assert np.array_equal(frames[0], values)


def test_frames_are_rounded_and_clamped() -> None:
    video = torch.tensor([-3.0, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 0.0, 7.0]).expand(3, 1, 1, 5)
    assert to_frames(video)[0, 0, :, 0].tolist() == [0, 1, 2, 128, 255]
    assert to_frames(torch.ones(3, 2, 4, 5, dtype=torch.bfloat16)).shape == (2, 4, 5, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_never_become_frames(value: float) -> None:
    with pytest.raises(NumericalError):
        to_frames(torch.full((3, 1, 2, 2), value))


def test_colours_that_drift_are_taken_back() -> None:
    rng = torch.Generator().manual_seed(0)
    first, last = torch.rand(2, 3, 16, 16, generator=rng) * torch.tensor([0.6, 1.0]).view(2, 1, 1, 1) - 0.4
    drift = torch.linspace(0, 0.3, 5).view(-1, 1, 1, 1)
    matched = match_colors(0.8 * first.expand(5, -1, -1, -1) + drift, first[None])
    torch.testing.assert_close(matched, first.expand(5, -1, -1, -1))  # every frame, not the first alone
    between = match_colors(first.expand(5, -1, -1, -1), torch.stack([first, last]))
    torch.testing.assert_close(between[0], first)
    torch.testing.assert_close(between[-1].mean((1, 2)), last.mean((1, 2)))
    torch.testing.assert_close(between[-1].std((1, 2)), last.std((1, 2)))
    torch.testing.assert_close(between[2].mean((1, 2)), (first.mean((1, 2)) + last.mean((1, 2))) / 2)
    flat = match_colors(torch.zeros(1, 3, 4, 4), first[None])  # nothing to stretch
    torch.testing.assert_close(flat, first.mean((1, 2)).view(1, 3, 1, 1).expand(1, 3, 4, 4))


@pytest.mark.parametrize("fit", ["crop", "crop:top", "crop:left", "pad", "stretch"])
@pytest.mark.parametrize("size", [(451, 300), (250, 450)])
def test_a_reference_lies_as_the_models_input_does(fit: str, size: tuple[int, int]) -> None:
    """Two smooth ramps tell a place; both fits put it within a pixel of the smaller frame."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    image = Image.fromarray(np.stack([x, y, 0 * x + 128], axis=-1).astype(np.uint8))
    large = np.asarray(fit_reference(image, 128, 128, fit).resize((64, 64), Image.Resampling.BOX)).astype(float)
    small = np.asarray(fit_image(image, 64, 64, fit)).astype(float)
    middle = slice(16, 48)  # within the padding
    assert np.abs(large - small)[middle, middle].max() < 255 / 64 + 2
