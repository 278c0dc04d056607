from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcrafter.evaluation.__main__ import COMMAND


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    usual = ["--device", "cpu", "--dtype", "float32", "--count", "2", "--steps", "1"]
    monkeypatch.setattr("sys.argv", ["evaluation", *usual, *map(str, arguments)])
    COMMAND.main()


@pytest.mark.slow
def test_a_model_is_measured_on_a_persons_videos(
    videos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "figures.json", tmp_path / "sheet.png"
    run(monkeypatch, "--data", videos, "--checkpoint", checkpoint, "--out", out, "--sheet", sheet)
    table = capsys.readouterr().out.splitlines()
    rows = json.loads(out.read_text())["rows"]
    assert len(table) == 2 + len(rows) == 2 + 26
    assert {row["metric"] for row in rows} >= {
        "autoencoder on images, PSNR",
        "videos, difference of neighboring frames over the data's",
        "loops of which it is at most 1",
        "no context, PIC",
        "no context, PSNR",
    }
    assert sheet.exists()


def test_what_a_model_is_not_made_for_is_left_out_and_refused(
    videos: Path, golden: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = golden / "dc512" / "model.safetensors"
    given = ("--data", videos, "--checkpoint", weights, "--model-config", weights.with_name("config.json"))
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, *given, "--only", "autoencoder,loop")
    assert left.value.code == 2
    assert capsys.readouterr().err == ("dcrafter.evaluation: the 512 model does not loop. It is made to animate\n")


@pytest.mark.parametrize("data", ["nowhere", "nowhere.csv"])
def test_there_must_be_videos(data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, "--data", data)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"dcrafter.evaluation: there is no {data}. ")
