"""The TOML file of options: defaults below the environment's, and where a value comes from."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, cast

import typer

from dcrafter.errors import UsageError
from dcrafter.settings import shown
from dcrafter.text import error_text

GENERATING = ("animate", "interpolate", "loop", "batch")
_NOT_IN_FILES = ("config", "from", "help")


def user_config() -> Path:
    """The user's own file of options."""
    from platformdirs import user_config_path

    return user_config_path("dcrafter") / "config.toml"


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options of a TOML file as defaults, by default those of the user's own file if there is one.

    Keys are long option names; a table named after a command holds what concerns it alone.

    Raises:
        UsageError: The file cannot be read, or a key is no option.
    """
    file = path or user_config()
    if path is None and not file.is_file():
        return None
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"the config file {file} is not in UTF-8") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no TOML, or a number of 5000 digits
        raise UsageError(f"the config file {file} cannot be read ({error_text(error)})") from error
    tables = {name: values.pop(name) for name in [*values] if isinstance(values[name], dict)}
    _check_keys(context, file, values, tables)
    values |= tables.get(context.info_name or "", {})
    ours = _keys(context.command)
    for key, value in values.items():
        several = key in ours and ours[key].multiple
        given = value if several and isinstance(value, list) else [value]
        if not all(isinstance(each, (str, int, float)) for each in given):
            raise UsageError(f"{key} in {file} must be one value, not {shown(value)}")
        values[key] = given if several else value
    context.default_map = {ours[key].name: value for key, value in values.items()}
    return path


def _check_keys(context: typer.Context, file: Path, values: dict[str, Any], tables: dict[str, Any]) -> None:
    """Raises UsageError for keys that are no options."""
    ours, commands = _keys(context.command), cast(Any, context.find_root().command).commands
    wrong, known = [key for key in values if key not in ours], set(ours)
    for name, table in tables.items():
        if name not in GENERATING:
            wrong.append(f"[{name}]")
            continue
        keys = _keys(commands[name])
        wrong += [f"{key} in [{name}]" for key in table if key not in keys]
        known |= set(keys)
    if wrong:
        raise UsageError(f"{file} has unknown keys: {', '.join(wrong)}", f"Keys are {', '.join(sorted(known))}")


def _keys(command: Any) -> dict[str, Any]:
    """The parameters of a command by their keys in a file."""
    listed = [each for each in command.params if not getattr(each, "hidden", False)]
    keys = {name.removeprefix("--"): each for each in listed for name in each.opts if name.startswith("--")}
    return {name: each for name, each in keys.items() if name not in _NOT_IN_FILES}


def where_from(context: typer.Context, parameter: Any) -> str:
    """Where the value of an option comes from, if it is no flag: for errors."""
    source = context.get_parameter_source(parameter.name)
    if source is None or source.name not in ("ENVIRONMENT", "DEFAULT_MAP"):
        return ""
    if source.name == "ENVIRONMENT":
        return f"{parameter.envvar} in the environment"
    return str(context.params.get("config") or user_config())
