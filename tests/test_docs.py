"""The documentation builds without warnings, and its generated page is current."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_reference_is_current() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text("utf-8")
    assert page == runpy.run_path(str(ROOT / "docs" / "generate.py"))["reference"](), "run: python docs/generate.py"


def test_it_builds_without_warnings(tmp_path: Path) -> None:
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "reference" / "command-line" / "index.html").is_file()


def test_the_architecture_shows_the_contract_of_imports() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    layers = next(each for each in tools["importlinter"]["contracts"] if each["type"] == "layers")["layers"]
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert "```text\n" + "\n".join(layers) + "\n```" in page
    rooms = {room for layer in layers for room in layer.split(" | ")}
    assert all(f"| `{room}" in page for room in rooms)


def test_the_readme_links_to_files_that_are_here() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", readme) if not link.startswith("https://")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists() and link != "CONTRIBUTING.md"] == []
