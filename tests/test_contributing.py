"""The worked examples of CONTRIBUTING.md: each is made in a copy of the package, and its commands run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SECTIONS = dict(
    re.findall(r"^## (Add .+?)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M | re.S)
)
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("section", SECTIONS)
def test_an_example_works(section: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "dcrafter", tmp_path / "dcrafter", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "data" / "cat.png", tmp_path)
    for language, title, text in BLOCK.findall(SECTIONS[section]):
        if language == "diff":
            change(tmp_path / title, text)
        elif language == "python":
            assert not (tmp_path / title).exists()
            (tmp_path / title).write_text(text, "utf-8")
    check_style(tmp_path)
    commands = [text for language, _, text in BLOCK.findall(SECTIONS[section]) if language == "sh"]
    for line in commands[0].splitlines():
        run(line, tmp_path)


def change(file: Path, diff: str) -> None:
    """Replace the lines that a diff shows, which must be in the file once."""
    lines = diff.splitlines(keepends=True)
    before = "\n" + "".join(line[1:] or line for line in lines if line[0] != "+")
    after = "\n" + "".join(line[1:] or line for line in lines if line[0] != "-")
    text = file.read_text("utf-8")
    assert text.count(before) == 1, before
    file.write_text(text.replace(before, after), "utf-8")


def check_style(folder: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", folder)
    run("ruff check .", folder)
    run("ruff format --check .", folder)


def run(line: str, folder: Path) -> None:
    program, *words = shlex.split(line)
    if program != "python":
        words = ["-m", program, *words]
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "DCRAFTER_CACHE_DIR": str(folder / "cache"),
        "HF_HUB_CACHE": str(folder / "hub"),
    }
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
