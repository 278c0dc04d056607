"""Windows over the frames of long videos."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dcrafter.sampling.windows import fuse, hat, windows


@pytest.mark.parametrize("length", [1, 7, 16, 17, 31, 48, 100])
@pytest.mark.parametrize(("window", "overlap"), [(16, 8), (16, 0), (16, 15), (24, 5)])
def test_windows_cover_all_frames_and_share_what_they_should(length: int, window: int, overlap: int) -> None:
    found = windows(length, window, overlap)
    assert (found[0].start, found[-1].stop) == (0, length)
    assert {w.stop - w.start for w in found} == {min(window, length)}
    shared = [before.stop - after.start for before, after in pairwise(found)]
    assert all(each == overlap for each in shared[:-1])
    assert all(each >= overlap for each in shared)
    assert all(before.start < after.start for before, after in pairwise(found))


def test_fused_windows_agree_with_a_denoiser_that_sees_single_frames() -> None:
    x = torch.randn(2, 3, 30, 4, 4)
    fused = fuse(lambda part, t, frames: part * t, windows(30, 16, 8))
    torch.testing.assert_close(fused(x, 5), 5 * x)


def test_the_middle_of_a_window_weighs_most() -> None:
    """Two windows of 4 that share 2 frames, predicting 0 and 1."""
    fused = fuse(lambda x, t, frames: torch.full_like(x, float(frames.start > 0)), windows(6, 4, 2))
    assert fused(torch.zeros(1, 1, 6, 1, 1), 0).flatten().tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])
    assert hat(5).tolist() == [1, 2, 3, 2, 1]


def test_one_window_is_left_alone() -> None:
    def denoise(x: Tensor, t: int, frames: slice) -> Tensor:
        assert frames == slice(0, 6)
        return x

    x = torch.randn(1, 1, 6, 1, 1)
    assert fuse(denoise, windows(6, 16, 8))(x, 0) is x
