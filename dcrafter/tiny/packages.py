"""Packages of npm's and Debian's registries: download, unpack, and read what is in them."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from dcrafter.errors import InputError


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def run(command: list[str], folder: Path, advice: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not installed", advice) from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{' '.join(command)} failed: {last}", advice) from error


def npm_archive(package: str, work: Path) -> Path:
    """The package's archive in `work`, downloaded if it is missing."""
    stem = package.lstrip("@").replace("/", "-")
    if not any(work.glob(f"{stem}-[0-9]*.tgz")):
        say(f"npm pack {package}")
        run(["npm", "pack", "--silent", package], work, "It needs npm and its registry")
    return max(work.glob(f"{stem}-[0-9]*.tgz"))


def debian_files(package: str, work: Path) -> Path:
    """The folder in `work` with the package's files, downloaded and unpacked if it is missing."""
    folder = work / package
    if not folder.is_dir():
        if not any(work.glob(f"{package}_*.deb")):
            say(f"apt-get download {package}")
            run(
                ["apt-get", "download", package],
                work,
                "It needs Debian's packages; run `apt-get update` first",
            )
        part = work / f"{package}.part"
        run(
            ["dpkg-deb", "-x", max(work.glob(f"{package}_*.deb")).name, part.name],
            work,
            "Delete it and try again",
        )
        part.rename(folder)
    return folder


def qt_resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file in a binary Qt resource file (`.rcc`, zlib or no compression).

    Raises:
        ValueError: it is no such file.
    """
    raw = path.read_bytes()
    magic, version, tree, data, names = struct.unpack_from(">4s4I", raw)
    if magic != b"qres":
        raise ValueError(f"{path.name} is no Qt resource file")
    node_size = 14 if version < 2 else 22

    def name_at(offset: int) -> str:
        (length,) = struct.unpack_from(">H", raw, names + offset)
        start = names + offset + 6  # behind a hash
        return raw[start : start + 2 * length].decode("utf-16-be")

    def walk(node: int, folder: str) -> Iterator[tuple[str, bytes]]:
        place = tree + node * node_size
        name, flags = struct.unpack_from(">IH", raw, place)
        here = f"{folder}/{name_at(name)}" if node else ""
        if flags & 2:  # a folder
            count, first = struct.unpack_from(">2I", raw, place + 6)
            for child in range(first, first + count):
                yield from walk(child, here)
        else:
            (offset,) = struct.unpack_from(">I", raw, place + 10)
            (length,) = struct.unpack_from(">I", raw, data + offset)
            content = raw[data + offset + 4 : data + offset + 4 + length]
            yield here, zlib.decompress(content[4:]) if flags & 1 else content  # 4 bytes tell its length

    yield from walk(0, "")
