"""`python -m dcrafter.evaluation --data VIDEOS`: measure a model on videos and print a Markdown table.

`videos RUN…` in place of that measures videos that are there, `protocol` lays out the paper's protocols,
`study` asks people.
"""

from __future__ import annotations

import sys
from importlib import import_module

from dcrafter.errors import exit_on_error
from dcrafter.evaluation.command import EvaluationCommand, Suite

COMMANDS = ("videos", "protocol", "study")  # modules of this package, by their names


def load_suite() -> Suite:
    """Measures that need nothing but captioned videos."""
    from dcrafter.evaluation.cases import video_sets
    from dcrafter.evaluation.measures import MEASURES

    return Suite(MEASURES, video_sets)


COMMAND = EvaluationCommand("dcrafter.evaluation", "a folder of videos, or a CSV or JSONL manifest of them", load_suite)


def main() -> None:
    """Run the process's command line, and exit with its status."""
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        module = import_module(f"dcrafter.evaluation.{sys.argv[1]}")
        with exit_on_error(module.PROGRAM):
            module.run(sys.argv[2:])
    else:
        COMMAND.main()


if __name__ == "__main__":
    main()
