from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from dcrafter.config import MODELS
from dcrafter.evaluation.studio import Studio
from dcrafter.metrics.pixels import as_input, psnr
from dcrafter.pipeline import Pipeline
from dcrafter.tiny.evaluation import measures
from dcrafter.tiny.evaluation.__main__ import COMMAND
from dcrafter.tiny.evaluation.sets import video_sets
from dcrafter.tiny.stills import StillSampler


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    usual = ["--device", "cpu", "--dtype", "float32", "--count", "2", "--steps", "1"]
    monkeypatch.setattr("sys.argv", ["evaluation", *usual, *map(str, arguments)])
    COMMAND.main()


@pytest.mark.slow
def test_the_whole_on_a_random_model(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measures, "EVALUATION_STILLS", 3)
    out, sheet, figure = (tmp_path / name for name in ("figures.json", "sheet.png", "lambda.svg"))
    written = ("--out", out, "--sheet", sheet, "--figure", figure)
    run(monkeypatch, "--data", data, "--checkpoint", checkpoint, *written, "--seed", 7)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[:2] == ["| metric | result | n |", "|---|---|---|"]
    record = json.loads(out.read_text())
    assert len(lines) == 2 + len(record["rows"]) == 2 + 39
    assert record["model"] == "tiny"
    assert (record["seed"], record["steps"], record["guidance"], record["dtype"]) == (
        7,
        1,
        MODELS["tiny"].guidance,
        "float32",
    )
    by_name = {row["metric"]: row for row in record["rows"]}
    assert by_name["motion as prompted"]["count"] == 2
    assert by_name["motion as prompted"]["details"]["videos"][1]["scored as"] == "zoom out"
    assert by_name["λ, mean over the layers"]["value"] == pytest.approx(1, abs=0.2)  # alpha begins near 0
    assert len(by_name["λ, mean over the layers"]["details"]["per layer"]) == 7
    assert figure.read_text().count("<rect") == 1 + 7
    assert all(row["metric"] in said.err for row in record["rows"])
    with Image.open(sheet) as picture:
        assert picture.size == (8 * 32, 13 * 2 * (32 + 14))  # thirteen sets of two videos


def test_only_some_and_the_same_again(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for name, batch in (("a.json", 1), ("b.json", 2)):
        only = ["--only", "lambdas,emoji", "--guidance", 1, "--batch", batch, "--out", tmp_path / name]
        run(monkeypatch, "--data", data, "--checkpoint", checkpoint, *only)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].count("\n") == 2 + 2
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert one["rows"][1]["value"] == pytest.approx(other["rows"][1]["value"], rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "motion,charm"], "there is no measure charm"),
        (["--steps", "0"], "--steps must be"),
        (["--out", "nowhere/at/all.json"], "there is no folder"),
        (["--data", "nowhere"], "there is no nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    arguments: list[str],
    said: str,
    data: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, "--data", data, "--checkpoint", checkpoint, *arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"dcrafter.tiny.evaluation: {said}")


def test_the_autoencoders_figure_is_that_of_its_own_stage(data: Path, checkpoint: Path) -> None:
    """The same images, through the pipeline as by hand."""
    pipe = Pipeline.from_pretrained(checkpoint=checkpoint, device="cpu", dtype="float32")
    studio = Studio(pipe, video_sets(pipe.config, data), batch=5, options={}, report=lambda *_: None)
    autoencoder, held_out = pipe.model.autoencoder, StillSampler(data, "held-out", size=32)
    for row, kind in zip(measures.autoencoder(studio, 1), ("emoji", "photographs"), strict=True):
        true = as_input(held_out.evaluation_stills(kind, 64))
        with torch.no_grad():
            mean, _ = autoencoder.posterior(true)
            made = autoencoder.decode(mean * autoencoder.config.scale)
        assert row.value == pytest.approx(psnr(made, true), abs=0.01)
        assert row.count == 64
