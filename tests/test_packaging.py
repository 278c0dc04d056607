"""What a package index shows: the README with links that work there, and addresses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import dcrafter

ROOT = Path(__file__).parents[1]
WORKFLOW = {
    "GITHUB_SERVER_URL": "https://github.example",
    "GITHUB_REPOSITORY": "someone/dcrafter",
    "GITHUB_SHA": "4188c5d",
}


def metadata() -> ProjectMetadata:
    return ProjectMetadata(str(ROOT), PluginManager())


def test_a_workflow_builds_a_readme_with_absolute_links(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WORKFLOW.items():
        monkeypatch.setenv(name, value)
    core = metadata().core
    links = re.findall(r"\]\(([^)]+)\)", core.readme)
    assert "https://github.example/someone/dcrafter/raw/4188c5d/docs/assets/results.webp" in links
    assert "https://github.example/someone/dcrafter/blob/4188c5d/docs/architecture.md" in links
    assert all(link.startswith("https://") for link in links)
    assert core.urls["Issues"] == "https://github.example/someone/dcrafter/issues"


def test_elsewhere_the_readme_is_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    core = metadata().core
    assert core.readme == (ROOT / "README.md").read_text("utf-8")
    assert core.urls.keys() == {"Paper", "Published models"}


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {dcrafter.__version__}\n" in citation


def test_workflows_try_every_python_that_is_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pythons = [each.split(" :: ")[-1] for each in project["classifiers"] if " :: 3." in each]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert f"python: {pythons}".replace("'", '"') in workflow
