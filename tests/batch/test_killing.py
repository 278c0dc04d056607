"""Batches that are killed or interrupted at any moment, and run again until they are done."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from batch.killing import Arguments, fill, finish, largest, same, stop

pytestmark = pytest.mark.slow

ITEMS, KILLS = 16, 5


@pytest.fixture
def arguments(checkpoint: Path, pictures: Path) -> Arguments:
    return [
        "batch", pictures, "-n", str(ITEMS // 8), "-p", "cat", "--checkpoint", checkpoint, "--device", "cpu",
        "--dtype", "float32", "--steps", "1", "-g", "1", "-f", "apng", "-q", "-o", "out",
    ]  # fmt: skip


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGSTOP])
def test_a_batch_that_is_stopped_again_and_again_ends_as_if_it_had_not_been(
    arguments: Arguments, tmp_path: Path, by: signal.Signals
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = finish(arguments, whole)
    assert len(expected) == ITEMS
    moments = random.Random(0)
    for _ in range(KILLS):
        assert same(stop(arguments, parts, by, moments), expected)
    made = finish(arguments, parts)
    assert made.keys() == expected.keys()
    assert same(made, expected)


def test_a_batch_whose_disk_is_full_again_and_again_ends_as_if_it_had_not_been(
    arguments: Arguments, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = finish(arguments, whole)
    moments, came = random.Random(1), []
    for _ in range(KILLS):
        made = fill(arguments, parts, moments, largest(whole / "out"))
        assert same(made, expected)
        came.append(len(made))
    assert any(0 < count < ITEMS for count in came), came
    made = finish(arguments, parts)
    assert made.keys() == expected.keys()
    assert same(made, expected)
