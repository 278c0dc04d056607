from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dcrafter.runtime import allocator
from dcrafter.runtime.allocator import keep_freed_memory

COUNT_FAULTS = """
import resource, torch
from dcrafter.runtime.allocator import keep_freed_memory

def page_faults():
    "Pages that 20 tensors of 40 MB touch for the first time; of a few, each may need new ones."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

outside = page_faults()
with keep_freed_memory():
    page_faults()
    inside = page_faults()
print(outside, inside, page_faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(allocator._glibc() is None, reason="not glibc")
def test_freed_memory_is_used_again_inside_and_returned_behind() -> None:
    # In a process of its own: other tests may have left a generator that still keeps its memory.
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    outside, inside, behind = map(int, done.stdout.split())
    assert inside < outside / 4
    assert behind > inside


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with keep_freed_memory():
        torch.ones(2)


COUNT_HOLES = """
import torch
from dcrafter.runtime.allocator import return_freed_memory
from dcrafter.runtime.machine import process_memory

def holes():
    "Bytes held for 64 tensors of 2 MB that are gone, between smaller ones that stay."
    pairs = [(torch.ones(500_000), torch.ones(10_000)) for _ in range(64)]
    kept = [small for _, small in pairs]
    before = process_memory()
    del pairs
    return 128_000_000 - (before - process_memory())

for size in (31_000_000 // 4, 8):  # the first raises glibc's threshold
    torch.ones(size)
with return_freed_memory():
    inside = holes()
print(holes(), inside)
"""


@pytest.mark.slow
@pytest.mark.skipif(allocator._glibc() is None, reason="not glibc")
def test_large_tensors_leave_no_holes() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT_HOLES], capture_output=True, text=True, check=True)
    outside, inside = map(int, done.stdout.split())
    assert inside < 10_000_000 < outside
