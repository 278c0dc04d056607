"""Plain values, as of JSON, TOML or a command line, to typed ones.

The one place that knows pydantic, which typer imports for every command that runs. It is imported when first used: the
list of commands and completion need none of it.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Hashable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")

UNKNOWN = "another value"
# What a value must be, by the beginning of pydantic's names for errors.
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a table",
    "dataclass": "a table",
    "path": "a path",
}


def build(kind: type[T], values: object) -> T:
    """Build a value of a type, such as a dataclass, from plain values. Numbers in text are not taken for numbers.

    Args:
        kind: A type whose parts are dataclasses, Literals, tuples, numbers and texts.
        values: Mappings, lists, numbers, texts and None, as of a JSON file.

    Raises:
        TypeError: A value has another type than its field, or a field is unknown or missing.
        ValueError: A dataclass refuses a value.
    """
    from pydantic import ValidationError

    try:
        # JSON has neither tuples nor enumerations, which is why strict validation takes lists for them there.
        return cast(T, _strict(cast(Hashable, kind)).validate_json(json.dumps([values]))[0])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        kept = ValueError if first["type"] == "value_error" else TypeError
        raise kept(_explain(first, getattr(kind, "__name__", str(kind)))) from None
    except RecursionError:
        raise TypeError("the values are nested too deeply") from None


@cache
def _strict(kind: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    # pydantic takes no configuration for a dataclass, but a tuple's holds for what is in it.
    return TypeAdapter(tuple[kind], config=ConfigDict(strict=True, extra="forbid"))


def _explain(error: ErrorDetails, name: str) -> str:
    """One of pydantic's errors in plain words, with the field's path."""
    path = [str(part) for part in error["loc"][1:]]
    match error["type"]:
        case "unexpected_keyword_argument":
            return f"{'.'.join(path[:-1]) or name} has no field {path[-1]}"
        case "missing" if path[-1].isdigit():
            return f"{'.'.join(path[:-1])} has too few values"
        case "missing":
            return f"{'.'.join(path[:-1]) or name} needs {path[-1]}"
        case "value_error":
            return str(error["ctx"]["error"])
        case "json_invalid":
            return "the values are not valid Unicode"
    return f"{'.'.join(path) or name} must be {expected(error)}, not {reprlib.repr(error['input'])}"


def convert(kind: Any, value: object) -> Any:
    """Convert one value to a type, numbers and truths in text too. Raises ValueError that says what it must be."""
    from pydantic import ValidationError

    try:
        return _lax(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(" or ".join(dict.fromkeys(map(expected, error.errors(include_url=False))))) from None


@cache
def _lax(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def refused(error: BaseException | None) -> str | None:
    """What a value must be and is not, if an exception is pydantic's: "must be a whole number, not abc"."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return None
    first = error.errors(include_url=False)[0]
    wanted = expected(first)
    return None if wanted == UNKNOWN else f"must be {wanted}, not {first['input']}"  # typer's sentence has choices


def expected(error: ErrorDetails) -> str:
    """What a value must be, as one of pydantic's errors has it: "a whole number", "crop, pad or stretch"."""
    kind = str(error["type"])
    if kind == "literal_error":
        return re.sub(r"'([^']*)'", r"\1", error["ctx"]["expected"])
    return KINDS.get(kind.split("_")[0], UNKNOWN)
