"""Damaged files: what is done to a good one, from a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

NUMBER = re.compile(rb"\d+(\.\d+)?")
GROWN = [b"0", b"-1", b"1000000000", b"9" * 400, b"1e400", b"NaN", b"[]", b'""', b"null"]
SIZES = [0, 1, 2**31 - 1, 2**32, 2**40, 2**63 - 1, 2**64 - 1]
MAX_CHANGES = 8

Mutation = Callable[[bytearray, random.Random], None]


def flip_bits(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, MAX_CHANGES)):
        content[_place(content, rng)] ^= 1 << rng.randrange(8)


def cut(content: bytearray, rng: random.Random) -> None:
    del content[_place(content, rng) :]


def cut_out(content: bytearray, rng: random.Random) -> None:
    start = _place(content, rng)
    del content[start : start + rng.randint(1, 64)]


def repeat(content: bytearray, rng: random.Random) -> None:
    start = _place(content, rng)
    piece = content[start : start + rng.randint(1, 64)]
    content[start:start] = piece * rng.randint(1, 100)


def insert_bytes(content: bytearray, rng: random.Random) -> None:
    start = _place(content, rng)
    content[start:start] = rng.randbytes(rng.randint(1, 16))


def grow_text(content: bytearray, rng: random.Random) -> None:
    """Another value in the place of a number that is written in digits."""
    start = _place(content, rng)
    if found := NUMBER.search(content, start) or NUMBER.search(content):
        content[found.start() : found.end()] = rng.choice(GROWN)


def grow_binary(content: bytearray, rng: random.Random) -> None:
    """Another size in the place of two, four or eight bytes."""
    start, width = _place(content, rng), rng.choice((2, 4, 8))
    size = rng.choice(SIZES) % 2 ** (8 * width)
    content[start : start + width] = size.to_bytes(width, rng.choice(("little", "big")))


MUTATIONS: list[Mutation] = [flip_bits, cut, cut_out, repeat, insert_bytes, grow_text, grow_binary]


def mutate(content: bytes, seed: int) -> bytes:
    """The content with one to three kinds of damage: the same for the same seed."""
    rng = random.Random(seed)
    damaged = bytearray(content)
    for mutation in rng.choices(MUTATIONS, k=rng.randint(1, 3)):
        if damaged:
            mutation(damaged, rng)
    return bytes(damaged)


def _place(content: bytearray, rng: random.Random) -> int:
    """Somewhere; as often as not near the beginning, where headers are."""
    return rng.randrange(min(len(content), rng.choice((64, 4096, len(content)))) or 1)
