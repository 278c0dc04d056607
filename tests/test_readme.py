"""Every command of the README runs, on pictures of its names and with small weights in the place of large ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cli.conftest import dcrafter  # noqa: F401
from cli.running import CAT, DATA, Run

README = Path(__file__).parents[1] / "README.md"
GOLDEN = {"256": DATA / "golden" / "dc256" / "model.ckpt", "512": DATA / "golden" / "dc512" / "model.safetensors"}
PICTURES = re.compile(r"[\w/]+\.(?:png|jpg)")


def commands() -> list[str]:
    """The dcrafter commands in its shell blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match("dcrafter (?!download)", line)]  # cli/test_download.py has those


def small(words: list[str]) -> list[str]:
    """The same command with weights that are here, and one quick step."""
    model = "512" if {"interpolate", "loop"} & set(words) else "256"
    for option in ("--model", "--checkpoint"):
        if option in words:
            place = words.index(option)
            model = words[place + 1] if words[place + 1] in GOLDEN else "512"
            del words[place : place + 2]
    weights = GOLDEN[model]
    chosen = ["--checkpoint", str(weights), "--model-config", str(weights.with_name("config.json"))]
    quick = ["--device", "cpu", "--width", "64", "--height", "64", "--steps", "1"]
    return [*words, *chosen, *quick]


@pytest.mark.parametrize("line", commands())
def test_a_command(line: str, dcrafter: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("dcrafter.captioner.caption", lambda *_, **__: "a cat")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    if "photos/" in line:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "one.jpg").write_bytes(Path(CAT).read_bytes())
    for name in [*PICTURES.findall(line.replace("*", "one")), "cat.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(Path(CAT).read_bytes())
    line, *redirected = re.split(r"\s[<>]\s", line)
    options = " ".join(re.sub(r"^\S+", "", part) for part in redirected)
    words = [
        w for word in shlex.split(f"{line} {options}")[1:] for w in (glob(tmp_path, word) if "*" in word else [word])
    ]
    if words[0] == "download":
        words += ["--dry-run"]
    elif "--from" in words:
        assert dcrafter(*small(["animate", "cat.png", "--frames", "2"])).status == 0
        words = small(words)
    elif words[0] in ("animate", "interpolate", "loop", "batch"):
        words = small(words)
    outcome = dcrafter(*words, stdin=Path(CAT).read_bytes())
    assert outcome.status == 0, outcome.stderr


def glob(folder: Path, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob(pattern))


def test_there_are_commands() -> None:
    assert len(commands()) > 20
    assert {shlex.split(line)[1] for line in commands()} >= {"animate", "interpolate", "loop"}
