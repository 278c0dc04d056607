"""`python -m dcrafter.evaluation videos`, from folders to figures."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from dcrafter.config import MODELS
from dcrafter.evaluation.__main__ import main
from dcrafter.evaluation.extraction import Extraction
from dcrafter.evaluation.videos import named
from dcrafter.media.video import write_video
from dcrafter.metrics import METRICS
from dcrafter.settings import WriteOptions

CLIPS, SIZE = 4, 64


def scene(seed: int, step: int) -> np.ndarray:
    """Blocks that go `step` pixels to the right in each of eight frames."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).repeat(SIZE // 8, 0).repeat(SIZE // 8, 1)
    return np.stack([np.roll(blocks, step * t, axis=1) for t in range(8)]).astype(np.uint8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`real` videos, a run that is `near` to them, and one of `noise`."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(1)
    for number in range(CLIPS):
        name, settings = f"scene {number}.mp4", {"prompt": "pan left", "images": [f"scene {number}.png"]}
        write_video(scene(number, 2), folder / "real" / name, settings=settings)
        write_video(scene(number, 3), folder / "near" / name, settings=settings)
        noise = rng.integers(0, 256, (8, SIZE, SIZE, 3)).astype(np.uint8)
        write_video(noise, folder / "noise" / name, settings=settings)
    write_video(scene(0, 2), folder / "frames" / "scene 0", WriteOptions(format="frames"))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["evaluation", "videos", *map(str, arguments), "--device", "cpu"])
    main()


@pytest.mark.slow
def test_two_runs_are_measured_side_by_side(
    runs: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot, page = (tmp_path / name for name in ("o.json", "o.svg", "o.html"))
    given = (runs / "near", runs / "noise", "--data", runs / "real", "--checkpoint", checkpoint)
    run(monkeypatch, *given, "--out", out, "--plot", plot, "--html", page)
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| metric | better | near | noise | reference | n |"
    assert len(rows) == len(METRICS)
    near, noise, real = json.loads(out.read_text())["runs"]
    figures = {name: [run["figures"][name]["value"] for run in (near, noise)] for name in METRICS}
    assert figures["fvd"][0] < figures["fvd"][1]
    for name in ("first_frame", "direction", "clip_frames"):
        assert figures[name][0] > figures[name][1], name
    assert real["figures"]["motion"]["value"] == pytest.approx(100 * 2 / SIZE, rel=0.15)
    assert near["figures"]["pic"]["n"] == len(near["clips"]) == CLIPS
    text = page.read_text()
    assert text.count("<video") == 3 * CLIPS
    assert "scene%200.mp4" in text
    assert plot.read_text().count("<rect") == 1 + 3 * len(METRICS)


def test_without_real_videos_there_are_no_distances_to_them(
    runs: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, runs / "near", "--only", "flicker,motion", "--count", "2")
    assert [line.split(" | ")[-1] for line in capsys.readouterr().out.splitlines()[2:]] == ["2 |", "2 |"]
    for only, problem in (("fvd", "needs real videos"), ("sharpness", "there is no metric sharpness")):
        with pytest.raises(SystemExit) as left:
            run(monkeypatch, runs / "near", "--only", only)
        assert left.value.code == 2
        assert problem in capsys.readouterr().err


def test_a_page_plays_folders_of_frames(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page" / "o.html"
    page.parent.mkdir()
    run(monkeypatch, runs / "frames", "--only", "flicker", "--html", page)
    (frames,) = re.findall(r'data-frames="([^"]*)"', page.read_text())
    addresses = json.loads(html.unescape(frames))
    assert len(addresses) == 8
    assert all((page.parent / unquote(address)).is_file() for address in addresses)


def test_videos_that_cannot_be_read_are_left_out(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    write_video(scene(0, 1), tmp_path / "whole.mp4")
    run(monkeypatch, tmp_path, "--only", "motion")
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].endswith("| 1 |")
    assert f"left out: cannot read {tmp_path / 'broken.mp4'}" in said.err


def test_runs_are_named_by_what_tells_them_apart() -> None:
    assert [*named([Path("/a/x"), Path("/b/y.csv")])] == ["x", "y"]
    assert [*named([Path("/a/x"), Path("/b/x")])] == ["a/x", "b/x"]


@torch.inference_mode()
def test_clip_similarity_is_open_clips_own() -> None:
    """Of the built-in model's towers, with OpenCLIP's transform, tokenizer and towers."""
    config = MODELS["tiny"].clip
    towers = Extraction(model="tiny", device="cpu").towers
    frames = torch.randint(0, 256, (3, 90, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    caption = "a cat, panning left"
    ours, text = towers.embed_frames(frames), towers.embed_text(caption)
    vision, words = config.vision, config.text
    theirs = open_clip.CLIP(
        config.embed_dim,
        {"image_size": vision.image_size, "layers": vision.layers, "width": vision.width,
         "head_width": vision.head_width, "patch_size": vision.patch_size, "mlp_ratio": vision.mlp_ratio},
        {"context_length": words.context_length, "vocab_size": words.vocab_size, "width": words.width,
         "heads": words.heads, "layers": words.layers, "mlp_ratio": words.mlp_ratio},
    ).eval()  # fmt: skip
    model = towers.pipe.model
    state = model.text_encoder.state_dict() | {f"visual.{k}": v for k, v in model.image_encoder.state_dict().items()}
    theirs.load_state_dict(state)
    transform = open_clip.image_transform(vision.image_size, is_train=False)
    pixels = torch.stack([transform(Image.fromarray(frame.numpy())) for frame in frames])
    images = theirs.encode_image(pixels, normalize=True)
    captions = theirs.encode_text(open_clip.tokenize([caption], words.context_length), normalize=True)
    assert METRICS["clip_text"].function(ours, text) == pytest.approx(float((images @ captions.T).mean()), abs=1e-6)
    own = float((images[:-1] * images[1:]).sum(dim=-1).mean())
    assert METRICS["clip_frames"].function(ours) == pytest.approx(own, abs=1e-6)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_clips(tmp_path: Path) -> None:
    """Of 2,000 clips, whose frames would take 393 MB, over that of 100; their features take 3 MB. (5,000 pass too.)"""
    write_video(scene(0, 1), tmp_path / "clip.mp4")
    peaks = []
    for count in (100, 2000):
        (tmp_path / "clips.jsonl").write_text('{"path": "clip.mp4"}\n' * count)
        script = f"""
import resource
from pathlib import Path
import torch
from dcrafter.evaluation.clips import ClipFile
from dcrafter.evaluation.extraction import Extraction
from dcrafter.evaluation.scores import score_runs
load = ClipFile.load
ClipFile.load = lambda clip, size=None: load(clip, size).repeat(2, 1, 1, 1)
extraction = Extraction(features="stub", device="cpu")
extraction.__dict__["extractor"] = lambda frames: torch.randn(400)
clips = Path({str(tmp_path / "clips.jsonl")!r})
scores = score_runs({{"run": clips}}, clips, ["fvd", "kvd", "flicker"], extraction)
assert len(scores[0].clips) == {count} and scores[0].mean("fvd") > 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    grown = (peaks[1] - peaks[0]) / 1000
    assert grown < 150, peaks  # MB: features, records, and the matrices of the distances
