"""Whether what a message names is there: commands, their options, models to download."""

from __future__ import annotations

import re

import typer

from dcrafter.cli.app import app
from dcrafter.weights.families import PUBLISHED

GENERATING = ("animate", "interpolate", "loop", "batch")
MODEL = "MODEL"  # stands for one
# Commands that are not ours, and what a person wrote that is no option.
_OTHERS = re.compile(r"`(?!dcrafter )[^`]*`|pip install\b.*|uv \w+ install\b.*|No such option: \S+")
_NAMED = re.compile(
    r"dcrafter (?P<command>[a-z]+)(?: (?P<model>\w[\w.-]*))?|(?P<option>(?<![\w-])--[a-z][a-z-]+)", re.ASCII
)


def _commands() -> dict[str, frozenset[str]]:
    """The options of each command."""
    root = typer.main.get_command(app)
    return {
        name: frozenset(flag for parameter in command.params for flag in parameter.opts) | {"--help"}
        for name, command in root.commands.items()  # type: ignore[attr-defined]
    }


COMMANDS = _commands()


def wrong_advice(text: str, commands: tuple[str, ...] = GENERATING) -> list[str]:
    """What a message names and is not there, where each of `commands` may show it.

    An option belongs to the command that its line names before it, else to all that may show it.
    """
    return [complaint for line in text.splitlines() for complaint in _wrong_in(line, commands)]


def _wrong_in(text: str, commands: tuple[str, ...]) -> list[str]:
    wrong, owners = [], commands
    for found in _NAMED.finditer(_OTHERS.sub("", text)):
        command, model, option = found["command"], found["model"], found["option"]
        if option:
            wrong += [f"{owner} has no {option}" for owner in owners if option not in COMMANDS[owner]]
        elif command not in COMMANDS:
            wrong.append(f"there is no {found[0]}")
        else:
            owners = (command,)
            if command == "download" and model and model not in (*PUBLISHED, MODEL):
                wrong.append(f"there is no {model} to download")
    return wrong
