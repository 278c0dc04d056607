"""Every command of the README and the how-to guides runs, on images of its names and with small weights in the place of
large ones."""

from __future__ import annotations

import functools
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from cli.conftest import dcrafter, read_once  # noqa: F401
from cli.running import CAT, DATA, Run, sketch_encoder
from PIL import Image

from dcrafter.config import MODELS
from dcrafter.media.video import read_video
from dcrafter.pipeline import Pipeline
from dcrafter.weights import hub
from dcrafter.weights.lora import save_lora

README = Path(__file__).parents[1] / "README.md"
GUIDES = README.parent / "docs" / "how-to"
GOLDEN = {"256": DATA / "golden" / "dc256" / "model.ckpt", "512": DATA / "golden" / "dc512" / "model.safetensors"}
QUICKLY = ["--device", "cpu", "--width", "64", "--height", "64", "--steps", "1"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PICTURES = re.compile(r"[\w/]+\.(?:png|jpg)")


def commands() -> list[str]:
    """The dcrafter commands in their shell blocks, each once, without comments."""
    pages = [page.read_text("utf-8") for page in (README, *sorted(GUIDES.glob("*.md")))]
    blocks = [code for page in pages for kind, code in re.findall(FENCE, page) if kind in ("", "sh")]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    lines = [*dict.fromkeys(lines)]
    return [line for line in lines if re.match("dcrafter (?!download)", line)]  # cli/test_download.py has those


def small(words: list[str]) -> list[str]:
    """The same command with weights that are here, and one quick step."""
    model = "512" if {"interpolate", "loop"} & set(words) else "256"
    if "--sketch" in words:  # what alone follows one; its weights lie where the test has put them
        place = words.index("toon")
        words[place - 1 : place + 1] = ["--checkpoint", "model.safetensors", "--model-config", "config.json"]
        return [*words, *QUICKLY]
    for option in ("--model", "-m", "--checkpoint"):
        if option in words:
            place = words.index(option)
            model = words[place + 1] if words[place + 1] in GOLDEN else "512"
            del words[place : place + 2]
    if "--towers" in words:
        words[words.index("--towers") + 1] = str(GOLDEN["512"])
    weights = GOLDEN[model]
    chosen = ["--checkpoint", str(weights), "--model-config", str(weights.with_name("config.json"))]
    return [*words, *chosen, *QUICKLY]


@pytest.mark.slow
@pytest.mark.parametrize("line", commands())
def test_a_command(
    line: str,
    dcrafter: Run,  # noqa: F811
    toon: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dcrafter.captioner.caption", lambda *_, **__: "a cat")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    if "photos/" in line:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "one.jpg").write_bytes(Path(CAT).read_bytes())
    for name in [*PICTURES.findall(line.replace("*", "one")), "cat.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(Path(CAT).read_bytes())
    for name in re.findall(r"[\w/-]+\.jsonl", line):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"image": "../cat.png", "prompt": "a cat"}) + "\n")
    if "people.csv" in line:
        (tmp_path / "people.csv").write_text("image,prompt\ncat.png,a cat\n")
    if "--sketch" in line:
        (tmp_path / "drawings").mkdir()
        Image.new("L", (64, 64)).save(tmp_path / "drawings" / "8.png")
        torch.save(sketch_encoder(), tmp_path / "sketch_encoder.ckpt")
        for name in ("model.safetensors", "config.json"):
            (tmp_path / name).symlink_to(toon / name)
    for name in re.findall(r"--lora ([^\s:]+)", line):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        factors = {"lora_A": torch.ones(1, 32), "lora_B": torch.ones(32, 1)}
        layer = "unet.encoder.0.spatial.blocks.0.attn1.to_q"
        save_lora(
            {f"{layer}.{each}.weight": value for each, value in factors.items()}, tmp_path / name, rank=1, alpha=1
        )
    line, *redirected = re.split(r"\s[<>]\s", line)
    options = " ".join(re.sub(r"^\S+", "", part) for part in redirected)
    words = [
        w for word in shlex.split(f"{line} {options}")[1:] for w in (glob(tmp_path, word) if "*" in word else [word])
    ]
    if "--from" in words:
        assert dcrafter(*small(["animate", "cat.png", "--frames", "2"])).status == 0
        words = small(words)
    elif words[0] in ("animate", "interpolate", "loop", "batch"):
        words = small(words)
    outcome = dcrafter(*words, stdin=Path(CAT).read_bytes())
    assert outcome.status == 0, outcome.stderr


def block(language: str, page: Path) -> str:
    """The blocks of a language on a page, each going on from the one before."""
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL))


def test_the_first_command(dcrafter: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(hub, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(hub, "_in_hugging_faces_cache", lambda _: None)
    line = next(line for line in README.read_text("utf-8").splitlines() if "&& dcrafter" in line)
    words = shlex.split(line.split("&& dcrafter")[1])
    words[1] = str(README.parent / words[1])
    outcome = dcrafter(*words, "--steps", "2", "--device", "cpu")
    assert (outcome.status, outcome.lines) == (0, ["cat.mp4"]), outcome.stderr
    assert dcrafter("--diagnose").status == 0


def test_the_configuration_file(dcrafter: Run, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "mine.toml").write_text(block("toml", GUIDES / "options.md"))
    outcome = dcrafter("loop", CAT, "-m", "tiny", "--config", "mine.toml", "--no-fast", "--dry-run", "--json")
    assert outcome.status == 0, outcome.stderr
    told = json.loads(outcome.lines[0])["settings"]
    assert (told["repeat"], told["motion"]) == (4, MODELS["tiny"].motion.high)


@pytest.mark.parametrize("page", [README, GUIDES / "python.md"], ids=lambda page: page.name)
def test_the_python_code(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = GOLDEN["512"]
    opened = Pipeline.from_pretrained(
        checkpoint=weights, model_config=weights.with_name("config.json"), device="cpu", dtype="float32"
    )
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda name: {"512": opened}[name])
    for name in ("animate", "stream"):
        quick = functools.partialmethod(getattr(Pipeline, name), steps=1, width=64, height=64)
        monkeypatch.setattr(Pipeline, name, quick)
    monkeypatch.chdir(tmp_path)
    Path("cat.png").write_bytes(Path(CAT).read_bytes())
    exec(block("python", page), {})
    assert len(read_video(Path("cat.mp4"))[0]) == 16


def glob(folder: Path, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob(pattern))


def test_there_are_commands() -> None:
    assert len(commands()) > 20
    assert {shlex.split(line)[1] for line in commands()} >= {"animate", "interpolate", "loop"}
