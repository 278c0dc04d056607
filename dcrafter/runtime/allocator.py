"""The C library's memory, which glibc gives back to the system too eagerly for tensors."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
MMAP_MAX, TRIM_THRESHOLD = 65_536, 64 * 2**20  # glibc's default, and what its own rule grows the other to


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, memory that tensors give back stays with the process, for those that come next; then it is returned.

    glibc maps every large tensor anew and returns it when it is freed, so that each page faults again: a million times
    in a full-size evaluation, a fifth of its time. Weights should be loaded outside: they are large, and stay. Other C
    libraries are left as they are.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, MMAP_MAX)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None
