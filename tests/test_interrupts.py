from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.running import CAT, MODEL, start

from dcrafter import interrupts

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


def assert_interrupted(code: str) -> None:
    """Python that runs this is ended as by Ctrl-C, in one line."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "dcrafter: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "output"), [("SIGTERM", "new/"), ("SIGHUP", "-")])  # Ctrl-C: cli/test_animate.py
def test_a_generation_that_is_ended_leaves_nothing(tmp_path: Path, name: str, output: str) -> None:
    arguments = ("animate", CAT, *MODEL, "--steps", "1000", "-o", output)
    with start(*arguments, folder=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert any(line.startswith(b"sampling 1/1000") for line in iter(process.stderr.readline, b""))
        process.send_signal(getattr(signal, name))
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (130, b"")
    assert stderr.endswith(b"dcrafter: interrupted\n")
    assert b"Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDING)
def test_it_is_heard_while_the_command_line_starts(name: str) -> None:
    code = (
        "import signal, sys, types\n"
        "import dcrafter.__main__ as entry\n"
        f"run = lambda **_: signal.raise_signal(signal.{name})\n"
        "sys.modules['dcrafter.cli.app'] = types.SimpleNamespace(main=run)\n"
        "entry.main()\n"
    )
    assert_interrupted(code)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDING)
def test_it_is_heard_from_the_moment_it_is_handled(name: str) -> None:
    code = (
        "import signal\n"
        "import dcrafter.__main__ as entry\n"
        "install = entry.interrupts.install\n"
        f"entry.interrupts.install = lambda: (install(), signal.raise_signal(signal.{name}))\n"
        "entry.main()\n"
    )
    assert_interrupted(code)


@pytest.mark.slow
def test_a_closed_terminal_is_no_second_error(tmp_path: Path) -> None:
    """What is shown would raise EIO when the terminal is gone."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "dcrafter", "animate", CAT, *MODEL, "--steps", "1000"])
    seen = b""
    while b"sampling" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ENDING)
def test_what_is_ignored_stays_so(name: str) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interrupts.handled(lambda number, frame: pytest.fail("heard")):
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ENDING)
def test_a_handler_is_there_for_its_block_only(name: str) -> None:
    number, heard = getattr(signal, name), []
    before = signal.getsignal(number)
    with interrupts.handled(lambda number, frame: heard.append(number)):
        signal.raise_signal(number)
    assert heard == [number]
    assert signal.getsignal(number) is before
