"""Checkpoints written as our own files: tensor by tensor, so that memory holds a few megabytes of them at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcrafter.errors import WeightsError
from dcrafter.weights.cache import (
    DIGEST,
    HEADER,
    SOURCE,
    TOWERS,
    TOWERS_HEADER,
    Progress,
    all_towers,
    check_space,
    open_own,
    seal,
    towers_named_by,
    towers_path,
    writing_to,
)
from dcrafter.weights.checkpoint import Checkpoint
from dcrafter.weights.families import family

WIDTHS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CHUNK = 1_000_000  # values that are converted at once
LOST = 1 / 16  # a value that changes by more than this part of itself is lost
MAX_LOST = 0.01  # the part of a tensor's non-zero values that may be
ALIGNMENT = 64  # bytes, of the data's beginning

# As safetensors calls them.
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def check_whole(checkpoint: Checkpoint, *, but: tuple[str, ...] = ()) -> None:
    """Check that all components are there, except some that will come from another file.

    Raises WeightsError for a missing one and for types we cannot write.
    """
    present = {key.partition(".")[0] for key in checkpoint.tensors}
    absent = [name for name in family(checkpoint.config.name).components if name not in {*present, *but}]
    if absent:
        raise WeightsError(
            f"{checkpoint.path} has no {' and no '.join(absent)}",
            "It is a pruned copy, and only CLIP's towers can come from another file; use one that has the rest",
        )
    odd = {str(tensor.dtype) for tensor in checkpoint.tensors.values()} - {str(dtype) for dtype in TYPES}
    if odd:
        raise WeightsError(f"{checkpoint.path} holds {', '.join(sorted(odd))}, which is no type for weights")


def convert(
    checkpoint: Checkpoint, path: Path, *, width: str | None = None, source: Mapping[str, Any] | None = None
) -> Generator[Progress, None, None]:
    """Write a checkpoint as our own file, whole or not at all, and its towers as one that models share.

    Args:
        checkpoint: what to convert.
        path: where to write.
        width: float32, float16 or bfloat16. None makes wider types float16 and leaves others. A tensor that would
            overflow or lose its small values stays as it is.
        source: where it came from, for the header.

    Yields:
        Progress after every chunk.

    Raises:
        WeightsError: the file cannot be written, or holds NaN or infinite weights.
    """
    towers = {key: value for key, value in checkpoint.tensors.items() if key.partition(".")[0] in TOWERS}
    rest = {key: value for key, value in checkpoint.tensors.items() if key not in towers}
    origin = dict(source or {})
    metadata = {HEADER: json.dumps(checkpoint.config.to_dict())}
    values = sum(tensor.numel() for tensor in (rest | towers).values())
    part = path.with_name(f"{path.name}.part")
    try:
        with writing_to(path.parent):
            check_space(path.parent, 0, values * WIDTHS[width or "float16"].itemsize)
            if not checkpoint.lacks_towers:
                metadata[TOWERS_HEADER] = yield from share_towers(checkpoint, path, width=width, source=origin)
            yield from _write(checkpoint, rest, part, width, metadata, origin)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def share_towers(
    checkpoint: Checkpoint, path: Path, *, width: str | None, source: Mapping[str, Any]
) -> Generator[Progress, None, str]:
    """Write a checkpoint's towers into the cache, unless the same are there; returns their digest.

    Args:
        checkpoint: one with both towers, in its own file or in another.
        path: of the model that they are for, or that they came with, in the cache.
        width: See `convert`.
        source: where they came from, for the header.
    """
    holder = checkpoint.towers or checkpoint
    if holder.path in all_towers(path.parent) and (digest := towers_named_by(holder.path)):
        return digest
    towers = {key: holder.tensors[key] for key in sorted(holder.tensors) if key.partition(".")[0] in TOWERS}
    folder = path.parent / "towers"
    part = folder / f"{path.stem}.part"
    with writing_to(path.parent):
        if folder.is_symlink():
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            digest = yield from _write(holder, towers, part, width, {TOWERS_HEADER: "0" * 64}, dict(source))
            target = towers_path(path.parent, digest)
            if not target.is_file():
                part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return digest


def _write(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    part: Path,
    width: str | None,
    metadata: dict[str, str],
    source: dict[str, Any],
) -> Generator[Progress, None, str]:
    """Write tensors; returns the SHA-256 of them, of their names, shapes and types."""
    # Tensors of odd length are tiny; after the others they leave those at multiples of four bytes.
    tensors = dict(sorted(tensors.items(), key=lambda item: item[1].numel() % 2))
    total = sum(tensor.nbytes for tensor in tensors.values())
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    metadata |= {
        SOURCE: json.dumps(source | {"types": types, "store": width}),
        DIGEST: "0" * hashlib.sha256().digest_size * 2,
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    widest = {name: _entry(tensor, torch.bfloat16, total, 8 * tensor.numel()) for name, tensor in tensors.items()}
    room = len(json.dumps(header | widest))
    room += -(8 + room) % ALIGNMENT
    digest = hashlib.sha256()
    read = written = 0
    with open_own(part, "wb") as file:
        file.seek(8 + room)  # the header comes last: only then the types are known
        for name, tensor in tensors.items():
            checkpoint.check_unchanged()
            values = tensor.reshape(-1)
            _check_finite(checkpoint.path, name, values)
            dtype = _stored_type(values, width)
            size = values.numel() * dtype.itemsize
            header[name] = _entry(tensor, dtype, written, size)
            written += size
            for chunk in torch.split(values, CHUNK):
                content = chunk.to(dtype).contiguous().view(torch.uint8).numpy().data
                file.write(content)
                digest.update(content)
                read += chunk.nbytes
                yield Progress("converting", read, total)
        weights = digest.copy()
        weights.update(json.dumps({name: header[name] for name in tensors}, sort_keys=True).encode())
        if HEADER not in metadata:  # they are towers
            metadata[TOWERS_HEADER] = weights.hexdigest()
        metadata[DIGEST] = seal(header, digest)
        file.seek(0)
        file.write(room.to_bytes(8, "little") + json.dumps(header).encode().ljust(room))
        file.flush()
        os.fsync(file.fileno())
    return weights.hexdigest()


def _check_finite(path: Path, name: str, values: Tensor) -> None:
    for chunk in torch.split(values, CHUNK):
        known = chunk if chunk.dtype.itemsize > 1 else chunk.float()  # isfinite knows no eight-bit types
        if not known.isfinite().all():
            raise WeightsError(
                f"{path} holds NaN or infinite values, in {name}", "Its training diverged, or it is damaged"
            )


def _entry(tensor: Tensor, dtype: torch.dtype, start: int, size: int) -> dict[str, Any]:
    return {"dtype": TYPES[dtype], "shape": list(tensor.shape), "data_offsets": [start, start + size]}


def _stored_type(values: Tensor, width: str | None) -> torch.dtype:
    """The type that a tensor (flat) is written in."""
    if not values.is_floating_point() or (width is None and values.dtype.itemsize <= 2):
        return values.dtype
    wanted = WIDTHS[width or "float16"]
    return wanted if wanted == values.dtype or _survives(values, wanted) else values.dtype


def _survives(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether values keep their sizes in another type: none becomes infinite, and few vanish or nearly so.

    Below `least`, the distance between neighbours in `dtype` is more than LOST of the value, both ways.
    """
    if not values.numel():
        return True
    limits = torch.finfo(dtype)
    least = limits.smallest_normal * limits.eps / (2 * LOST)
    small = nonzero = 0
    for chunk in torch.split(values, CHUNK):
        sizes = chunk.to(torch.float32 if chunk.dtype.itemsize < 4 else chunk.dtype).abs()
        if not sizes.amax() <= limits.max and (sizes[sizes.isfinite()] > limits.max).any():
            return False
        nonzero += sizes.numel()
        if under := int((sizes < least).sum()):
            zeros = int((sizes == 0).sum())
            small += under - zeros
            nonzero -= zeros
    return small <= MAX_LOST * nonzero
