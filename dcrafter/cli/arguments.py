"""Options and arguments as typer takes them. Every option also reads the environment variable DCRAFTER_<OPTION>."""

from __future__ import annotations

import inspect
from types import UnionType
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from dcrafter.settings import Option, flag

FLAG = ""  # the metavar of a flag, in place of <bool>
STDIO = "-"  # as an image, prompt or output: the standard streams


class ToolCommand(TyperCommand):
    """Shows its --help as it shows other flags."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


class ToolGroup(TyperGroup):
    """Does so, too."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for each in parameters:
        if getattr(each, "is_flag", False) and not each.secondary_opts:
            each.metavar = FLAG
    return parameters


def option(*names: str, **more: Any) -> Any:
    """A typer option; its environment variable is named after the first long name."""
    long = next(name for name in names if name.startswith("--"))
    variable = "DCRAFTER_" + long.removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, envvar=variable, show_envvar=False, **more)


def argument(metavar: str, help: str, **more: Any) -> Any:
    """A typer argument that may be left out."""
    return typer.Argument(metavar=metavar, help=help, show_default=False, **more)


def is_inverted(declared: Option) -> bool:
    """True for what is on by default: its flag, --no-…, switches it off."""
    return declared.given_type is bool and declared.default is True


def parameter(name: str, declared: Option, **more: Any) -> inspect.Parameter:
    """A declared option as a parameter of a command. `more` goes to typer."""
    if is_inverted(declared):
        name = f"no_{name}"
    names = [declared.short, flag(name)] if declared.short else [flag(name)]
    values = {"help": declared.help, "rich_help_panel": declared.panel or None, "hidden": declared.hidden} | more
    kind, default = _plain(declared), declared.default
    if kind is bool:
        default, values["metavar"] = False, FLAG
    elif declared.metavar or kind is int:
        values["metavar"] = declared.metavar or "<int>"
    if declared.default_help is not None:
        values["show_default"] = declared.default_help
    if declared.words:
        values["autocompletion"] = lambda incomplete: [each for each in declared.words if each.startswith(incomplete)]
    made = typer.Option(*names, hidden=True, help=declared.help) if declared.hidden else option(*names, **values)
    annotation = Annotated[kind | None if default is None else kind, made]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _plain(declared: Option) -> Any:
    """A type that typer knows: text where there are several."""
    kind = declared.given_type
    if kind == tuple[str, ...]:
        return list[str]
    return str if isinstance(kind, UnionType) else kind


def is_switch(parameter: inspect.Parameter) -> bool:
    """True for an option that can only be switched on."""
    kind, *rest = get_args(parameter.annotation) or (parameter.annotation,)
    return kind is bool and not any("/" in name for name in rest[0].param_decls)
