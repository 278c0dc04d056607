"""What `import dcrafter` offers."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import dcrafter
from dcrafter import errors, events

NAMES = """
BatchError DCrafterError Decoding Done Encoding Event InputError LoadOptions Loading MemoryDowngraded NumericalError
Options OutOfMemoryError OutputError Part Pipeline Settings Step UsageError Video WeightsError WriteError __version__
load
""".split()  # noqa: SIM905


def test_these_names_are_exported() -> None:
    assert dcrafter.__all__ == dir(dcrafter) == NAMES
    assert all(getattr(dcrafter, name) is not None for name in NAMES)
    public = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DCrafterError)
    }
    assert public <= set(NAMES)
    assert set(NAMES) >= {kind.__name__ for kind in events.Event.__args__}  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'Pipelines'"):
        dcrafter.Pipelines  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(dcrafter.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported | {"__version__", "load"} == set(NAMES)
    assert (files("dcrafter") / "py.typed").is_file()


def test_events_errors_and_settings_need_no_torch() -> None:
    program = (
        "import sys, dcrafter\n"
        "dcrafter.Step, dcrafter.UsageError, dcrafter.Settings, dcrafter.Video\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
