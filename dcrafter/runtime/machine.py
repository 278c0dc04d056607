"""The machine's memory: what there is, what is free, and what this process took."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path("/")
INTERVAL = 0.005  # seconds between two looks at the memory held


class Cgroup(NamedTuple):
    """A group of processes whose memory is limited together: bytes it may have, and that it cannot give back."""

    limit: int
    used: int


def total_memory() -> int:
    """Bytes of memory in the machine."""
    return _meminfo("MemTotal") or psutil.virtual_memory().total


def memory_limit() -> int | None:
    """Bytes that this process and those limited together with it may take, if anything limits them (Linux)."""
    return min((group.limit for group in _cgroups()), default=None)


def available_memory() -> int:
    """Bytes that can be taken without swapping: what the system calls available, or less in a limited cgroup."""
    free = _meminfo("MemAvailable")
    rooms = [max(0, group.limit - group.used) for group in _cgroups()]
    return min([psutil.virtual_memory().available if free is None else free, *rooms])


def _meminfo(name: str) -> int | None:
    """A line of Linux's own account, in bytes."""
    try:
        lines = dict(line.split(":", 1) for line in (ROOT / "proc/meminfo").read_text().splitlines())
        return int(lines[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _cgroups() -> Iterator[Cgroup]:
    """The cgroups of this process that are limited: its own, and those around it. Of either version."""
    try:
        lines = (ROOT / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:  # 4:memory:/a/b in version 1, 0::/a/b in version 2
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = ROOT / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = ROOT / "sys/fs/cgroup/memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = mount / path.lstrip("/")  # in a container this may be a name that only the host knows
        for folder in (group, *group.parents):
            if limited := _cgroup(folder, *names):
                yield limited
            if folder == mount:
                break


def _cgroup(folder: Path, limit: str, usage: str, reclaimable: str) -> Cgroup | None:
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such cgroup, or "max"
        return None
    if most >= 2**60:  # how version 1 says that there is no limit
        return None
    return Cgroup(most, used - int(stat.get(reclaimable, 0)))  # without files that are only cached


def process_memory() -> int:
    """Bytes that this process holds of its own: without mapped files, which the system takes back when it needs to.

    Outside Linux the part of it that is in memory now, mapped files and all.
    """
    try:  # psutil's way takes ten times as long, and this is asked hundreds of times a second
        _, resident, shared, *_ = (ROOT / "proc/self/statm").read_text().split()
    except OSError:
        return psutil.Process().memory_info().rss
    return (int(resident) - int(shared)) * mmap.PAGESIZE


class PeakMemory:
    """The most bytes that `held` gives from where it is entered to where it is left: no system keeps that itself."""

    def __init__(self, held: Callable[[], int] = process_memory) -> None:
        self.held, self.bytes = held, 0

    def __enter__(self) -> PeakMemory:
        self.bytes = self.held()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._left.wait(INTERVAL):
            self.bytes = max(self.bytes, self.held())

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
