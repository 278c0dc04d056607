"""The measures: each looks at some videos of a studio and gives rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch

from dcrafter.evaluation.report import Row
from dcrafter.metrics.motion import has_motion
from dcrafter.metrics.pixels import as_input, frame_difference, loop_gap, psnr
from dcrafter.tiny.data import DIRECTED, HELD_OUT, held_out_stills
from dcrafter.tiny.evaluation.studio import Studio

FEWER = 32  # videos are enough for a mean


Measure = Callable[[Studio, int], list[Row]]


def autoencoder(studio: Studio, count: int) -> list[Row]:
    """Stills against what comes of them, without posterior noise."""
    stills = held_out_stills(studio.data, studio.pipe.config.height, HELD_OUT)
    return [
        Row(
            f"autoencoder on held-out {kind}, PSNR",
            asked,
            psnr(studio.coded(stills[kind]), stills[kind]),
            "dB",
            HELD_OUT,
        )
        for kind, asked in (("emoji", "≥ 26 dB"), ("photographs", "≥ 22 dB"))
    ]


def first_frame(studio: Studio, count: int) -> list[Row]:
    """The first frame against the picture it was made from."""
    return [
        Row(f"first frame, {name}, PSNR", "≥ 20 dB", _conformity(studio, name, few), "dB", few)
        for name, few in (("pictures", count), ("emoji", min(count, FEWER)))
    ]


def motion(studio: Studio, count: int) -> list[Row]:
    """Whether videos move as asked, by the sign of the measured motion; and as other videos were asked to.

    For the second, each video is scored against the prompt of another one, dealt out at random. Mostly that asks for
    another kind of motion, whose sign in this video is noise; else for the same direction or its opposite. As
    opposites are prompted equally often, chance gives one half whatever the videos do, if they move at all.
    """
    names = [str(case.motion) for case in studio.cases("pictures", count)]
    order = np.random.default_rng(studio.seed).permutation(count)
    shuffled = names.copy()
    for one, other in zip(order, np.roll(order, 1), strict=True):  # nobody keeps their own
        shuffled[one] = names[other]
    return [
        _moves_as("motion as prompted", "≥ 80 %", studio, "pictures", names),
        _moves_as("the same against shuffled prompts", "about 50 %", studio, "pictures", shuffled),
    ]


def paraphrases(studio: Studio, count: int) -> list[Row]:
    """The same with phrases and nouns never trained on."""
    names = [str(case.motion) for case in studio.cases("paraphrases", count)]
    return [_moves_as("motion as prompted, in new words", "≥ 80 %", studio, "paraphrases", names)]


def emoji(studio: Studio, count: int) -> list[Row]:
    """How much emoji move, over how much the data's own animations of them do."""
    few = min(count, FEWER)
    true = frame_difference(torch.stack([case.frames for case in studio.cases("emoji", few)]))
    made = frame_difference(studio.videos("emoji", few))
    ratio = float(made.mean() / true.mean().clamp_min(1e-8))
    details = {"made": made.tolist(), "data": true.tolist()}
    return [Row("emoji, difference of neighbouring frames over the data's", "0.5 … 2", ratio, "", few, details)]


def loop(studio: Studio, count: int) -> list[Row]:
    """The step from a loop's last frame back to its first, over the mean step within."""
    few = min(count, FEWER)
    gaps = loop_gap(studio.videos("loops", few))
    share = float((gaps <= 1).float().mean())
    return [
        Row("loop, step from last to first frame over mean step, median", "≤ 1", float(gaps.median()), "", few),
        Row("loops of which it is at most 1", "", share, "%", few, {"gaps": gaps.tolist()}),
    ]


def interpolation(studio: Studio, count: int) -> list[Row]:
    """First and last frames of interpolations against the two pictures, over what the autoencoder leaves of those."""
    few = min(count, FEWER)
    true = as_input(torch.cat([case.frames[[0, -1]] for case in studio.cases("between", few)]))
    made = as_input(torch.cat([video[[0, -1]] for video in studio.videos("between", few)]))
    most, found = psnr(studio.coded(true), true), psnr(made, true)
    details = {"frames": found, "autoencoder": most}
    return [
        Row(
            "interpolation, first and last frame, PSNR less the autoencoder's",
            "≥ -1 dB",
            found - most,
            "dB",
            few,
            details,
        )
    ]


def context_scale(studio: Studio, count: int) -> list[Row]:
    """A higher context scale (λ's multiplier) lowers motion (paper, figure 2a)."""
    few = min(count, FEWER)
    usual = float(frame_difference(studio.videos("pictures", few)).mean())
    rows = []
    for scale, asked in ((0.5, "> 1"), (1.5, "< 1")):
        changed = float(frame_difference(studio.videos(f"context scale {scale}", few)).mean())
        what = f"motion at context scale {scale} over that at 1"
        rows.append(Row(what, asked, changed / max(usual, 1e-8), "", few, {"usual": usual, "changed": changed}))
    return rows


def detail(studio: Studio, count: int) -> list[Row]:
    """Without visual detail guidance videos conform less to their picture (paper, table 4)."""
    few = min(count, FEWER)
    usual, without = (_conformity(studio, name, few) for name in ("pictures", "no detail"))
    what = "first frame's PSNR without visual detail guidance, less that with it"
    return [Row(what, "< 0 dB", without - usual, "dB", few, {"with": usual, "without": without})]


def lambdas(studio: Studio, count: int) -> list[Row]:
    """λ of each dual cross-attention layer, as trained (paper, figure 2a)."""
    pipe = studio.pipe
    for _ in pipe.hold("unet"):
        pass
    layers = pipe.model.unet.dual_attentions()
    pipe.model.unet.set_context_scale([1.0] * len(layers))
    values = [float(layer.image_scale()) for layer in layers]
    mean = sum(values) / len(values)
    return [Row("λ, mean over the layers", "", mean, "", len(values), {"per layer": values})]


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        autoencoder, first_frame, motion, paraphrases, emoji, loop, interpolation, context_scale, detail, lambdas,
    )
}  # fmt: skip


def _conformity(studio: Studio, name: str, count: int) -> float:
    """Mean PSNR of first frames against their pictures."""
    pictures = torch.stack([case.frames[0] for case in studio.cases(name, count)])
    return psnr(as_input(studio.videos(name, count)[:, 0]), as_input(pictures))


def _moves_as(what: str, asked: str, studio: Studio, videos: str, names: list[str]) -> Row:
    """The share of videos that have the motions `names`."""
    measured = studio.motions(videos, len(names))
    right = [has_motion(name, one) for name, one in zip(names, measured, strict=True)]
    shares = {}
    for direction in DIRECTED:
        if found := [hit for hit, name in zip(right, names, strict=True) if name == direction]:
            shares[direction] = sum(found) / len(found)
    captions = [case.caption for case in studio.cases(videos, len(names))]
    each = [
        {"caption": caption, "scored as": name, **asdict(one)}
        for caption, name, one in zip(captions, names, measured, strict=True)
    ]
    details = {"shares": shares, "videos": each}
    return Row(what, asked, sum(right) / len(right), "%", len(right), details)
