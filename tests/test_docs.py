"""The documentation builds without warnings, and its generated page is current."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_generated_pages_are_current() -> None:
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    stale = [str(page) for page, text in generated.items() if page.read_text("utf-8") != text]
    assert not stale, f"{stale}: run python docs/generate.py"


def test_it_builds_without_warnings(tmp_path: Path) -> None:
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "reference" / "command-line" / "index.html").is_file()


def test_the_architecture_says_what_is_in_every_room() -> None:
    rooms = {path.stem for path in (ROOT / "dcrafter").glob("[!_]*") if path.suffix in ("", ".py")}
    described = re.findall(r"^\| `(\w+)/?` \|", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.MULTILINE)
    assert rooms == set(described) - {"MODELS", "FAMILIES", "SAMPLERS", "FORMATS", "METRICS"}


def test_the_readme_links_to_files_that_are_here() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", readme) if not link.startswith("https://")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
