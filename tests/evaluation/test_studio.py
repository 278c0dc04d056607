from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcrafter.evaluation.cases import video_sets
from dcrafter.evaluation.studio import Studio
from dcrafter.pipeline import Pipeline
from dcrafter.settings import Options

OPTIONS: Options = {"steps": 2, "guidance": 2.0}


@pytest.fixture(scope="module")
def pipe(checkpoint: Path) -> Pipeline:
    return Pipeline.from_pretrained(checkpoint=checkpoint, device="cpu", dtype="float32")


def studio(pipe: Pipeline, videos: Path, **changed: Any) -> Studio:
    return Studio(
        pipe, video_sets(pipe.config, videos), **{"batch": 2, "options": OPTIONS, "report": lambda *_: None, **changed}
    )


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """The same up to rounding to a neighboring grey."""
    return one.shape == other.shape and int((one.int() - other.int()).abs().max()) <= 1


@pytest.mark.slow
def test_videos_are_what_the_pipeline_animates(pipe: Pipeline, videos: Path) -> None:
    """Video i has the seed `seed + i`, however it was batched."""
    made = studio(pipe, videos, seed=5)
    videos = made.videos("videos", 3)
    assert videos.shape == (3, 4, 32, 32, 3)
    for i, case in enumerate(made.cases("videos", 3)):
        alone = pipe.animate(case.frames[0].numpy(), case.caption, seed=5 + i, motion=case.fs, **OPTIONS)
        assert close(videos[i], torch.from_numpy(alone.frames))
    assert not close(videos[0], videos[1])


def test_loops_are_what_the_pipeline_loops(pipe: Pipeline, videos: Path) -> None:
    made = studio(pipe, videos)
    case = made.cases("loops", 1)[0]
    alone = pipe.loop(case.frames[0].numpy(), case.caption, seed=0, motion=case.fs, **OPTIONS)
    assert alone.frames.shape == (3, 32, 32, 3)
    assert close(made.videos("loops", 1)[0], torch.from_numpy(alone.frames))


def test_interpolations_are_the_pipelines_from_first_to_last(pipe: Pipeline, videos: Path) -> None:
    made = studio(pipe, videos)
    case = made.cases("interpolations", 1)[0]
    ends = [frame.numpy() for frame in case.frames[[0, -1]]]
    alone = pipe.interpolate(ends, case.caption, seed=0, motion=case.fs, **OPTIONS)
    assert close(made.videos("interpolations", 1)[0], torch.from_numpy(alone.frames))


def test_what_is_made_is_made_once_and_more_when_more_is_asked_for(pipe: Pipeline, videos: Path) -> None:
    told: list[tuple[str, float, int]] = []
    made = studio(pipe, videos, report=lambda *progress: told.append(progress))
    three = made.videos("videos", 3)
    assert told[-1] == ("videos", 3.0, 3)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert torch.equal(made.videos("videos", 2), three[:2])
    steps = len(told)
    four = made.videos("videos", 4)
    assert torch.equal(four[:3], three)
    assert told[steps:] == [("videos", 3.5, 4), ("videos", 4.0, 4)]
    assert len(made.similarities("videos", 2)) == 2
    assert len(made.similarities("videos", 4)) == 4


@pytest.mark.slow
def test_sets_differ_in_what_they_say(pipe: Pipeline, videos: Path) -> None:
    made = studio(pipe, videos)
    names = ("videos", "context scale 0.5", "context scale 1.5", "no detail", "no context", "no text")
    videos = [made.videos(name, 1) for name in names]
    assert all(not close(one, other) for i, one in enumerate(videos) for other in videos[:i])
    scales = [set(made.settings(name).context_scale) for name in names]
    assert scales == [{1.0}, {0.5}, {1.5}, {1.0}, {1.0}, {1.0}]


def test_a_seed_decides(pipe: Pipeline, videos: Path) -> None:
    one, again, other = (studio(pipe, videos, seed=seed).videos("videos", 1).numpy() for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
