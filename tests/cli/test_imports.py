"""What a command line imports decides how long it takes to start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.running import CAT, QUICK


@pytest.mark.slow
def test_a_whole_animate_imports_no_package_that_it_does_not_need(tmp_path: Path) -> None:
    """open_clip, transformers and torchvision would take three seconds, torch._dynamo and scipy one."""
    code = (
        "import sys\n"
        "from dcrafter.cli.app import main\n"
        "packages = ('torchvision', 'open_clip', 'transformers', 'scipy', 'torch._dynamo')\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print([name for name in packages if name in sys.modules], file=sys.stderr, flush=True)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DCRAFTER_")}
    arguments = ["animate", CAT, *QUICK, "-p", "a cat’s yawn", "-o", "cat.mp4"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cat.mp4").is_file()
    assert done.stderr.splitlines()[-1] == "[]"
