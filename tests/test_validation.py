from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from dcrafter.validation import build, convert


@dataclass(frozen=True)
class Part:
    sizes: tuple[int, ...] = (1,)
    pair: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if 0 in self.sizes:
            raise ValueError("sizes must be above 0")


@dataclass(frozen=True)
class Whole:
    name: str
    kind: Literal["a", "b"] = "a"
    part: Part = Part()
    scale: float | None = None


def test_dataclasses_are_built_from_plain_values() -> None:
    built = build(Whole, {"name": "x", "part": {"sizes": [1, 2], "pair": (0, 0.5)}, "scale": 3})
    assert built == Whole("x", part=Part((1, 2), (0.0, 0.5)), scale=3.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Whole needs name"),
        ({"name": "x", "nme": 1}, "Whole has no field nme"),
        ({"name": "x", "part": {"size": 1}}, "part has no field size"),
        ({"name": "x", "part": 3}, "part must be a table, not 3"),
        ({"name": "x", "part": {"sizes": ["1"]}}, "part.sizes.0 must be a whole number, not '1'"),
        ({"name": "x", "part": {"sizes": [True]}}, "part.sizes.0 must be a whole number, not True"),
        ({"name": "x", "part": {"pair": [1]}}, "part.pair has too few values"),
        ({"name": 3}, "name must be text, not 3"),
        ({"name": "x", "kind": "c"}, "kind must be a or b, not 'c'"),
        ({"name": "x", "scale": "wide"}, "scale must be a number, not 'wide'"),
        ({"name": "x", "scale": object()}, "not JSON serializable"),
        ({"name": "\ud800"}, "not valid Unicode"),
        ([], "must be a table"),
    ],
)
def test_what_cannot_be_held_is_named(values: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        build(Whole, values)


def test_a_refusal_of_the_dataclass_stays_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"^sizes must be above 0$"):
        build(Whole, {"name": "x", "part": {"sizes": [0]}})


def test_nesting_ends_in_an_error() -> None:
    values: Any = []
    for _ in range(100_000):
        values = [values]
    with pytest.raises(TypeError, match="nested too deeply"):
        build(Whole, {"name": values})


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [(int, " 20 ", 20), (float, "1.5", 1.5), (bool, "yes", True), (bool, 0, False), (int | None, None, None)],
)
def test_text_is_converted(kind: Any, value: object, expected: object) -> None:
    assert convert(kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, "many", "a whole number"),
        (int, 1.5, "a whole number"),
        (float, "much", "a number"),
        (bool, "perhaps", "true or false"),
        (Literal["crop", "pad"], "bend", "crop or pad"),
        (str, [], "text"),
    ],
)
def test_what_a_value_must_be_is_said_in_plain_words(kind: Any, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}$"):
        convert(kind, value)


def test_the_list_of_commands_does_not_import_pydantic() -> None:
    code = (
        "import sys\n"
        "from dcrafter.cli.app import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stdout
