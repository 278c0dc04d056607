"""All messages of the package, whether they are tried elsewhere or not: what they name is there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.advice import COMMANDS, GENERATING, MODEL, wrong_advice

import dcrafter

PACKAGE = Path(dcrafter.__file__).parent
ALL = (*GENERATING, "download")
# Which commands come to a module; the first that fits its path. The laboratories have command lines of their own.
SHOWN_BY = {
    "cli/download.py": ("download",),
    "cli/batch": ("batch",),
    "batch/": ("batch",),
    "cli/run.py": ("animate", "interpolate", "loop"),
    "cli/app.py": ALL,
    "cli/config_file.py": ALL,
    "cli/transfer.py": ALL,
    "weights/lora.py": GENERATING,
    "weights/": ALL,
    "metrics/": (),
    "evaluation/": (),
    "training/": (),
    "tiny/": (),
    "install.py": (),
    "": GENERATING,
}
# What is shown by the command alone that has the option.
GUARDED = {
    ("weights/hub.py", "Give --checkpoint FILE, or fetch one with dcrafter download MODEL (MODEL)"): GENERATING,
    ("pipeline.py", "a sketch needs the sketch encoder, --sketch-encoder FILE"): ("interpolate", "batch"),
}


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """The texts in a module that are no documentation, with their lines. A value that is filled in is a MODEL."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            skipped.add(id(body[0].value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            texts = [str(part.value) if isinstance(part, ast.Constant) else MODEL for part in node.values]
            yield node.lineno, "".join(texts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_messages_name_what_there_is(path: Path) -> None:
    module = path.relative_to(PACKAGE).as_posix()
    commands = next(shown for prefix, shown in SHOWN_BY.items() if module.startswith(prefix))
    if not commands:
        return
    wrong = {
        f"{line}: {text}": complaints
        for line, text in messages(path)
        if " " in text and (complaints := wrong_advice(text, GUARDED.get((module, text), commands)))
    }
    assert not wrong


@pytest.mark.parametrize(
    ("text", "commands", "wrong"),
    [
        ("Give --endpoint", ("animate", "download"), ["animate has no --endpoint"]),
        ("Run dcrafter download 512 --endpoint URL", ("animate",), []),
        ("Run dcrafter download 777", ("animate",), ["there is no 777 to download"]),
        ("Run dcrafter fetch 512", ("animate",), ["there is no dcrafter fetch 512"]),
        ("Run `pip install --user ray`, or --steps 3", ("batch",), []),
    ],
)
def test_the_check(text: str, commands: tuple[str, ...], wrong: list[str]) -> None:
    assert wrong_advice(text, commands) == wrong
    assert COMMANDS.keys() == {*ALL}
