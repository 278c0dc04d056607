from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from dcrafter.install import install_hint


@pytest.mark.parametrize(
    ("file", "content", "command"),
    [
        ("pipx_metadata.json", "{}", "pipx inject dcrafter ray"),
        ("uv-receipt.toml", "", "uv tool install --with ray dcrafter"),
        ("pyvenv.cfg", "home = /usr/bin\nuv = 0.9\n", "uv pip install ray"),
        ("pyvenv.cfg", "home = /usr/bin\n", "pip install ray"),
        ("other", "", "pip install ray"),
    ],
)
def test_the_command_suits_the_environment(tmp_path: Path, file: str, content: str, command: str) -> None:
    (tmp_path / file).write_text(content)
    assert install_hint("ray", tmp_path) == command


def test_every_missing_package_is_advised_by_it() -> None:
    """No module names a command of its own."""
    package = Path(sys.modules[install_hint.__module__].__file__ or "").parent
    own = [
        path.name
        for path in package.rglob("*.py")
        if path.name not in ("install.py", "diagnose.py") and re.search(r"pip(x inject| install)", path.read_text())
    ]
    assert own == []
