from __future__ import annotations

import io
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli.advice import COMMANDS, wrong_advice
from cli.running import CHECKPOINT, Outcome, Run

from dcrafter.cli.app import main
from dcrafter.weights import pickles

load = pickles.load


@cache
def small_checkpoint() -> Any:
    return load(CHECKPOINT, is_zip=True)


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small checkpoint is unpickled once a process; tests/weights look at unpickling."""
    monkeypatch.setattr(
        pickles, "load", lambda path, is_zip: small_checkpoint() if path == CHECKPOINT else load(path, is_zip)
    )


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A UNet of full size takes one operation: counting those it has takes seconds."""
    monkeypatch.setattr("dcrafter.runtime.estimate.operations", lambda *_, **__: 1)


@pytest.fixture
def dcrafter(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in [name for name in os.environ if name.startswith("DCRAFTER_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str | Path, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsysbinary.readouterr()
        shown = captured.err.decode()
        if arguments and arguments[0] in COMMANDS:
            assert not wrong_advice(shown, (str(arguments[0]),)), shown
        return Outcome(int(stop.value.code or 0), captured.out, shown)

    return run
