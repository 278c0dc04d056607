from __future__ import annotations

import ast
import io
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import dcrafter
from dcrafter.cli.bars import Bars
from dcrafter.cli.console import Console, logger
from dcrafter.cli.progress import _Rows, follow
from dcrafter.errors import format_error
from dcrafter.events import Decoding, Done, Encoding, Event, Loading, Step, Video

STEPS = 20
VIDEO = Video(np.zeros((2, 4, 4, 3), np.uint8), 8.0, {}, torch.zeros(1))


def events() -> Iterator[Event]:
    yield Encoding("prompt")
    for component in ("text_encoder", "unet"):
        yield Loading(component, 1, 2)
        yield Loading(component, 2, 2)
    for i in range(STEPS):
        yield Step(i + 1, STEPS, torch.zeros(1))
    yield Loading("autoencoder", 2, 2)
    for i in range(16):
        yield Decoding(i + 1, 16)
    yield Done(VIDEO)


def test_few_lines_with_the_time_that_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def minutes() -> Iterator[Event]:
        nonlocal now
        for event in events():
            now += 60  # each event takes a minute
            yield event

    video, timings = follow(minutes(), Console(), STEPS)
    assert video is VIDEO
    assert list(timings) == ["encoding", "loading", "sampling", "decoding"]
    assert (sum(timings.values()), timings["loading"]) == (now, 120)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[:3] == ["loading", "sampling 1/20, 0:19:00 left", "sampling 2/20, 0:18:00 left"]
    assert lines[-5] == "decoding 1/16"
    assert lines[-1] == "decoding 16/16"
    assert len(lines) == 1 + 11 + 5


def test_rows_count_their_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rows = _Rows()

    def show(seconds: float, phase: str, done: int, total: int, what: str = "") -> str:
        nonlocal now
        now += seconds
        rows.show(phase, done, total, what)
        return str(rows.bars.progress.tasks[-1].fields["left"])

    assert show(10, "sampling", 0, 100, "loading unet") == ""
    assert show(20, "sampling", 50, 100, "loading unet") == "0:00:20 left"
    assert show(20, "sampling", 100, 100, "loading unet") == ""
    assert show(0, "sampling", 0, 4) == ""
    assert show(30, "sampling", 1, 4) == "0:01:30 left"
    assert show(90, "sampling", 4, 4) == "0:02:40"  # with the loading
    assert show(5, "decoding", 0, 16, "loading autoencoder") == ""
    assert show(5, "decoding", 16, 16) == "0:00:05"


def test_quiet_leaves_nothing_but_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.say("hello")
    logging.getLogger("dcrafter.pipeline").warning("a remark")
    assert follow(events(), console, STEPS)[0] is VIDEO
    assert capsys.readouterr() == ("", "")


def test_own_warnings_are_lines_and_others_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    Console()
    logging.getLogger("dcrafter.pipeline").warning("the prompt is %s", "long")
    logging.getLogger("somebody.else").warning("chatter")
    warnings.warn("chatter", stacklevel=1)
    assert capsys.readouterr() == ("", "dcrafter: the prompt is long\n")


def test_verbose_lets_library_warnings_through() -> None:
    Console(verbose=True)
    with pytest.raises(UserWarning, match="chatter"):  # an error, in tests
        warnings.warn("chatter", stacklevel=1)


def test_a_name_that_is_no_unicode_comes_out_as_it_is(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Console().result(b"caf\xe9.mp4".decode("utf-8", "surrogateescape"))
    assert capsysbinary.readouterr().out == b"caf\xe9.mp4\n"


@pytest.mark.parametrize("text", ["é猫.mp4", "caf\udce9.mp4"])
def test_a_name_comes_out_whatever_the_locale_has(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    Console().result(text)
    assert stdout.buffer.getvalue() == os.fsencode(text) + b"\n"  # type: ignore[attr-defined]


HOSTILE = "a\x1b[31mb\x9b2Jc\rd\ne\u202ef\u2028g"


def test_nothing_that_is_shown_controls_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All words of strangers come through these: error messages, lines, warnings, rows, and results on a terminal."""
    console, bars = Console(), Bars()
    console.say(HOSTILE)
    logger.warning("%s", HOSTILE)
    bars.print(HOSTILE)
    bars.show("row", HOSTILE, 1, 2, HOSTILE)
    bars.progress.console.print(bars.progress.make_tasks_table(bars.progress.tasks))
    print(format_error("dcrafter", HOSTILE, HOSTILE), file=sys.stderr)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.result(HOSTILE)
    shown = capsys.readouterr()
    lines = [*shown.out.splitlines(), *shown.err.splitlines()]
    assert sum("2J" in line for line in lines) >= 6
    assert all(line.isprintable() for line in lines)


def test_no_other_place_prints() -> None:
    """What prints by itself would have to clean its words, too: see the test above."""
    known = {"text.py", "__main__.py", "cli/app.py", "cli/diagnose.py"}
    package = Path(dcrafter.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for room in ("*.py", "batch/*.py", "cli/*.py", "media/*.py", "models/*.py", "runtime/*.py", "weights/*.py")
        for path in package.glob(room)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert found == known


def test_where_ctrl_c_is_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Console().interruptible() as interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
