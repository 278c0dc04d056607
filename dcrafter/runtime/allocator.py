"""The C library's memory, which glibc gives back to the system too eagerly for tensors."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of malloc.h
MMAP_MAX = 65_536  # glibc's default
TRIM_THRESHOLD, MMAP_THRESHOLD = 64 * 2**20, 32 * 2**20  # what its own rule grows them to
LARGE = 2**20  # bytes of a tensor that is worth pages of its own


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


@contextmanager
def return_freed_memory() -> Iterator[None]:
    """Inside, memory that large tensors give back goes back to the system at once, at the cost of faulting anew.

    In glibc's heap tensors of up to 32 MB leave holes between those that stay: a gigabyte when a full-size UNet's
    weights are packed. Other C libraries are left as they are.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    libc.malloc_trim(0)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None
