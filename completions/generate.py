"""Writes the completion scripts beside this file anew: python completions/generate.py"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# A file in zsh's `fpath` is read at the first Tab, as the function that completes, and has to complete then too.
LOADED_BY_ZSH = """
[[ $zsh_eval_context[-1] == loadautofunc ]] && _dcrafter_completion "$@"
"""
FILES = {"bash": "dcrafter.bash", "zsh": "_dcrafter", "fish": "dcrafter.fish", "powershell": "dcrafter.ps1"}


def script(shell: str) -> str:
    """What typer makes of the command line for a shell; it asks `dcrafter` itself at each Tab."""
    environment = {**os.environ, "_DCRAFTER_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-m", "dcrafter"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip() + "\n" + (LOADED_BY_ZSH.lstrip() if shell == "zsh" else "")


if __name__ == "__main__":
    for shell, name in FILES.items():
        (HERE / name).write_text(script(shell))
