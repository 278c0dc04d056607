"""The measures, on videos whose figures are known: those of the cases themselves, or made of them."""

from __future__ import annotations

import pytest
import torch
from evaluation.ready import ReadyStudio, clip, run

from dcrafter.evaluation.measures import FEW, MEASURES


def test_an_autoencoder_is_held_against_its_images() -> None:
    (row,) = run(MEASURES["autoencoder"], ReadyStudio())
    assert row.value == pytest.approx(26.02, abs=0.01)  # a tenth of a range of two


def test_first_frames_are_held_against_their_images() -> None:
    (exact,) = run(MEASURES["first_frame"], ReadyStudio({"videos": clip(0, 99)}))
    assert exact.value == 100
    (off,) = run(MEASURES["first_frame"], ReadyStudio({"videos": clip(51, 0)}))
    assert off.value == pytest.approx(20 * torch.log10(torch.tensor(5.0)).item(), abs=1e-3)  # a fifth of the range
    (row,) = run(MEASURES["detail"], ReadyStudio({"videos": clip(0, 99), "no detail": clip(51, 0)}))
    assert row.value == pytest.approx(off.value - exact.value)


def test_movement_is_in_units_of_the_data() -> None:
    (row,) = run(MEASURES["movement"], ReadyStudio({"videos": clip(0, 5, 10, 15)}))
    assert row.value == pytest.approx(0.5)


def test_an_interpolation_is_held_against_what_the_autoencoder_can() -> None:
    true = ReadyStudio().true.clone()
    row = run(MEASURES["interpolation"], ReadyStudio({"interpolations": true}))[0]
    assert row.details["autoencoder"] == pytest.approx(26.02, abs=0.01)  # a tenth of a range of two
    assert row.value > 40
    true[1:3] = 255  # what is between does not count
    assert run(MEASURES["interpolation"], ReadyStudio({"interpolations": true}))[0] == row
    true[[0, -1]] = 255
    assert run(MEASURES["interpolation"], ReadyStudio({"interpolations": true}))[0].value < 0


def test_loops_close() -> None:
    median, share = run(MEASURES["loop"], ReadyStudio({"loops": clip(0, 10, 20, 10)}))
    assert (median.value, share.value) == (pytest.approx(1), 1)
    median, share = run(MEASURES["loop"], ReadyStudio({"loops": clip(0, 10, 20, 30)}))
    assert (median.value, share.value) == (pytest.approx(3), 0)


def test_context_scales_are_compared_with_the_usual() -> None:
    made = {"videos": clip(0, 10), "context scale 0.5": clip(0, 20), "context scale 1.5": clip(0, 5)}
    assert [row.value for row in run(MEASURES["context_scale"], ReadyStudio(made))] == [2, 0.5]


def test_means_take_few_videos() -> None:
    (row,) = run(MEASURES["movement"], ReadyStudio({"videos": clip(0, 5)}), 100)
    assert row.count == FEW
    (row,) = run(MEASURES["first_frame"], ReadyStudio({"videos": clip(0, 5)}), 100)
    assert row.count == 100
