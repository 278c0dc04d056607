from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from weights.hub_server import Hub, serving

from dcrafter.weights.checkpoint import Checkpoint, open_checkpoint


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, which huggingface_hub's client is pointed at; its cache is an empty folder."""
    for name in [
        name for name in os.environ if name.startswith(("HF_", "DCRAFTER_")) or name.lower().endswith("_proxy")
    ]:
        monkeypatch.delenv(name)
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface" / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "huggingface" / "token"))
        monkeypatch.setenv("DCRAFTER_CACHE_DIR", str(tmp_path / "cache"))
        yield hub


@pytest.fixture(scope="module")
def published(golden: Path) -> dict[str, torch.Tensor]:
    """The 512 family's tensors under the published names."""
    return load_file(golden / "dc512" / "model.safetensors")


@pytest.fixture(scope="module")
def tree(golden: Path) -> Path:
    return golden / "dc512" / "config.json"


@pytest.fixture(scope="module")
def reference(golden: Path, tree: Path) -> Checkpoint:
    return open_checkpoint(golden / "dc512" / "model.safetensors", model_config=tree)
