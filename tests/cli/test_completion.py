from __future__ import annotations

import os
import pty
import runpy
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMPLETIONS = Path(__file__).parents[2] / "completions"
GENERATE = runpy.run_path(str(COMPLETIONS / "generate.py"))
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(("shell", "name"), GENERATE["FILES"].items())
def test_the_scripts_are_what_the_command_line_makes(shell: str, name: str) -> None:
    assert (COMPLETIONS / name).read_text() == GENERATE["script"](shell), "run python completions/generate.py"


def in_bash(*words: str) -> list[str]:
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"source {COMPLETIONS / 'dcrafter.bash'}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        '_dcrafter_completion dcrafter; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return _lines("bash", "--norc", "-c", program)


def in_fish(*words: str) -> list[str]:
    file = COMPLETIONS / "dcrafter.fish"
    lines = _lines("fish", "--no-config", "-c", f"source {file}; complete --do-complete '{' '.join(words)}'")
    return [line.split("\t")[0] for line in lines]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes_at_the_first_tab(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    zsh = subprocess.Popen(
        ["zsh", "-f", "-i"], env={**environment, "PS1": "", "TERM": "dumb"}, stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)

    def sent(line: str, until: str) -> str:
        """What the terminal shows behind a line, up to some text. Raises TimeoutError if that does not come."""
        os.write(master, line.encode())
        shown = ""
        while until not in shown:
            if not select.select([master], [], [], 60)[0]:
                raise TimeoutError(shown)
            shown += os.read(master, 65536).decode()
        return shown

    try:
        sent(f"fpath=({COMPLETIONS} $fpath); autoload -U compinit; compinit -u -D; print re''ady\n", "ready")
        sent("dcrafter ani\t", "animate")  # the first Tab of the shell
        sent(" --model 512-\t", "512-interp")
    finally:
        zsh.kill()
        zsh.wait()
        os.close(master)


def _lines(*command: str) -> list[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


SHELLS = [in_shell for name, in_shell in (("bash", in_bash), ("fish", in_fish)) if shutil.which(name)]


@pytest.mark.parametrize("in_shell", SHELLS, ids=lambda f: f.__name__)
def test_commands_options_and_models_are_completed(in_shell: object) -> None:
    assert callable(in_shell)
    assert in_shell("dcrafter", "an") == ["animate"]
    options = in_shell("dcrafter", "animate", "--")
    assert {"--prompt", "--context-scale", "--segments"} <= set(options)
    assert "--noise" not in options
    assert in_shell("dcrafter", "animate", "--model", "512") == ["512", "512-interp"]
    assert in_shell("dcrafter", "loop", "-f", "w") == ["webm", "webp"]
    assert in_shell("dcrafter", "animate", "--motion", "") == ["low", "medium", "high"]
    assert in_shell("dcrafter", "download", "51") == ["512", "512-interp"]
