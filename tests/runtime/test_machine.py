from __future__ import annotations

import mmap
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dcrafter.runtime import machine
from dcrafter.runtime.machine import PeakMemory, available_memory, memory_limit, process_memory, total_memory

GB = 10**9
MEMINFO = "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    8000000 kB\nHugePages_Total:  0"
NO_LIMIT = 9223372036854771712  # in version 1


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux of 16.4 GB, 8.2 of them available, on which nothing is limited."""
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    write(tmp_path / "proc/meminfo", MEMINFO)
    return tmp_path


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def version_1(folder: Path, limit: int, used: int, cached: int = 0) -> None:
    write(folder / "memory.limit_in_bytes", limit)
    write(folder / "memory.usage_in_bytes", used)
    write(folder / "memory.stat", f"inactive_file 1\ntotal_inactive_file {cached}")


def version_2(folder: Path, limit: int | str, used: int, cached: int = 0) -> None:
    write(folder / "memory.max", limit)
    write(folder / "memory.current", used)
    write(folder / "memory.stat", f"anon 7\ninactive_file {cached}")


def test_memory_is_in_bytes() -> None:
    assert available_memory() > 10e6
    assert 10e6 < process_memory() < 1e12


def test_memory_without_mapped_files(root: Path) -> None:
    write(root / "proc/self/statm", "9000 3000 1000 7 0 5 0")
    assert process_memory() == 2000 * mmap.PAGESIZE


def test_outside_linux_the_process_holds_what_is_in_memory(root: Path) -> None:
    before = process_memory()
    assert 10e6 < before < 1e12
    taken = np.ones(before // 8)
    assert process_memory() > before + taken.nbytes // 2
    assert taken.sum() > 0


def test_the_peak_is_between_entering_and_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "INTERVAL", 0)
    held, seen = 2, threading.Event()

    def look() -> int:
        if held == 7:
            seen.set()
        return held

    with PeakMemory(look) as peak:
        held = 7
        assert seen.wait(60)
        held = 3
    held = 9
    assert peak.bytes == 7


def test_what_the_system_calls_available(root: Path) -> None:
    assert (total_memory(), available_memory(), memory_limit()) == (16_384_000_000, 8_192_000_000, None)


def test_outside_linux_memory_is_known_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "proc/meminfo").unlink()
    known = SimpleNamespace(total=9 * GB, available=5 * GB)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: known)
    assert (total_memory(), available_memory(), memory_limit()) == (9 * GB, 5 * GB, None)
    write(root / "proc/self/cgroup", "0::/")
    version_2(root / "sys/fs/cgroup", 4 * GB, GB)
    assert available_memory() == 3 * GB


def test_the_tightest_of_nested_cgroups(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/user.slice/shell.scope")
    top = root / "sys/fs/cgroup"
    version_2(top / "user.slice/shell.scope", "max", GB)
    version_2(top / "user.slice", 6 * GB, 5 * GB, cached=2 * GB)
    assert (available_memory(), memory_limit()) == (3 * GB, 6 * GB)
    version_2(top / "user.slice/shell.scope", 2 * GB, GB)
    assert (available_memory(), memory_limit()) == (GB, 2 * GB)
    version_2(top / "user.slice/shell.scope", 2 * GB, 3 * GB)  # over it already
    assert available_memory() == 0


def test_a_limit_above_what_is_there(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/")
    version_2(root / "sys/fs/cgroup", 64 * GB, GB)
    assert available_memory() == 8_192_000_000


def test_the_first_version_of_cgroups_seen_from_a_container(root: Path) -> None:
    """Its name is the host's; what is mounted begins at its own folder."""
    write(root / "proc/self/cgroup", "5:cpu:/\n4:cpuset,memory:/docker/1234\n1:name=systemd:/a:b\n0::/")
    top = root / "sys/fs/cgroup/memory"
    version_1(top, NO_LIMIT, 5 * GB)
    assert (available_memory(), memory_limit()) == (8_192_000_000, None)
    version_1(top, 4 * GB, 3 * GB, cached=GB)
    assert (available_memory(), memory_limit()) == (2 * GB, 4 * GB)
