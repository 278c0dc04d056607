"""The stand-in for the paper's protocols, from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dcrafter.evaluation.clips import list_clips
from dcrafter.tiny.evaluation.protocol import SPOILED, main

COUNT = 2


@pytest.fixture
def stand_in(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.setattr("sys.argv", ["protocol", str(data), "-o", str(tmp_path / "out"), "--count", str(COUNT)])
    main()
    assert capsys.readouterr().out.startswith(f"{COUNT} clips\n")
    return tmp_path / "out"


def test_spoiled_clips_stand_beside_whole_ones(stand_in: Path) -> None:
    real, others = (list_clips(stand_in / f"{name}.jsonl") for name in ("real", "others"))
    assert [clip.name for clip in real] == [clip.name for clip in others]
    assert real[0].load().shape == (16, 256, 256, 3)
    for kind, change in SPOILED.items():
        for number, (clip, whole) in enumerate(zip(list_clips(stand_in / f"{kind}.jsonl"), others, strict=True)):
            frames = whole.load()
            assert torch.equal(clip.load(), change(frames, number)), kind
            assert clip.caption == whole.caption
            assert torch.equal(clip.load_image(256, 256), frames[0])


def test_each_form_spoils_one_thing() -> None:
    frames = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = {kind: change(frames, 3) for kind, change in SPOILED.items()}
    order = [next(i for i in range(6) if torch.equal(frame, frames[i])) for frame in found["shuffled"]]
    assert sorted(order) == [*range(6)] != order
    assert all(torch.equal(frame, frames[0]) for frame in found["still"])
    assert found["blurred"].float().std(dim=(1, 2)).mean() < frames.float().std(dim=(1, 2)).mean() / 3


@pytest.mark.slow
def test_the_built_in_model_is_measured_by_it(stand_in: Path, tmp_path: Path) -> None:
    def run(*command: object) -> str:
        done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("dcrafter", "batch", stand_in / "batch.jsonl", "-m", "tiny", "-o", "made", "--steps", 1, "--device", "cpu")
    out = tmp_path / "figures.json"
    table = run("dcrafter.evaluation", "videos", "made", "--data", stand_in / "real.jsonl", "-m", "tiny", "--out", out)
    assert "Fréchet video distance (CLIP of tiny)" in table
    made, real = json.loads(out.read_text())["runs"]
    assert [clip["name"] for clip in made["clips"]] == [clip["name"] for clip in real["clips"]]
    assert made["figures"]["first_frame"]["value"] > 20  # it was made from that image
    assert made["figures"]["pic"]["n"] == COUNT
