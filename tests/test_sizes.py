"""Functions and classes stay of a size that can be read."""

from __future__ import annotations

import ast
from pathlib import Path

import dcrafter

LIMITS = {ast.FunctionDef: 60, ast.ClassDef: 200}  # lines


def test_nothing_is_too_long_to_be_read() -> None:
    too_long = [
        f"{path.name}: {node.name} has {lines} lines"
        for path in Path(dcrafter.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > LIMITS[type(node)]
    ]
    assert not too_long
