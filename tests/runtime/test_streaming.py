from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dcrafter.runtime.streaming import Streaming

NAMES = ["a", "b", "c"]


class Reader:
    """Blocks whose weight is a number, 0 while it is not loaded; what was done with them, in order."""

    def __init__(self) -> None:
        self.blocks = {name: nn.Linear(1, 1, bias=False).requires_grad_(False) for name in NAMES}
        self.done: list[str] = []
        self.broken = ""
        for block in self.blocks.values():
            self.free(block)
        self.done.clear()
        self.streaming = Streaming(self.blocks, self.load, self.free, torch.device("cpu"))

    def load(self, name: str) -> None:
        if name == self.broken:
            raise OSError("cut short")
        self.blocks[name].weight.fill_(2)
        self.done.append(f"+{name}")

    def free(self, block: nn.Module) -> None:
        assert isinstance(block, nn.Linear)
        block.weight.zero_()
        self.done.append("-" + next(name for name, each in self.blocks.items() if each is block))

    def run(self) -> float:
        x = torch.ones(1, 1)
        for block in self.blocks.values():
            x = block(x)
        return x.item()


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.streaming.close()


def test_every_block_has_its_weights_in_every_evaluation(reader: Reader) -> None:
    assert [reader.run() for _ in range(3)] == [8, 8, 8]
    reader.streaming.close()
    once_more = "+a"  # for an evaluation that may come
    assert sorted(reader.done) == sorted([*3 * ["+a", "-a", "+b", "-b", "+c", "-c"], once_more])


def test_no_more_than_two_are_loaded(reader: Reader) -> None:
    reader.run()
    reader.run()
    reader.streaming.close()
    for i in range(len(reader.done)):
        assert sum(1 if entry[0] == "+" else -1 for entry in reader.done[: i + 1]) <= 2


def test_what_goes_wrong_while_reading_is_raised_where_the_block_runs(reader: Reader) -> None:
    reader.broken = "b"
    with pytest.raises(OSError, match="cut short"):
        reader.run()


def test_closed_it_leaves_the_blocks_alone(reader: Reader) -> None:
    reader.streaming.close()
    assert reader.run() == 0
    assert reader.done == []
