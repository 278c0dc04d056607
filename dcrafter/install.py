"""How to install a package beside dcrafter, in whatever environment it lives."""

from __future__ import annotations

import sys
from pathlib import Path


def install_hint(package: str, prefix: Path | None = None) -> str:
    """The command that installs a package into the environment `prefix`, by default this process's.

    Packages are named, and not dcrafter's extras: those need a release of dcrafter.
    """
    prefix = prefix or Path(sys.prefix)
    if (prefix / "pipx_metadata.json").is_file():
        return f"pipx inject dcrafter {package}"
    if (prefix / "uv-receipt.toml").is_file():
        return f"uv tool install --with {package} dcrafter"
    if _is_made_by_uv(prefix):
        return f"uv pip install {package}"
    return f"pip install {package}"


def _is_made_by_uv(prefix: Path) -> bool:
    """True for a virtual environment of uv's, which has no pip."""
    try:
        lines = (prefix / "pyvenv.cfg").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return any(line.partition("=")[0].strip() == "uv" for line in lines)
