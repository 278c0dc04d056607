from __future__ import annotations

import torch

from dcrafter.evaluation.report import SHEET_FRAMES, Row, sheet, table


def test_figures_read_as_what_they_are() -> None:
    rows = [Row("a", 0.876, "%", 9), Row("b", 21.239, "dB", 8), Row("c", 0.5, "", 7)]
    assert table(rows).splitlines()[2:] == [
        "| a | 88 % | 9 |",
        "| b | 21.24 dB | 8 |",
        "| c | 0.50 | 7 |",
    ]


def test_a_sheet_shows_videos_of_any_shape_below_their_titles() -> None:
    videos = [("one", torch.zeros(16, 20, 32, 3, dtype=torch.uint8)), ("two", torch.full((5, 20, 32, 3), 9).byte())]
    image = sheet(videos)
    assert image.width == SHEET_FRAMES * 32
    assert image.getpixel((5, image.height - 5)) == (9, 9, 9)
