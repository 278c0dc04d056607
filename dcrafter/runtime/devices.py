"""Devices and types: which there are, which to take, and the memory on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dcrafter.errors import UsageError
from dcrafter.runtime.machine import available_memory, process_memory
from dcrafter.settings import DTYPES

DEVICES = ("cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """auto, or a device by its name. Raises UsageError for one that is not here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in DEVICES:
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"there is no device {name} here", f"Choose {' or '.join(_present())}, or leave out --device"
        ) from error
    return device


def _present() -> list[str]:
    """The kinds of devices that are here."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [kind for kind in DEVICES if there.get(kind, True)]


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto is float16 on a GPU; on a CPU bfloat16 if it multiplies that in hardware, else float32.

    Raises UsageError for a name that is no type.
    """
    if name == "auto":
        if device.type != "cpu":
            return torch.float16
        abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = abilities.get("avx512_bf16") or abilities.get("amx_bf16")
        return torch.bfloat16 if native else torch.float32
    if name not in DTYPES:
        raise UsageError(f"there is no type {name}", f"Choose among auto, {', '.join(DTYPES)}")
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return available_memory()


def held_memory(device: torch.device) -> int:
    """Bytes of the device that torch holds now, its cache included; on a CPU what the process holds."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return process_memory()


def upload(value: Tensor, device: torch.device) -> Tensor:
    """A CPU's tensor on a device. From pinned memory to CUDA, so that the copy waits for nothing and nothing for it."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def begin_download(value: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU.

    Returns what gives the copy. On CUDA that waits for what was queued before the copy, not for what came behind it.
    """
    if value.device.type != "cuda":
        return value.cpu
    copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait
