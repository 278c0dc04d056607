"""`python -m dcrafter.evaluation --data VIDEOS`: measure a model on videos and print a Markdown table."""

from __future__ import annotations

from dcrafter.evaluation.command import EvaluationCommand, Suite


def load_suite() -> Suite:
    """Measures that need nothing but captioned videos."""
    from dcrafter.evaluation.cases import video_sets
    from dcrafter.evaluation.measures import MEASURES

    return Suite(MEASURES, video_sets)


COMMAND = EvaluationCommand("dcrafter.evaluation", "a folder of videos, or a CSV or JSONL manifest of them", load_suite)

if __name__ == "__main__":
    COMMAND.main()
