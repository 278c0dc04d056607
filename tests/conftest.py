from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import dcrafter  # noqa: F401  (before huggingface_hub, for which it sets the environment)

# Two test processes on two cores: torch's threads of both would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where tests run in the background Ctrl-C is ignored, under nohup a closing terminal, by what they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of recorded numbers; its README says what they are."""
    return DATA / "golden"


@pytest.fixture(scope="session")
def toon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden folder of ToonCrafter with its checkpoint."""
    from golden import write_toon

    return write_toon(tmp_path_factory.mktemp("toon"))


@pytest.fixture(scope="session")
def cat() -> Path:
    """A photograph, 451×300."""
    return DATA / "cat.png"
