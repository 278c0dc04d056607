"""The paper's protocols, over small data sets in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dcrafter.config import MODELS
from dcrafter.errors import InputError
from dcrafter.evaluation.__main__ import main
from dcrafter.evaluation.clips import list_clips
from dcrafter.evaluation.protocols import CLIPS, FRAMES, STRIDE, protocol_clips, write_protocol


def video(path: Path, length: int) -> None:
    """A video whose frame t is of gray 4 t, 30 a second: MPEG-4 in AVI as UCF-101's, or in MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, width=64, height=48, bit_rate=2_000_000)
        for t in range(length):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * t, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    for name, length in (("ApplyEyeMakeup", 50), ("YoYo", 46), ("TaiChi", 45)):  # the last is too short
        video(tmp_path / "UCF-101" / name / f"v_{name}_g01_c01.avi", length)
    return tmp_path


@pytest.fixture
def msrvtt(tmp_path: Path) -> Path:
    said = {"video1": ["a man walks", "someone walks"], "video7010": ["a dog runs"], "video7011": ["rain"]}
    found = {
        "videos": [{"video_id": name, "split": "train" if name == "video1" else "test"} for name in said],
        "sentences": [{"video_id": name, "caption": text} for name, texts in said.items() for text in texts],
    }
    (tmp_path / "test_videodatainfo.json").write_text(json.dumps(found))
    for name in ("video1", "video7010"):
        video(tmp_path / "TestVideo" / f"{name}.mp4", 60)
    return tmp_path


def test_the_numbers_are_the_papers() -> None:
    assert (CLIPS, STRIDE, FRAMES, MODELS["256"].width, MODELS["256"].height) == (2048, 3, 16, 256, 256)


def test_ucf_is_laid_out(
    ucf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["evaluation", "protocol", "ucf101", str(ucf), "-o", str(out)])
    main()
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "2 clips of 2048: no more are long enough"
    assert f"dcrafter batch {out / 'batch.jsonl'} -m 256" in said
    clips = {clip.name: clip for clip in list_clips(out / "real.jsonl")}
    assert {clip.caption for clip in clips.values()} == {"apply eye makeup", "yo yo"}
    clip = clips["v_YoYo_g01_c01"]
    frames = clip.load()
    assert frames.shape == (16, 256, 256, 3)
    assert frames[:, 0, 0, 0].tolist() == pytest.approx([12 * t for t in range(16)], abs=2)
    assert clip.image is not None
    assert np.array_equal(np.asarray(Image.open(clip.image)), frames[0].numpy())
    row = json.loads((out / "batch.jsonl").read_text().splitlines()[0])
    assert row.keys() == {"image", "prompt", "motion"}
    assert row["motion"] == STRIDE  # of the 256 model


def test_msrvtt_takes_test_videos_that_are_here(msrvtt: Path, tmp_path: Path) -> None:
    (clip,) = protocol_clips("msrvtt", msrvtt, seed=0)
    assert (clip.name, clip.caption) == ("video7010", "a dog runs")
    assert write_protocol([clip], tmp_path / "out", MODELS["512"], 9) == 1
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "batch.jsonl").read_text().splitlines()]
    assert row["motion"] == 15  # 10 frames a second, which is less than the model takes


def test_a_seed_decides_the_order(ucf: Path) -> None:
    names = [[clip.name for clip in protocol_clips("ucf101", ucf, seed)] for seed in (0, 0, 1, 2, 3)]
    assert names[0] == names[1]
    assert len({tuple(order) for order in names}) > 1


def test_another_layout_is_refused(tmp_path: Path) -> None:
    for name in ("ucf101", "msrvtt"):
        with pytest.raises(InputError, match="is not laid out as"):
            next(protocol_clips(name, tmp_path, 0))
