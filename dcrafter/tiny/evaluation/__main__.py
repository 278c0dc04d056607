"""`python -m dcrafter.tiny.evaluation --data DATA`: measure a model on what the built-in one never trained on."""

from __future__ import annotations

from dcrafter.evaluation.command import EvaluationCommand, Suite


def load_suite() -> Suite:
    """Measures by prepared data, whose motions are known."""
    from dcrafter.tiny.evaluation.measures import MEASURES
    from dcrafter.tiny.evaluation.sets import video_sets

    return Suite(MEASURES, video_sets)


COMMAND = EvaluationCommand("dcrafter.tiny.evaluation", "the folder that dcrafter.tiny.prepare made", load_suite)

if __name__ == "__main__":
    COMMAND.main()
