"""Scores of runs: each clip is read, measured and dropped, so that memory does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcrafter.errors import InputError
from dcrafter.evaluation.clips import ClipFile, list_clips
from dcrafter.evaluation.extraction import Extraction
from dcrafter.evaluation.studio import Report
from dcrafter.metrics import METRICS, Metric
from dcrafter.metrics.features import stack_features

REFERENCE = "reference"


@dataclass
class Scores:
    """Figures of one run: of each clip by metric, and of the set where a metric is of sets."""

    name: str
    clips: list[ClipFile] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)  # one per clip
    features: list[Tensor] = field(default_factory=list)  # (D,) per clip
    of_set: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # clips that could not be read

    def mean(self, metric: str) -> float | None:
        """The figure of the set, or the mean over the clips that have one."""
        known = [value for value in self.values.get(metric, ()) if value is not None]
        return self.of_set.get(metric, math.fsum(known) / len(known) if known else None)

    def error(self, metric: str) -> float | None:
        """Standard error of the mean over clips."""
        known = torch.tensor([value for value in self.values.get(metric, ()) if value is not None])
        return float(known.double().std() / len(known) ** 0.5) if len(known) > 1 else None

    def count(self, metric: str) -> int:
        """Of how many clips `mean` is."""
        known = [value for value in self.values.get(metric, ()) if value is not None]
        return len(self.clips) if metric in self.of_set else len(known)


def score_runs(
    runs: Mapping[str, Path],
    reference: Path | None,
    metrics: Sequence[str],
    extraction: Extraction,
    *,
    count: int | None = None,
    report: Report = lambda *_: None,
) -> list[Scores]:
    """Measure runs, and the reference where there is one, which comes last.

    Args:
        runs: folders or manifests, by their names.
        reference: real videos; clips of a run are paired with those of the same name.
        metrics: names in `METRICS`.
        extraction: the extractors.
        count: of clips of each, at most.
        report: called with a run's name, how many clips are done, and of how many.

    Raises:
        InputError: a run has no clips that can be read, or too few for a metric of sets.
    """
    real = list_clips(reference)[:count] if reference else []
    pairs = {clip.name: clip for clip in real}
    scored = []
    for name, source in runs.items():
        clips = list_clips(source)[:count]
        scored.append(_score(name, clips, pairs, metrics, extraction, report))
    if reference:
        size = scored[0].clips[0].load().shape[1:3] if scored else None
        sized = [(clip if clip.width or not size else _fitted(clip, size)) for clip in real]
        own = _score(REFERENCE, sized, {}, metrics, extraction, report)
        for each in scored:
            _score_sets(each, own, metrics)
        scored.append(own)
    return scored


def _fitted(clip: ClipFile, size: Sequence[int]) -> ClipFile:
    return replace(clip, height=size[0], width=size[1])


def _score(
    name: str,
    clips: Sequence[ClipFile],
    pairs: Mapping[str, ClipFile],
    metrics: Sequence[str],
    extraction: Extraction,
    report: Report,
) -> Scores:
    """Measure each clip on its own. Raises InputError where none can be read."""
    chosen = {metric: METRICS[metric] for metric in metrics}
    wanted = {input for metric in chosen.values() for input in metric.inputs}
    scores = Scores(name, values={key: [] for key, metric in chosen.items() if not metric.is_of_sets})
    for done, clip in enumerate(clips, 1):
        try:
            frames = clip.load()
            image = _image(clip, pairs.get(clip.name), frames)
        except InputError as error:
            scores.problems.append(str(error))
            continue
        pair = pairs.get(clip.name)
        inputs = extraction(wanted, frames, image, clip.caption or (pair.caption if pair else ""))
        scores.clips.append(clip)
        if "features" in inputs:
            scores.features.append(inputs["features"])
        for key, values in scores.values.items():
            values.append(_value(chosen[key], inputs))
        report(name, done, len(clips))
    if not scores.clips:
        raise InputError(f"no video of {name} can be read: {scores.problems[0]}")
    return scores


def _value(metric: Metric, inputs: Mapping[str, Any]) -> float | None:
    """None where the clip lacks something that the metric is given."""
    if not set(metric.inputs) <= inputs.keys():
        return None
    return metric.function(**{name: inputs[name] for name in metric.inputs})


def _image(clip: ClipFile, real: ClipFile | None, frames: Tensor) -> Tensor | None:
    """The image that a clip was made from, at its size: its own, or the first frame of its reference."""
    height, width = frames.shape[1:3]
    for known in (clip, real):
        if known and known.image:
            return known.load_image(width, height)
    if real:
        return replace(real, frames=1, stride=1).load((width, height))[0]
    return None


def _score_sets(scores: Scores, reference: Scores, metrics: Iterable[str]) -> None:
    for name in metrics:
        if METRICS[name].is_of_sets:
            one, other = stack_features(scores.features), stack_features(reference.features)
            value = METRICS[name].function(features=one, reference_features=other)
            assert value is not None
            scores.of_set[name] = value
