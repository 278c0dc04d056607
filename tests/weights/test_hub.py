from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from dcrafter.errors import WeightsError
from dcrafter.weights import hub


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Our cache in a folder of the test's own, and in place of Hugging Face's a dict of repository to path."""
    monkeypatch.setenv("DCRAFTER_CACHE_DIR", str(tmp_path))
    theirs: dict[str, Path] = {}
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, file: str(theirs[repo]) if repo in theirs else None
    )
    return theirs


def test_our_cache_comes_before_hugging_faces(tmp_path: Path, caches: dict[str, Path]) -> None:
    assert hub.find("512") is None
    caches["Doubiiu/DynamiCrafter_512"] = tmp_path / "theirs"
    assert hub.find("512") == tmp_path / "theirs"
    (tmp_path / "512.safetensors").touch()
    assert hub.find("512") == hub.fetch("512") == tmp_path / "512.safetensors"


def test_auto_is_the_best_model_here_that_fits_the_command(tmp_path: Path) -> None:
    (tmp_path / "256.safetensors").touch()
    assert hub.choose("auto", "animate") == "256"
    (tmp_path / "512-interp.safetensors").touch()
    assert hub.choose("auto", "animate") == "256"
    assert hub.choose("auto", "loop") == "512-interp"
    (tmp_path / "1024.safetensors").touch()
    assert hub.choose("auto", "animate") == "1024"


def test_a_download_that_fails_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repository: str, file: str) -> str:
        raise ConnectionError("no route to host\nmore\nlines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(WeightsError, match=r"could not be downloaded \(no route to host\).*--checkpoint"):
        hub.fetch("256")
    with pytest.raises(WeightsError, match="not part of this version"):
        hub.fetch("tiny")
