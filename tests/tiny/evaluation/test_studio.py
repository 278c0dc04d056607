from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcrafter.pipeline import Pipeline
from dcrafter.settings import Options
from dcrafter.tiny.evaluation.studio import Studio

OPTIONS: Options = {"steps": 2, "guidance": 2.0}


@pytest.fixture(scope="module")
def pipe(checkpoint: Path) -> Pipeline:
    return Pipeline.from_pretrained(checkpoint=checkpoint, device="cpu", dtype="float32")


def studio(pipe: Pipeline, data: Path, **changed: Any) -> Studio:
    return Studio(pipe, data, **{"batch": 2, "options": OPTIONS, "report": lambda *_: None, **changed})


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """The same up to rounding to a neighbouring grey."""
    return one.shape == other.shape and int((one.int() - other.int()).abs().max()) <= 1


def test_videos_are_what_the_pipeline_animates(pipe: Pipeline, data: Path) -> None:
    """Video i has the seed `seed + i`, however it was batched."""
    made = studio(pipe, data, seed=5)
    videos = made.videos("pictures", 3)
    assert videos.shape == (3, 4, 32, 32, 3)
    for i, case in enumerate(made.cases("pictures", 3)):
        alone = pipe.animate(case.frames[0].numpy(), case.caption, seed=5 + i, motion=12, **OPTIONS)
        assert close(videos[i], torch.from_numpy(alone.frames))
    assert not close(videos[0], videos[1])


def test_loops_are_what_the_pipeline_loops(pipe: Pipeline, data: Path) -> None:
    made = studio(pipe, data)
    case = made.cases("loops", 1)[0]
    alone = pipe.loop(case.frames[0].numpy(), case.caption, seed=0, motion=12, **OPTIONS)
    assert alone.frames.shape == (3, 32, 32, 3)
    assert close(made.videos("loops", 1)[0], torch.from_numpy(alone.frames))


def test_interpolations_are_the_pipelines_from_first_to_last(pipe: Pipeline, data: Path) -> None:
    made = studio(pipe, data)
    case = made.cases("between", 1)[0]
    ends = [frame.numpy() for frame in case.frames[[0, -1]]]
    alone = pipe.interpolate(ends, case.caption, seed=0, motion=12, **OPTIONS)
    assert close(made.videos("between", 1)[0], torch.from_numpy(alone.frames))


def test_what_is_made_is_made_once_and_more_when_more_is_asked_for(pipe: Pipeline, data: Path) -> None:
    told: list[tuple[str, float, int]] = []
    made = studio(pipe, data, report=lambda *progress: told.append(progress))
    three = made.videos("pictures", 3)
    assert told == [("pictures", done, 3) for done in (1.0, 2.0, 2.5, 3.0)]
    assert torch.equal(made.videos("pictures", 2), three[:2])
    assert len(told) == 4
    four = made.videos("pictures", 4)
    assert torch.equal(four[:3], three)
    assert told[4:] == [("pictures", 3.5, 4), ("pictures", 4.0, 4)]
    assert len(made.motions("pictures", 2)) == 2
    assert len(made.motions("pictures", 4)) == 4


def test_sets_differ_in_what_they_say(pipe: Pipeline, data: Path) -> None:
    made = studio(pipe, data)
    names = ("pictures", "context scale 0.5", "context scale 1.5", "no detail")
    videos = [made.videos(name, 1) for name in names]
    assert all(not close(one, other) for i, one in enumerate(videos) for other in videos[:i])
    scales = [set(made.settings(name).context_scale) for name in names]
    assert scales == [{1.0}, {0.5}, {1.5}, {1.0}]


def test_a_seed_decides(pipe: Pipeline, data: Path) -> None:
    one, again, other = (studio(pipe, data, seed=seed).videos("emoji", 1).numpy() for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
