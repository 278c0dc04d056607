"""`dcrafter`: the commands, and the one place where exceptions become a line of advice and an exit status."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from contextlib import redirect_stdout
from typing import Annotated, NoReturn

import typer

from dcrafter import __version__
from dcrafter.cli import animate, batch, console, download, interpolate, loop
from dcrafter.cli.arguments import ToolCommand, ToolGroup
from dcrafter.cli.config_file import where_from
from dcrafter.cli.console import logger
from dcrafter.errors import INTERRUPTED, UNREAD, format_error, to_dcrafter_error
from dcrafter.text import write_line
from dcrafter.validation import refused

STATUSES = """
[bold]Exit status[/bold]

0 done · 1 failed · 2 wrong usage or input · 3 some items of a batch failed

4 weights missing or unreachable · 5 out of memory · 130 interrupted
"""

app = typer.Typer(
    cls=ToolGroup,
    invoke_without_command=True,
    epilog=STATUSES,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _diagnose(wanted: bool) -> None:
    if wanted:
        from dcrafter.cli.diagnose import diagnose

        diagnose()
        raise typer.Exit


@app.callback()
def dcrafter(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    diagnose: Annotated[
        bool,
        typer.Option(
            "--diagnose", metavar="", help="Print what a bug report needs.", callback=_diagnose, is_eager=True
        ),
    ] = False,
) -> None:
    """Make a still picture move, with DynamiCrafter (Xing et al., ECCV 2024)."""
    if context.invoked_subcommand is None:
        with redirect_stdout(sys.stderr):
            print(context.get_help())
        raise typer.Exit(2)


app.command(epilog=animate.EXAMPLES + STATUSES, cls=ToolCommand)(animate.animate)
app.command(epilog=interpolate.EXAMPLES + STATUSES, cls=interpolate.InterpolateCommand)(interpolate.interpolate)
app.command(epilog=loop.EXAMPLES + STATUSES, cls=ToolCommand)(loop.loop)
app.command(epilog=batch.EXAMPLES + STATUSES, cls=batch.BatchCommand)(batch.batch)
app.command(epilog=download.EXAMPLES + STATUSES, cls=ToolCommand)(download.download)


def main(arguments: list[str] | None = None, started: float | None = None) -> NoReturn:
    """Run a command line and exit with its status.

    Args:
        arguments: By default the process's own.
        started: When the process was, by `time.monotonic`; by default now.
    """
    console.started = time.monotonic() if started is None else started
    try:
        status = app(arguments, prog_name="dcrafter", standalone_mode=False) or 0
    except typer.TyperException as error:
        status = error.exit_code
        context = getattr(error, "ctx", None)
        advice = f"See {context.command_path} --help" if context else ""
        parameter = getattr(error, "param", None)
        source = where_from(context, parameter) if context and parameter else ""
        problem = error.format_message().replace("Value error, ", "")
        if parameter and (wrong := refused(error.__cause__)):
            problem = f"{parameter.opts[-1]} {wrong}"
        write_line(format_error("dcrafter", f"{source}: {problem}" if source else problem, advice), sys.stderr)
    except SystemExit as end:  # typer's, where whoever reads along has gone, as behind `| head -1`
        status = UNREAD if isinstance(end.__context__, BrokenPipeError) else end.code
    except Exception as error:
        if logger.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        known = to_dcrafter_error(error)
        status = known.exit_status
        write_line(format_error("dcrafter", known.message, known.advice), sys.stderr)
    if status == INTERRUPTED:  # typer's word for KeyboardInterrupt
        write_line(format_error("dcrafter", "interrupted"), sys.stderr)
    sys.exit(status)
