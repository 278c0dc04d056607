from __future__ import annotations

import numpy as np

from dcrafter.machine import available_memory, peak_process_memory


def test_memory_is_in_bytes() -> None:
    assert available_memory() > 10e6
    before = peak_process_memory()
    assert 10e6 < before < 1e12
    taken = np.ones(before // 8 + 2_000_000)  # more than ever before
    assert peak_process_memory() > before
    assert taken.sum() > 0
