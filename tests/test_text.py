from __future__ import annotations

import fcntl
import io
import os
import socket
import struct
import termios
from urllib.error import URLError

import pytest

from dcrafter.text import error_text, format_size, printable, write_line


@pytest.mark.parametrize(("size", "expected"), [(0, "0.0 MB"), (1_500_000, "1.5 MB"), (10_400_000_000, "10.4 GB")])
def test_sizes(size: int, expected: str) -> None:
    assert format_size(size) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(2, "No such file or directory", "cat.png"), "No such file or directory"),
        (ValueError(" bad header.\nmore of it"), "bad header"),
        (ValueError("x" * 1000), "x" * 200 + "…"),
        (ValueError("long " * 100), "long " * 39 + "long…"),
        (KeyError(), "KeyError"),
        (RuntimeError("[Errno 111] Connection refused"), "Connection refused"),
        (RuntimeError("[Errno -2] Name or service not known"), "the host's name cannot be resolved"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "the host's name cannot be resolved"),
        (URLError(OSError(104, "Connection reset by peer")), "Connection reset by peer"),
    ],
)
def test_errors_of_libraries_become_one_line(error: Exception, expected: str) -> None:
    assert error_text(error) == expected


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[31m\tb\nc\ud800") == "a\\x1b[31m b c\\ud800"


def test_a_line_is_wrapped_at_words_on_a_terminal_alone() -> None:
    line = "dcrafter: b/p2.mp4 already exists. Choose another, or pass --overwrite"
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
    with open(slave, "w") as terminal:
        write_line(line, terminal)
        shown = os.read(master, 1000).decode().splitlines()
    os.close(master)
    assert shown == ["dcrafter: b/p2.mp4 already", "exists. Choose another, or", "pass --overwrite"]
    file = io.StringIO()
    write_line(line, file)
    assert file.getvalue() == f"{line}\n"
