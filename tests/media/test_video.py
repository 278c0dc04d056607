from __future__ import annotations

import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import ExifTags, Image

from dcrafter.errors import InputError, OutputError, UsageError, WriteError
from dcrafter.media import video
from dcrafter.media.formats import FORMATS, format_of
from dcrafter.media.video import check_output, encode_video, read_drawings, read_settings, read_video, write_video
from dcrafter.settings import WriteOptions

SETTINGS = {
    "prompt": 'Katze gähnt\n猫が"あくび"する 🐱\\ \0',
    "seed": 2**40,
    "guidance_scale": 7.5,
    "stops": [None, True],
}
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128), "white": (255,) * 3}
MOST_DIFFERENCE = {"mp4": 3, "webm": 3, "gif": 0, "webp": 4, "apng": 0, "frames": 0}


def moving_square(count: int = 16, height: int = 48, width: int = 64) -> np.ndarray:
    """A red square that moves right over a sky that changes from top to bottom."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 2] = np.linspace(100, 255, height, dtype=np.uint8)[:, None]
    for index, frame in enumerate(frames):
        frame[8:24, 2 * index : 2 * index + 16] = COLOURS["red"]
    return frames


def output(folder: Path, format: str) -> Path:
    return folder / f"cat{FORMATS[format].suffix}"


def boxes(data: bytes) -> list[bytes]:
    """The names of an MP4's top-level boxes."""
    names, position = [], 0
    while position < len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        names.append(name)
        position += size
    return names


# Round trips


@pytest.mark.parametrize("fps", [8, 23.976])
@pytest.mark.parametrize("format", FORMATS)
def test_round_trip(tmp_path: Path, format: str, fps: float) -> None:
    frames = moving_square()
    path = write_video(frames, output(tmp_path, format), fps=fps, settings=SETTINGS)
    read, rate = read_video(path)
    assert (read.dtype, read.shape) == (np.uint8, frames.shape)
    assert rate == pytest.approx(fps, rel=5e-3 if format == "gif" else 1e-3)
    assert np.abs(read.astype(int) - frames).mean() < 6
    assert read_settings(path) == SETTINGS
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("format", FORMATS)
def test_colours_come_back(tmp_path: Path, format: str, colour: str) -> None:
    frames = np.full((2, 32, 32, 3), COLOURS[colour], np.uint8)
    read, _ = read_video(write_video(frames, output(tmp_path, format)))
    assert np.abs(read.astype(int) - COLOURS[colour]).max() <= MOST_DIFFERENCE[format]


@pytest.mark.parametrize("format", FORMATS)
def test_brightness_comes_back(tmp_path: Path, format: str) -> None:
    frames = np.linspace((40, 60, 90), (200, 180, 160), 64).astype(np.uint8) * np.ones((2, 64, 1, 1), np.uint8)
    read, _ = read_video(write_video(frames, output(tmp_path, format)))
    assert np.abs((read.astype(int) - frames).mean(axis=(0, 1, 2))).max() < 0.8


@pytest.mark.parametrize("format", FORMATS)
def test_a_single_frame(tmp_path: Path, format: str) -> None:
    read, _ = read_video(write_video(moving_square(1), output(tmp_path, format)))
    assert read.shape == (1, 48, 64, 3)


@pytest.mark.parametrize("format", FORMATS)
def test_frames_that_stand_still_keep_their_time(tmp_path: Path, format: str) -> None:
    frames = moving_square()[[0, 0, 0, 1, 2, 3, 3, 4]]  # Pillow stores five
    read, rate = read_video(write_video(frames, output(tmp_path, format)))
    assert read.shape == frames.shape
    assert rate == pytest.approx(8)
    assert np.abs(read.astype(int) - frames).mean() < 6


@pytest.mark.parametrize("format", FORMATS)
def test_a_video_of_identical_frames_can_be_written(tmp_path: Path, format: str) -> None:
    path = write_video(np.repeat(moving_square(1), 16, axis=0), output(tmp_path, format), settings=SETTINGS)
    assert read_video(path)[0].shape[1:] == (48, 64, 3)
    assert read_settings(path) == SETTINGS


def test_gif_delays_keep_the_pace(tmp_path: Path) -> None:
    delays = []
    with Image.open(write_video(moving_square(), tmp_path / "cat.gif")) as image:
        for index in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(index)
            delays.append(image.info["duration"])
        assert image.info["loop"] == 0
    assert set(delays) == {120, 130}
    assert sum(delays) == 2000


def test_gif_has_one_palette_that_suits_all_frames(tmp_path: Path) -> None:
    frames = np.stack([np.full((48, 48, 3), colour, np.uint8) for colour in COLOURS.values()])
    read, _ = read_video(write_video(frames, tmp_path / "cat.gif"))
    assert np.array_equal(read, frames)


@pytest.mark.parametrize("format", FORMATS)
def test_without_settings_none_are_embedded(tmp_path: Path, format: str) -> None:
    assert read_settings(write_video(moving_square(2), output(tmp_path, format))) is None


def test_a_comment_of_somebody_else_is_no_settings(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in moving_square(2)]
    frames[0].save(tmp_path / "cat.gif", save_all=True, append_images=frames[1:], comment="made with love")
    assert read_settings(tmp_path / "cat.gif") is None


# MP4 and WebM


@pytest.mark.parametrize(("name", "codec"), [("cat.mp4", "h264"), ("cat.webm", "vp9")])
def test_browsers_can_play_it(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(moving_square(), tmp_path / name)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert context.codec.canonical_name == codec
        assert context.pix_fmt == "yuv420p"
        assert (context.width, context.height) == (64, 48)
        assert (stream.average_rate, len(list(container.decode(stream)))) == (8, 16)
        assert (context.colorspace, context.color_range) == (Colorspace.ITU709, ColorRange.MPEG)
        assert (context.color_primaries, context.color_trc) == (ColorPrimaries.BT709, ColorTrc.BT709)


def test_mp4_plays_before_it_is_loaded(tmp_path: Path) -> None:
    names = boxes(write_video(moving_square(), tmp_path / "cat.mp4").read_bytes())
    assert names.index(b"moov") < names.index(b"mdat")


def test_odd_sizes_gain_a_copied_edge(tmp_path: Path) -> None:
    frames = moving_square(4, 47, 63)
    frames[:, -1] = COLOURS["red"]
    read, _ = read_video(write_video(frames, tmp_path / "cat.mp4", WriteOptions(crf=1)))
    assert read.shape == (4, 48, 64, 3)
    assert np.abs(read[:, :47, :63].astype(int) - frames).mean() < 4
    assert np.abs(read[:, 47, 4:60].astype(int) - COLOURS["red"]).max() < 12
    assert read_video(write_video(frames, tmp_path / "cat.gif"))[0].shape == frames.shape


@pytest.mark.parametrize(
    ("codec", "name", "expected"),
    [("h265", "cat.mp4", "hevc"), ("av1", "cat.mp4", "av1"), ("av1", "cat.webm", "av1"), ("mpeg4", "cat.mp4", "mpeg4")],
)
def test_other_codecs(tmp_path: Path, codec: str, name: str, expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_video(moving_square(height=64), tmp_path / name, WriteOptions(codec=codec))
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert context.codec.canonical_name == expected
        assert context.codec_tag == "hvc1" or codec != "h265"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_crf_trades_size_for_quality(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    fine, default, coarse = (len(encode_video(noise, WriteOptions(format, crf=crf))) for crf in (5, None, 50))
    assert fine > 1.2 * default > 2 * coarse


def test_encoded_bytes_are_the_file(tmp_path: Path) -> None:
    data = encode_video(moving_square(), WriteOptions("mp4"), fps=12, settings=SETTINGS)
    (tmp_path / "piped").write_bytes(data)
    assert read_video(tmp_path / "piped")[1] == 12
    assert read_settings(tmp_path / "piped") == SETTINGS
    with pytest.raises(UsageError, match="pipe"):
        encode_video(moving_square(), WriteOptions("frames"))


def test_phone_videos_are_read_upright(tmp_path: Path) -> None:
    path = write_video(moving_square(), tmp_path / "cat.mp4")
    upright, _ = read_video(path)
    identity, quarter_turn = (struct.pack(">9i", *numbers) for numbers in (
        (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30),
    ))  # fmt: skip
    data = path.read_bytes()
    track = data.index(b"tkhd")
    path.write_bytes(data[:track] + data[track:].replace(identity, quarter_turn, 1))
    assert np.array_equal(read_video(path)[0], np.rot90(upright, -1, axes=(1, 2)))


# Frames


def test_frames_are_numbered_pngs_with_settings(tmp_path: Path) -> None:
    frames = moving_square(11)
    folder = write_video(frames, tmp_path / "new" / "cat", WriteOptions("frames"), fps=5, settings=SETTINGS)
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:04}.png" for number in range(1, 12)]
    assert read_settings(folder / "0007.png") == SETTINGS
    assert read_video(folder)[1] == 5
    (folder / "0010.png").rename(folder / "10.png")  # sorted as numbers, not as text
    assert np.array_equal(read_video(folder)[0], frames)


# Choosing


@pytest.mark.parametrize(
    ("name", "wanted", "format"),
    [
        ("cat.mp4", None, "mp4"),
        ("CAT.WEBM", None, "webm"),
        ("a.b/cat.png", None, "apng"),
        ("cat.frames", None, "frames"),
        ("cat", "gif", "gif"),
        ("cat.mp4", "webp", "webp"),
        ("-", "mp4", "mp4"),
    ],
)
def test_format_of(name: str, wanted: str | None, format: str) -> None:
    assert format_of(name, wanted) == format


@pytest.mark.parametrize(("name", "wanted"), [("cat", None), ("cat.avi", None), ("cat.mp4", "avi"), ("cat.mp4", "")])
def test_unknown_formats_name_the_choices(name: str, wanted: str | None) -> None:
    with pytest.raises(UsageError, match="mp4, webm, gif, webp, apng, frames"):
        format_of(name, wanted)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("cat.mp4", {"codec": "nope"}, "h264, h265, vp9, av1"),
        ("cat.mp4", {"codec": "aac"}, "codec 'aac'"),
        ("cat.webm", {"codec": "h264"}, "webm cannot hold h264"),
        ("cat.webm", {"codec": "libx264"}, "cannot write webm"),
        ("cat.mp4", {"crf": 64}, "crf"),
        ("cat.gif", {"codec": "h264"}, "mp4 and webm"),
        ("cat.png", {"crf": 18}, "mp4 and webm"),
        ("cat.mp4", {"fps": 0}, "frames per second"),
        ("cat.mp4", {"fps": float("nan")}, "frames per second"),
        ("cat.gif", {"fps": 60}, "0.1 to 50"),
    ],
)
def test_options_without_meaning_are_refused(
    tmp_path: Path, name: str, options: dict[str, Any], complaint: str
) -> None:
    fps = options.pop("fps", 8.0)
    with pytest.raises(UsageError, match=complaint):
        write_video(moving_square(), tmp_path / name, WriteOptions(**options), fps=fps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(16, 48, 64), (0, 48, 64, 3), (16, 48, 64, 4)])
def test_only_frames_are_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="uint8"):
        write_video(np.zeros(shape, np.uint8), tmp_path / "cat.mp4")


# All or nothing


@contextmanager
def small_disk() -> Iterator[None]:
    """Files cannot grow beyond 600 bytes, pytest's own output neither: as on a full disk, the writing itself fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("format", ["mp4", "frames"])
def test_the_content_is_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    path, synced = output(tmp_path, format), []

    def fsync(file: int) -> None:
        assert not path.exists()
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    write_video(moving_square(3), path)
    files = [path] if path.is_file() else [*path.iterdir()]
    assert sorted(synced) == sorted(file.stat().st_size for file in files)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path: Path, format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    with pytest.raises(WriteError) as caught, small_disk():
        write_video(noise, output(tmp_path / "a" / "b", format), settings=SETTINGS)
    assert caught.value.advice
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interruption_leaves_what_was_there(
    tmp_path: Path, format: str, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise failure

    path = write_video(moving_square(3), output(tmp_path, format), settings={"seed": 1})
    monkeypatch.setattr(video, "_verify", interrupted)
    for place in (path, output(tmp_path / "new", format)):
        with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt):
            write_video(moving_square(), place, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    assert read_settings(path) == {"seed": 1}
    assert len(read_video(path)[0]) == 3


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write_video(moving_square(3), tmp_path / "cat.frames")
    monkeypatch.setattr(Path, "replace", forbidden)
    with pytest.raises(OutputError, match="Permission denied"):
        write_video(moving_square(), path, overwrite=True)
    assert len(read_video(path)[0]) == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("damage", [lambda frame: frame[1:], lambda frame: None])
def test_a_file_that_reads_back_wrong_is_not_kept(
    tmp_path: Path, format: str, damage: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = video._stored_frames

    def damaged(path: Path) -> Iterator[tuple[np.ndarray, float]]:
        for index, (frame, seconds) in enumerate(stored(path)):
            changed = damage(frame) if index == 2 else frame  # type: ignore[operator]
            if changed is not None:
                yield changed, seconds

    monkeypatch.setattr(video, "_stored_frames", damaged)
    with pytest.raises(OutputError, match="another length or size"):
        write_video(moving_square(), output(tmp_path, format))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_existing_results_are_replaced_on_demand_only(tmp_path: Path, format: str) -> None:
    path = write_video(moving_square(4), output(tmp_path, format))
    with pytest.raises(OutputError, match=r"already exists.*--overwrite"):
        write_video(moving_square(6), path)
    assert len(read_video(path)[0]) == 4
    write_video(moving_square(6), path, overwrite=True)
    assert len(read_video(path)[0]) == 6
    assert list(tmp_path.iterdir()) == [path]


def test_a_result_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_verify", lambda *_: (tmp_path / "cat.mp4").write_bytes(b"of another process"))
    with pytest.raises(OutputError, match="already exists"):
        write_video(moving_square(), tmp_path / "cat.mp4")
    assert (tmp_path / "cat.mp4").read_bytes() == b"of another process"


def test_only_its_like_is_replaced(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"precious")
    with pytest.raises(OutputError, match="more than numbered PNGs"):
        write_video(moving_square(), photos, WriteOptions("frames"), overwrite=True)
    with pytest.raises(OutputError, match="not a file"):
        write_video(moving_square(), photos, WriteOptions("mp4"), overwrite=True)
    with pytest.raises(OutputError, match="not a folder"):
        write_video(moving_square(), photos / "cat.jpg", WriteOptions("frames"), overwrite=True)
    with pytest.raises(OutputError, match="not a file"):
        write_video(moving_square(), "/dev/null", WriteOptions("mp4"), overwrite=True)
    assert (photos / "cat.jpg").read_bytes() == b"precious"


def test_places_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is not a writable folder"):
        write_video(moving_square(), tmp_path / "file" / "cat.mp4")
    with pytest.raises(OutputError, match="/proc is not a writable folder"):  # its permissions say that it were
        check_output(Path("/proc/cat.mp4"), "mp4")
    with pytest.raises(OutputError, match="too long"):
        check_output(tmp_path / ("cat" * 100), "mp4")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(video, "TemporaryFile", forbidden)
        with pytest.raises(OutputError, match="not a writable folder"):
            check_output(tmp_path / "new" / "cat.mp4", "mp4")
    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(WriteError, match="Permission denied"):
        write_video(moving_square(), tmp_path / "new" / "cat.mp4")


# Reading what cannot be read


@pytest.mark.parametrize(
    "content", [None, b"", b"a cat, in words", b"GIF89a", b"\x89PNG\r\n\x1a\nIHDR", b"RIFF0000WEBP"]
)
def test_bad_videos_are_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "cat.mp4"
    if content is not None:
        path.write_bytes(content)
    for read in (read_video, read_settings):
        with pytest.raises(InputError, match=r"cannot read .*cat\.mp4") as caught:
            read(path)
        assert caught.value.advice
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile private.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.ts\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_list_of_files_is_no_video(tmp_path: Path, name: str, text: str) -> None:
    for suffix in ("mp4", "ts"):
        write_video(moving_square(), tmp_path / f"private.{suffix}", WriteOptions("mp4"), settings={"seed": 1})
    (tmp_path / name).write_text(text)
    for read in (read_video, read_settings):
        with pytest.raises(InputError, match=f"cannot read .*{name}"):
            read(tmp_path / name)


def test_a_description_that_is_no_text_is_no_settings(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = 7
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.webp", exif=exif)
    assert read_settings(tmp_path / "cat.webp") is None


def test_a_folder_must_hold_frames_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames"):
        read_video(tmp_path)
    with pytest.raises(InputError):
        read_settings(tmp_path)
    for number in (1, 2):
        Image.new("RGB", (8, 8 * number)).save(tmp_path / f"{number}.png")
    with pytest.raises(InputError, match="several sizes"):
        read_video(tmp_path)


def test_drawings_are_those_of_frames_by_number_or_spread_over_a_clip(tmp_path: Path) -> None:
    gray = [np.full((4, 6, 3), value, np.uint8) for value in (0, 100, 200)]
    (tmp_path / "some").mkdir()
    for number, pixels in zip((1, 5, 16), gray, strict=True):
        Image.fromarray(pixels).save(tmp_path / "some" / f"{number:03}.png")
    drawn = read_drawings(tmp_path / "some", 16)
    assert {t: np.asarray(image)[0, 0, 0] for t, image in drawn.items()} == {0: 0, 4: 100, 15: 200}
    with pytest.raises(InputError, match=r"1\.png to 15\.png"):
        read_drawings(tmp_path / "some", 15)
    write_video(np.stack(gray), tmp_path / "all.apng")
    spread = read_drawings(tmp_path / "all.apng", 5)
    assert [np.asarray(spread[t])[0, 0, 0] for t in range(5)] == [0, 0, 100, 200, 200]
