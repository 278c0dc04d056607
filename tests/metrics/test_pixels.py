from __future__ import annotations

import pytest
import torch

from dcrafter.metrics.pixels import frame_difference, loop_gap, psnr


def test_psnr_is_that_of_pixels() -> None:
    true = torch.zeros(2, 3, 8, 8)
    assert psnr(true + 0.2, true) == pytest.approx(20.0, abs=1e-3)  # a tenth of the range
    assert psnr(true + 7, torch.ones_like(true)) == 100.0  # what is beyond white is white


def clip(*greys: int) -> torch.Tensor:
    """Even frames (1, T, 2, 2, 3) uint8."""
    return torch.tensor(greys, dtype=torch.uint8).view(1, -1, 1, 1, 1).expand(1, -1, 2, 2, 3)


def test_frame_difference_is_absolute_and_a_clip() -> None:
    both = torch.cat([clip(200, 190, 220), clip(7, 7, 7)])
    assert frame_difference(both).tolist() == [20.0, 0.0]


def test_the_gap_of_a_loop_is_in_steps() -> None:
    assert loop_gap(clip(0, 10, 20, 30)).item() == pytest.approx(3)
    assert loop_gap(clip(0, 10, 20, 10)).item() == pytest.approx(1)
    assert loop_gap(clip(5, 5, 5)).item() == 0
