"""The user study, as a participant's browser sees it."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcrafter.errors import InputError
from dcrafter.evaluation.__main__ import main
from dcrafter.evaluation.study import Study, make_trials, read_choices, results, serve
from dcrafter.media.video import write_video

RUNS = ("ours", "theirs")
CASES = 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("study")
    for shade, run in enumerate(RUNS):
        for case in range(CASES):
            frames = np.full((3, 16, 16, 3), 40 * case + shade, np.uint8)
            write_video(frames, folder / run / f"case {case}.mp4", settings={"prompt": f"prompt {case}"})
    return {run: folder / run for run in RUNS}


@pytest.fixture
def study(runs: dict[str, Path], tmp_path: Path) -> Study:
    image = tmp_path / "image.png"
    image.write_bytes(b"an image")
    return Study([replace(trial, image=image) for trial in make_trials(runs)], tmp_path / "choices.jsonl")


@pytest.fixture
def address(study: Study) -> Iterator[str]:
    with serve(study, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(url: str, posted: Any = None, **headers: str) -> bytes:
    body = None if posted is None else json.dumps(posted).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        return answer.read()


def choice(participant: str, trial: dict[str, Any], side: str) -> dict[str, Any]:
    answers = {"motion_quality": side, "temporal_coherence": side, "input_conformity": [side]}
    return {"participant": participant, "trial": trial["id"], **answers}


def test_choices_are_recorded_as_they_are_made(address: str, study: Study, runs: dict[str, Path]) -> None:
    """A participant who always prefers ours finds it by its content: nothing else tells the two apart."""
    trials = json.loads(fetch(f"{address}/trials?participant=p"))
    assert len(trials) == CASES
    assert not any(run in json.dumps(trials) for run in RUNS)
    sides = set()
    for trial in trials:
        ours = (runs["ours"] / f"case {trial['caption'][-1]}.mp4").read_bytes()
        (side,) = [side for side in ("left", "right") if fetch(f"{address}/{trial[side]['address']}") == ours]
        fetch(f"{address}/choice", choice("p", trial, side))
        sides.add(side)
        assert len(read_choices(study.choices)) == trials.index(trial) + 1
    assert sides == {"left", "right"}
    for row in read_choices(study.choices):
        assert row["motion_quality"] == row["temporal_coherence"] == "ours"
        assert row["input_conformity"] == ["ours"]
        assert {row["left"], row["right"]} == set(RUNS)
    assert json.loads(fetch(f"{address}/trials?participant=p")) == []  # the page goes on where it was
    assert len(json.loads(fetch(f"{address}/trials?participant=q"))) == CASES


def test_results_are_shares_of_the_trials_that_a_run_was_in(
    address: str, study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for participant in ("p", "q"):
        for trial in json.loads(fetch(f"{address}/trials?participant={participant}")):
            fetch(f"{address}/choice", choice(participant, trial, "left"))
    rows = read_choices(study.choices)
    monkeypatch.setattr("sys.argv", ["evaluation", "study", "--results", "-o", str(study.choices)])
    main()
    table = capsys.readouterr().out.splitlines()
    for run, line in zip(RUNS, table[2:4], strict=True):
        share = 100 * sum(row["left"] == run for row in rows) / len(rows)
        assert line == f"| {run} | {share:.1f} % | {share:.1f} % | {share:.1f} % | {2 * CASES} |"
    assert table[-1] == "2 participants"


@pytest.mark.parametrize(
    "broken",
    [{}, {"motion_quality": "ours"}, {"trial": CASES}, {"trial": -1}, {"input_conformity": ["both"]}, {"trial": "x"}],
)
def test_what_is_no_choice_is_refused(broken: dict[str, Any], address: str, study: Study) -> None:
    posted = choice("p", {"id": 0}, "left") | broken if broken else {}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        fetch(f"{address}/choice", posted)
    assert not study.choices.exists()


def test_nothing_but_the_studys_files_is_served(address: str, study: Study) -> None:
    for path in ("choices.jsonl", "../choices.jsonl", "file/0", "etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(f"{address}/{path}")
    assert b"Motion quality" in fetch(address)
    (trial, *_) = json.loads(fetch(f"{address}/trials?participant=p"))
    whole = fetch(f"{address}/{trial['left']['address']}")
    assert fetch(f"{address}/{trial['left']['address']}", Range="bytes=2-9") == whole[2:10]  # as Safari asks


def test_nothing_conforms_to_an_image_that_is_not_there(runs: dict[str, Path], tmp_path: Path) -> None:
    study = Study(make_trials(runs), tmp_path / "choices.jsonl")
    study.record(choice("p", {"id": 0}, "left"))
    for line in results(read_choices(study.choices)).splitlines()[2:4]:
        assert line.endswith(" % | – | 1 |")


def test_every_pair_of_runs_is_a_trial(runs: dict[str, Path], tmp_path: Path) -> None:
    three = make_trials({**runs, "again": runs["ours"]}, count=2)
    assert len(three) == 2 * 3
    write_video(np.zeros((2, 16, 16, 3), np.uint8), tmp_path / "other.mp4")
    with pytest.raises(InputError, match="no case in common"):
        make_trials({**runs, "other": tmp_path})


def test_a_torn_line_is_left_out(study: Study) -> None:
    study.record(choice("p", {"id": 0}, "left"))
    with study.choices.open("a") as file:
        file.write('{"participant": "p", "tri')
    study.record(choice("p", {"id": 1}, "left"))
    assert [row["trial"] for row in read_choices(study.choices)] == [0, 1]
