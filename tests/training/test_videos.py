from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dcrafter.config import MODELS
from dcrafter.errors import InputError
from dcrafter.media.video import write_video
from dcrafter.settings import WriteOptions
from dcrafter.training.videos import VideoData, Videos, motion_condition, there_and_back

LENGTH, STEP = 40, 6  # frames of a video, and how much brighter each is than the one before


def numbered(count: int = LENGTH, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames whose brightness tells their number."""
    return np.ones((count, height, width, 3), np.uint8) * (STEP * np.arange(count, dtype=np.uint8))[:, None, None, None]


def numbers(clip: dict[str, Any]) -> list[int]:
    frames: Tensor = clip["frames"]
    return (frames.float().mean((1, 2, 3)) / STEP).round().int().tolist()


def encode(
    path: Path,
    codec: str,
    *,
    format: str | None = None,
    b_frames: int = 0,
    times: Sequence[int] = range(LENGTH),
    pix_fmt: str = "yuv420p",
) -> Path:
    """Writes the numbered frames with a keyframe at least every 8; `times` are in 24ths of a second."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, pix_fmt, 8
        stream.codec_context.max_b_frames, stream.bit_rate = b_frames, 4_000_000
        stream.codec_context.time_base = Fraction(1, 24)
        for time, pixels in zip(times, numbered(), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def videos(path: Path, *, seed: int = 0, length: int = 12, frames: int = 5, **options: Any) -> Videos:
    return Videos(path, VideoData(**options), seed, length, height=16, width=16, frames=frames)


def assert_every_clip_is_right(source: Videos, fps: float = 24, *, strides: tuple[int, int] = (1, 6)) -> None:
    starts = set()
    for clip in (source[index] for index in range(source.length)):
        shown, stride = numbers(clip), clip["stride"]
        assert shown == [shown[0] + stride * step for step in range(source.frames)]
        assert strides[0] <= stride <= strides[1]
        assert clip["fps"] == pytest.approx(fps / stride, rel=0.02)
        starts.add(shown[0])
    assert len(starts) > source.length / 3


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert torch.equal(first["frames"], second["frames"])
    assert {k: v for k, v in first.items() if k != "frames"} == {k: v for k, v in second.items() if k != "frames"}


def manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def captions(source: Videos) -> set[str]:
    return {source[index]["caption"] for index in range(source.length)}


def cut_off(path: Path) -> Path:
    """An MP4 that has its index in front, but not all it tells of."""
    write_video(np.random.default_rng(0).integers(0, 256, (LENGTH, 48, 64, 3), dtype=np.uint8), path)
    path.write_bytes(path.read_bytes()[:-20000])
    return path


# Clips


@pytest.mark.parametrize(("name", "codec", "more"), [
    ("a.mp4", "libx264", {"b_frames": 2}),
    ("a.mov", "libx264", {"b_frames": 2}),
    ("a.m4v", "libx264", {}),
    ("a.mkv", "libx264", {"b_frames": 2}),
    ("a.webm", "libvpx-vp9", {}),
    ("a.gif", "gif", {"pix_fmt": "rgb8"}),
    ("a.avi", "mpeg4", {"b_frames": 2}),
    ("h264.avi", "libx264", {"b_frames": 2}),  # its times of showing are wrong
    ("elementary.m4v", "mpeg4", {"b_frames": 2, "format": "m4v"}),  # seeking there ends too late
    ("late.mp4", "libx264", {"b_frames": 2, "times": range(1000, 1000 + LENGTH)}),
], ids=lambda value: value if isinstance(value, str) and "." in value else "")  # fmt: skip
def test_clips_are_the_frames_they_should_be(tmp_path: Path, name: str, codec: str, more: dict[str, Any]) -> None:
    path = encode(tmp_path / name, codec, **more)
    source = videos(tmp_path)
    assert source.videos == [(str(path), name.split(".")[0])]
    assert_every_clip_is_right(source)
    assert not source.broken
    assert not source.damaged


def test_a_stream_without_times_has_the_nominal_rate(tmp_path: Path) -> None:
    encode(tmp_path / "a.m4v", "libx264", format="h264", b_frames=2)
    assert_every_clip_is_right(videos(tmp_path), 25)


def test_a_varying_rate_is_measured_in_the_clip(tmp_path: Path) -> None:
    half = LENGTH // 2
    encode(tmp_path / "a.mkv", "libx264", times=[*range(half), *range(half, half + 3 * half, 3)])  # 24, then 8
    rates = set()
    for clip in (videos(tmp_path, frames=4, strides=(2, 2), length=30)[index] for index in range(30)):
        shown = numbers(clip)
        assert shown == list(range(shown[0], shown[0] + 8, 2))
        if shown[-1] < half:
            rates.add(round(clip["fps"], 1))
            assert clip["fps"] == pytest.approx(12, rel=0.02)
        elif shown[0] >= half:
            rates.add(round(clip["fps"], 1))
            assert clip["fps"] == pytest.approx(4, rel=0.02)
    assert len(rates) >= 2


def test_a_short_video_gets_the_largest_stride_that_fits(tmp_path: Path) -> None:
    write_video(numbered(11), tmp_path / "a.mp4", fps=12)
    source = videos(tmp_path, strides=(4, 6))
    for index in range(12):
        clip = source[index]
        assert clip["stride"] == 2
        assert clip["fps"] == pytest.approx(6)
        assert numbers(clip) in ([0, 2, 4, 6, 8], [1, 3, 5, 7, 9], [2, 4, 6, 8, 10])
    whole = videos(tmp_path, strides=(4, 6), frames=11)[0]
    assert (numbers(whole), whole["stride"]) == (list(range(11)), 1)


def test_a_clip_of_one_frame(tmp_path: Path) -> None:
    write_video(numbered(), tmp_path / "a.mp4", fps=12)
    source = videos(tmp_path, frames=1, length=40)
    clips = [source[index] for index in range(40)]
    assert {clip["frames"].shape for clip in clips} == {(1, 16, 16, 3)}
    assert len({numbers(clip)[0] for clip in clips}) > 15
    assert all(clip["fps"] == pytest.approx(12 / clip["stride"]) for clip in clips)


class Counting:
    """A container that counts the frames it decodes."""

    frames = 0

    def __init__(self, container: Any) -> None:
        self.container = container

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def decode(self, stream: Any) -> Iterator[Any]:
        for frame in self.container.decode(stream):
            Counting.frames += 1
            yield frame


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "a.mp4", "libx264")
    opened = av.open
    monkeypatch.setattr(av, "open", lambda path, **options: Counting(opened(path, **options)))
    monkeypatch.setattr(Counting, "frames", 0)
    assert_every_clip_is_right(videos(tmp_path, strides=(1, 1)), strides=(1, 1))
    assert 12 * 5 <= Counting.frames <= 12 * (5 + 7)  # keyframes are at most 8 apart


def test_the_picture_covers_and_is_cut_to_its_middle(tmp_path: Path) -> None:
    frames = np.zeros((8, 64, 256, 3), np.uint8)
    frames[:, :, 96:160] = (255, 0, 0)  # the middle square
    frames[:, :, :96] = frames[:, :, 160:] = (0, 0, 255)
    write_video(frames, tmp_path / "wide.mp4")
    clip = Videos(tmp_path, VideoData(), 0, 1, height=32, width=32, frames=4)[0]["frames"]
    assert (clip.shape, clip.dtype) == ((4, 32, 32, 3), torch.uint8)
    assert (clip[:, :, 2:-2].float() - torch.tensor([255.0, 0, 0])).abs().max() < 12
    clip = Videos(tmp_path, VideoData(), 0, 1, height=16, width=64, frames=4)[0]["frames"]
    assert clip.shape == (4, 16, 64, 3)
    assert (clip[:, :, :20].float() - torch.tensor([0, 0, 255.0])).abs().max() < 12
    assert (clip[:, :, 26:38].float() - torch.tensor([255.0, 0, 0])).abs().max() < 12


def test_scaling_is_antialiased(tmp_path: Path) -> None:
    checked = np.zeros((6, 128, 128, 3), np.uint8)
    checked[:, ::2, ::2] = checked[:, 1::2, 1::2] = 255
    write_video(checked, tmp_path / "a.mp4", WriteOptions(crf=0))
    clip = videos(tmp_path)[0]["frames"][:, 1:-1, 1:-1].float()
    assert (clip - 127.5).abs().max() < 6


def test_the_same_index_gives_the_same_clip_and_another_does_not(tmp_path: Path) -> None:
    for name in "abc":
        write_video(numbered(), tmp_path / f"{name}.mp4")
    (tmp_path / "bad.mp4").write_text("no video")
    first, second = videos(tmp_path, seed=3), videos(tmp_path, seed=3)
    clips = [first[index] for index in range(12)]
    for index in reversed(range(12)):
        assert_same(clips[index], second[index])
    assert len({(clip["caption"], clip["stride"], *numbers(clip)) for clip in clips}) > 6
    others = [videos(tmp_path, seed=4)[index] for index in range(12)]
    assert any(not torch.equal(one["frames"], other["frames"]) for one, other in zip(clips, others, strict=True))


def test_workers_make_the_same_clips(tmp_path: Path) -> None:
    write_video(numbered(), tmp_path / "a.mp4")
    (tmp_path / "bad.mp4").write_text("no video")
    source = videos(tmp_path, length=4)
    loader = DataLoader(pickle.loads(pickle.dumps(source)), batch_size=2, num_workers=1)
    for number, batch in enumerate(loader):
        for place in range(2):
            assert torch.equal(batch["frames"][place], source[2 * number + place]["frames"])
            assert batch["caption"][place] == "a"


# Files that fail


def test_bad_videos_are_skipped_named_once_and_not_opened_again(tmp_path: Path) -> None:
    write_video(numbered(), tmp_path / "good.mp4")
    write_video(numbered(4), tmp_path / "short.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mkv").touch()
    cut_off(tmp_path / "cut.mp4")
    rows = [{"path": file.name, "text": file.stem} for file in tmp_path.iterdir()]
    source = videos(manifest(tmp_path / "all.csv", [*rows, {"path": "missing.mp4", "text": "missing"}]), length=40)
    clips = [source[index] for index in range(len(source))]
    assert {clip["caption"] for clip in clips} == {"good"}
    assert {path.stem for path in source.broken} == {"short", "text", "empty", "cut", "missing"}
    assert not source.damaged
    assert "4 frames" in source.broken[tmp_path / "short.mp4"]
    assert "No such file" in source.broken[tmp_path / "missing.mp4"]
    lines = [line for clip in clips for line in clip["skipped"].splitlines()]
    assert sorted(lines) == sorted(f"{path}: {why}" for path, why in source.broken.items())
    write_video(numbered(), tmp_path / "text.mp4", overwrite=True)  # too late: it is not even looked at
    assert captions(source) == {"good"}
    assert not any(source[index]["skipped"] for index in range(len(source)))


def test_a_video_damaged_in_places_makes_no_clip_depend_on_the_ones_before(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (LENGTH, 48, 64, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "damaged.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.gop_size, stream.bit_rate = 64, 48, 1, 2_000_000
        for pixels in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "damaged.mkv")) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = (tmp_path / "damaged.mkv").read_bytes()
    hurt = packets[30]
    assert data.count(hurt) == 1
    (tmp_path / "damaged.mkv").write_bytes(data.replace(hurt, bytes(len(hurt))))
    write_video(numbered(), tmp_path / "good.mp4")
    onwards, backwards = (videos(tmp_path, length=24, strides=(1, 2)) for _ in range(2))
    clips = [onwards[index] for index in range(24)]
    for index in reversed(range(24)):
        assert_same(clips[index], backwards[index])
    assert {clip["caption"] for clip in clips} == {"damaged", "good"}
    assert list(onwards.damaged) == [tmp_path / "damaged.mkv"]
    assert not onwards.broken
    assert sum("damaged.mkv" in clip["skipped"] for clip in clips) == 1


def test_nothing_readable_is_an_error_and_not_a_loop(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_text("no video")
    source = videos(tmp_path)
    for index in range(2):
        with pytest.raises(InputError, match=r"every video of .* failed, as .*\.mp4: Invalid data") as caught:
            source[index]
        assert caught.value.advice
    rows = [{"path": f"{number}.mp4", "caption": ""} for number in range(1000)]
    source = videos(manifest(tmp_path / "all.jsonl", rows))
    with pytest.raises(InputError, match=r"100 videos in turn .* No such file"):
        source[0]
    assert len(source.broken) <= 100


def test_some_files_are_held_out_and_the_same_ones_wherever_they_lie(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(60)]

    def split(folder: Path, held_out: bool | None) -> set[str]:
        path = manifest(folder / "all.csv", [{"path": name, "caption": name} for name in names])
        source = Videos(path, VideoData(), 0, 1, height=16, width=16, held_out=held_out)
        return {caption for _, caption in source.videos}

    (tmp_path / "elsewhere").mkdir()
    train, held_out = split(tmp_path, False), split(tmp_path / "elsewhere", True)
    assert len(held_out) == 3
    assert train == set(names) - held_out
    assert split(tmp_path, None) == set(names)
    names[:] = names[:2]
    assert len(split(tmp_path, True)) == 1
    names[:] = names[:1]
    assert split(tmp_path, True) == split(tmp_path, False) == {"0.mp4"}


# Folders and manifests


def test_a_folder_is_searched_through(tmp_path: Path) -> None:
    deep = tmp_path / "deep" / "er"
    deep.mkdir(parents=True)
    video = write_video(numbered(), tmp_path / "A-red_fox.runs.MP4", WriteOptions("mp4")).read_bytes()
    (deep / "x.mov").write_bytes(video)
    (deep / "x.txt").write_text("a dog barks\n", "utf-8")
    (deep / "notes.md").write_text("no video")
    source = videos(tmp_path)
    assert [caption for _, caption in source.videos] == ["A red fox runs", "a dog barks"]
    assert captions(source) == {"A red fox runs", "a dog barks"}


@pytest.mark.parametrize("inside", ["", "videos"])
def test_webvid(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside / "000001_000050"
    folder.mkdir(parents=True)
    write_video(numbered(), folder / "1066674784.mp4")
    row = {"videoid": 1066674784, "contentUrl": "https://example.com/1.mp4", "duration": "PT00H00M05S"}
    row |= {"page_dir": "000001_000050", "name": 'A "cat", yawning'}
    source = videos(manifest(tmp_path / "results.csv", [row]))
    assert source[0]["caption"] == 'A "cat", yawning'
    assert not source.broken


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_annotations_filter_and_reword(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "clips").mkdir()
    rows = []
    for name, confidence, category, wording in [
        ("surf", 0.9, "human", "Man surfing."), ("sea", 0.4, "nature", "Waves rolling."),
        ("run", 0.8, "human", ""), ("cat", 0.7, "animal", "Cat yawning."),
    ]:  # fmt: skip
        (tmp_path / "clips" / f"{name}.mp4").touch()
        row = {"file": f"clips/{name}.mp4", "caption": name, "dynamic_confidence": confidence}
        rows.append({**row, "dynamic_source_category": category, "dynamic_wording": wording})
    path = manifest(tmp_path / f"all.{suffix}", rows)

    def texts(**options: Any) -> set[str]:
        return {caption for _, caption in videos(path, **options).videos}

    assert texts() == {"surf", "sea", "run", "cat"}
    assert texts(confidence=0.7) == {"surf", "run", "cat"}
    assert texts(categories=("animal", "nature")) == {"sea", "cat"}
    assert texts(confidence=0.5, categories=("human",), wording="dynamic") == {"Man surfing.", "run"}
    with pytest.raises(InputError, match=r"of 4 videos in .* the filter leaves none.*confidence"):
        videos(path, confidence=0.95)
    with pytest.raises(InputError, match=r"of 4 videos .* the filter leaves none"):
        videos(tmp_path / "clips", categories=("human",))


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("a.csv", "where,caption\na.mp4,a cat\n", "line 2, lacks a file.*`path`"),
    ("a.csv", "path,words\na.mp4,a cat\n", "line 2, lacks a caption.*`caption`"),
    ("a.csv", "videoid,name\n12,a cat\n", "line 2, lacks a file.*`page_dir`"),
    ("a.csv", "path,caption\n", "holds no videos"),
    ("a.csv", "path,caption\na.mp4,\"a cat\" and\n", "cannot be read"),
    ("a.csv", "path,text,dynamic_confidence\na.mp4,a,high\n", "line 2,: dynamic_confidence must be a number"),
    ("a.jsonl", '{"path": "a.mp4", "text": "a cat"}\n\n{"path": \n', "line 3, is no JSON object"),
    ("a.jsonl", '["a.mp4"]\n', "line 1, is no JSON object"),
    ("a.jsonl", "", "holds no videos"),
    ("a.jsonl", b"\xff\xfe\x00", "cannot be read"),
    ("a.txt", "a.mp4\n", "neither a folder nor a manifest"),
])  # fmt: skip
def test_bad_manifests_are_refused_with_advice(tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=problem) as caught:
        videos(path)
    assert caught.value.advice
    assert "\n" not in str(caught.value)


def test_columns_as_people_write_them_and_missing_captions(tmp_path: Path) -> None:
    write_video(numbered(), tmp_path / "a.mp4")
    table = tmp_path / "all.csv"
    table.write_text("File_Name, Caption\na.mp4,a cat\na.mp4\n")
    assert videos(table).videos == [(str(tmp_path / "a.mp4"), "a cat"), (str(tmp_path / "a.mp4"), "")]
    assert videos(table).about() == f"videos in {table}: 1, 1 without a caption"
    lines = tmp_path / "all.jsonl"
    lines.write_text('{"video": "a.mp4", "caption": null}\n')
    assert captions(videos(lines)) == {""}
    assert videos(tmp_path).about().endswith("1 with no .txt beside it: its name is the caption")


def test_places_without_videos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*nowhere.*manifest"):
        videos(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds no videos.*\.mp4"):
        videos(tmp_path)


@pytest.mark.parametrize("options", [{"strides": (0, 3)}, {"strides": (4, 3)}, {"strides": (1,)}, {"wording": "loud"}])
def test_options_without_a_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        VideoData(**options)


def test_a_loop_of_a_video() -> None:
    clip = {"frames": torch.arange(16)[:, None, None, None].expand(-1, 1, 1, 3), "fps": 12.0, "stride": 2}
    swung = there_and_back(clip)
    assert swung["frames"][:8, 0, 0, 0].tolist() == [0, 1, 2, 5, 8, 11, 14, 15]  # slow where it turns
    assert torch.equal(swung["frames"], swung["frames"].flip(0))
    assert (swung["fps"], swung["stride"]) == (6.0, 4)


@pytest.mark.parametrize("rate", [23.976, 24, 25, 29.97, 30, 48, 50, 60])
@pytest.mark.parametrize("stride", range(1, 7))
def test_the_condition_drops_fractions_as_the_released_code(rate: float, stride: int) -> None:
    measured = rate / stride - 1e-9  # as rounded times give it
    assert motion_condition({"fps": measured, "stride": stride}, MODELS["512"].motion) == rate // stride
    assert motion_condition({"fps": measured, "stride": stride}, MODELS["256"].motion) == stride


@pytest.mark.parametrize(("frames", "stride"), [(2, 6), (7, 6), (8, 5), (10, 4), (11, 3), (13, 3), (20, 2)])
def test_a_video_too_short_for_its_stride_gets_that_of_the_released_code(
    tmp_path: Path, frames: int, stride: int
) -> None:
    encode(tmp_path / "video.mp4", "mpeg4")  # of 40 frames
    assert videos(tmp_path, strides=(6, 6), frames=frames)[0]["stride"] == stride
