"""Flag over --from over environment over file over the model's default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli.running import CAT, MODEL, QUICK, Run
from safetensors.torch import load_file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of its own."""
    folder = tmp_path / "settings"
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: folder / name)
    return folder / "dcrafter"


def settings(dcrafter: Run, *arguments: str | Path) -> dict[str, Any]:
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run", "--json", *arguments)
    assert outcome.status == 0, outcome.stderr
    found: dict[str, Any] = json.loads(outcome.lines[0])["settings"]
    return found


def test_each_wins_over_the_next(dcrafter: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(dcrafter)["steps"] == 50
    home.mkdir(parents=True)
    (home / "config.toml").write_text('steps = 40\nmotion = "high"\nprompt = "from the file"\n[loop]\nrepeat = 2\n')
    assert [settings(dcrafter)[name] for name in ("steps", "motion", "prompt")] == [40, 6, "from the file"]
    other = home / "other.toml"
    other.write_text("steps = 30\n[animate]\nguidance = 2.5\nsegments = 2\n")
    chosen = settings(dcrafter, "--config", other)
    assert [chosen[name] for name in ("steps", "guidance", "segments", "prompt")] == [30, 2.5, 2, ""]
    monkeypatch.setenv("DCRAFTER_STEPS", "20")
    assert settings(dcrafter)["steps"] == 20
    made = dcrafter("animate", CAT, *QUICK, "--seed", "8", "--frames", "2", "-o", "cat.gif")
    assert made.status == 0, made.stderr
    earlier = settings(dcrafter, "--from", "cat.gif")
    assert [earlier[name] for name in ("steps", "seed", "frames", "prompt")] == [1, 8, 2, "from the file"]
    again = settings(dcrafter, "--from", "cat.gif", "--steps", "10", "-p", "another")
    assert [again[name] for name in ("steps", "seed", "prompt")] == [10, 8, "another"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepps = 3", "unknown keys: stepps"),
        ("[animat]\nsteps = 3", "unknown keys: [animat]"),
        ("steps = = 3", "cannot be read"),
        ("repeat = 3", "unknown keys: repeat"),
        ('steps = "many"', "--steps"),
        ('noise = "x"', "unknown keys: noise"),
    ],
)
def test_files_that_mean_nothing(dcrafter: Run, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run", "--config", path)
    assert outcome.status == 2
    assert message in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_a_missing_config_file_is_said(dcrafter: Run) -> None:
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run", "--config", "nowhere.toml")
    assert outcome.status == 2
    assert "nowhere.toml cannot be read" in outcome.stderr


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "webp", "apng", "frames"])
def test_an_earlier_result_is_made_again(dcrafter: Run, tmp_path: Path, suffix: str) -> None:
    arguments = ("-p", "cat", "--seed", "3", "--motion", "high", "--context-scale", "1:0.5", "--frames", "3")
    first = dcrafter("animate", CAT, *QUICK, *arguments, "-o", f"cat.{suffix}", "--save-latents", "a.safetensors")
    assert first.status == 0, first.stderr
    Path("cat.png").write_bytes(Path(CAT).read_bytes())  # found by its name
    weights = QUICK[: QUICK.index("--device")]
    again = dcrafter("animate", "--from", f"cat.{suffix}", *weights, "-o", "b.gif", "--save-latents", "b.safetensors")
    assert again.status == 0, again.stderr
    assert (tmp_path / "b.gif").exists()
    latents = [load_file(tmp_path / f"{name}.safetensors")["final_latents"] for name in "ab"]
    assert latents[0].equal(latents[1])


def test_what_no_result_can_be_made_from(dcrafter: Run, tmp_path: Path) -> None:
    outcome = dcrafter("animate", CAT, *QUICK, "--from", CAT)
    assert (outcome.status, outcome.stdout) == (2, b"")
    assert "holds no settings" in outcome.stderr
    assert dcrafter("animate", CAT, *QUICK, "--frames", "2", "-o", "cat.gif").status == 0
    outcome = dcrafter("animate", *QUICK, "--from", "cat.gif")
    assert outcome.status == 2
    assert "the picture cat.png, of which cat.gif was made, is not here" in outcome.stderr
