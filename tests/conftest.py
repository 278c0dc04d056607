from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of recorded numbers; its README says what they are."""
    return DATA / "golden"


@pytest.fixture(scope="session")
def cat() -> Path:
    """A photograph, 451×300."""
    return DATA / "cat.png"
