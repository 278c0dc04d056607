from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli.running import CAT, QUICK, Run
from typer.main import get_command

import dcrafter as package
from dcrafter.cli import run
from dcrafter.cli.app import app
from dcrafter.errors import NumericalError, OutputError, WeightsError


@pytest.mark.parametrize("arguments", [["--help"], ["animate", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from dcrafter.cli.app import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'numpy', 'open_clip', 'PIL', 'av'} & set(sys.modules)\n"
        "print('light')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("light\n"), done.stderr


@pytest.mark.parametrize("command", ["animate", "interpolate", "loop", "batch", "download"])
def test_help_has_all_options_in_80_columns(dcrafter: Run, command: str) -> None:
    outcome = dcrafter(command, "--help")
    text = outcome.stdout.decode()
    assert outcome.status == 0
    assert max(len(line) for line in text.splitlines()) <= 80
    options = [option for option in get_command(app).commands[command].params if not getattr(option, "hidden", True)]
    names = [name for option in options for name in option.opts if name.startswith("--")]
    assert len(names) > 12
    assert [name for name in names if not re.search(rf"{name}\b", text)] == []
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("dcrafter ")]
    assert any(line.startswith(f"dcrafter {command} ") for line in examples)


def test_all_help_has_one_look_and_the_exit_statuses(dcrafter: Run) -> None:
    for command in ([], ["animate"], ["batch"], ["download"]):
        text = dcrafter(*command, "--help").stdout.decode()
        assert "╭─ Options ─" in text
        assert "<bool>" not in text.replace("--no-resume    <bool>", "")
        assert "4 weights missing or unreachable · 5 out of memory" in text


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere PyTorch comes with other OpenMPs")
@pytest.mark.parametrize(
    ("given", "spins"), [({}, 1000), ({"GOMP_SPINCOUNT": "77"}, 77), ({"OMP_WAIT_POLICY": "passive"}, 0)]
)
def test_threads_that_wait_sleep_soon(given: dict[str, str], spins: int) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | given
    told = subprocess.run(
        [sys.executable, "-m", "dcrafter", "--diagnose"], env=environment, capture_output=True, text=True
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in told.stderr


@pytest.mark.slow
def test_help_in_a_locale_of_few_letters() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "dcrafter", "animate", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"--motion" in done.stdout


def test_version(dcrafter: Run) -> None:
    assert dcrafter("--version").lines == [package.__version__]


def test_no_command_is_help_and_an_error(dcrafter: Run) -> None:
    outcome = dcrafter()
    assert (outcome.status, outcome.stdout) == (2, b"")
    assert "animate" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["anim"], "No such command 'anim'. Did you mean 'animate'? See dcrafter --help"),
        (["animate"], "no input image given. Try dcrafter animate --help"),
        (["animate", CAT, "--stepz", "3"], "No such option: --stepz"),
        (["animate", CAT, "--steps", "many"], "--steps must be a whole number, not many"),
        (["animate", CAT, "-g", "x"], "--guidance must be a number, not x"),
        (["animate", CAT, "-g", "-3"], "--guidance must be 0 to 1000, not -3"),
        (["animate", CAT, "--frames", "1001", "-m", "tiny"], "--frames must be 1 to 1000, not 1001"),
        (
            ["animate", CAT, "cat yawning"],
            "cannot read cat yawning: No such file or directory. A prompt stands behind -p",
        ),
        (["animate", CAT, "-n", "0"], "--count must be at least 1, not 0"),
        (["animate", CAT, "-m", "vast"], "there is no model vast. Choose among 256, 512"),
        (["animate", CAT, "-f", "avi"], "'avi' is not one of 'mp4'"),
        (["animate", CAT, "--fit", "bend"], "'bend' is not one of 'crop', 'crop:top'"),
        (["animate", CAT, "--dtype", "int8"], "'int8' is not one of 'auto', 'float32'"),
    ],
)
def test_wrong_usage_is_one_line(dcrafter: Run, arguments: list[str], said: str) -> None:
    outcome = dcrafter(*arguments)
    assert (outcome.status, outcome.stdout) == (2, b"")
    assert outcome.stderr.startswith("dcrafter: ")
    assert outcome.stderr.count("\n") == 1
    assert said in outcome.stderr


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (WeightsError("no weights", "Fetch them"), 4, "no weights. Fetch them"),
        (OutputError("the disk\nis full"), 2, "the disk is full"),
        (NumericalError("NaN"), 1, "NaN"),
        (MemoryError(), 5, "--width and --height"),
        (torch.OutOfMemoryError("CUDA: 3 GiB"), 5, "--dtype float16"),
        (RuntimeError("MPS backend out of memory (3 GiB)"), 5, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 5, "not enough memory"),
        (ZeroDivisionError("by zero"), 1, "unexpected ZeroDivisionError: by zero. Run again with -v"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exceptions_become_a_line_and_a_status(
    dcrafter: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(run, "Output", fail)
    outcome = dcrafter("animate", CAT)
    assert (outcome.status, outcome.stdout) == (status, b"")
    assert outcome.stderr.startswith("dcrafter: ")
    assert outcome.stderr.count("\n") == 1
    assert said in outcome.stderr
    if isinstance(error, Exception):
        loud = dcrafter("animate", CAT, "-v")
        assert loud.status == status
        assert loud.stderr.startswith("Traceback")
        assert loud.stderr.endswith(outcome.stderr)


@pytest.mark.parametrize("command", ["animate", "batch"])
def test_an_empty_prompt_is_not_taken_silently(dcrafter: Run, command: str) -> None:
    said = "the prompt is empty; what happens is left to the model"
    for given, stdin in ((["-p", ""], b""), (["-p", "-"], b" \n")):
        assert said in dcrafter(command, CAT, *given, "-m", "tiny", "--dry-run", stdin=stdin).stderr
    assert said not in dcrafter(command, CAT, "-m", "tiny", "--dry-run").stderr


@pytest.mark.parametrize(
    ("command", "real"), [("animate", "512"), ("interpolate", "512-interp"), ("loop", "512-interp")]
)
def test_the_built_in_model_is_told_once_with_what_it_knows(
    dcrafter: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, real: str
) -> None:
    monkeypatch.setenv("DCRAFTER_CACHE_DIR", str(tmp_path))
    shown = dcrafter(command, CAT, CAT, "--dry-run").stderr
    assert shown.count("using the built-in `tiny` model, which knows zoom, pan") == 1
    assert f"fetch a real one: dcrafter download {real}\n" in shown
    assert "built-in" not in dcrafter(command, CAT, CAT, "-m", "tiny", "--dry-run").stderr


def test_environment_variables_are_defaults(dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCRAFTER_STEPS", "7")
    monkeypatch.setenv("DCRAFTER_IMAGE_GUIDANCE", "2.5")
    monkeypatch.setenv("DCRAFTER_DRY_RUN", "1")
    monkeypatch.setenv("DCRAFTER_JSON", "1")
    settings = json.loads(dcrafter("animate", CAT, *QUICK).lines[0])["settings"]
    assert (settings["steps"], settings["image_guidance"]) == (1, 2.5)
    monkeypatch.setenv("DCRAFTER_COUNT", "many")
    assert dcrafter("animate", CAT, *QUICK).status == 2
