"""Properties of the loaders over damaged and invented files: a clean error, or the file as it is.

`tests/benchmarks/fuzz_loaders.py` runs tens of thousands of them.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from dcrafter.config import MODELS, ModelConfig
from dcrafter.errors import DCrafterError, WeightsError
from dcrafter.generators import drain
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.weights import cache, pickles
from dcrafter.weights.checkpoint import open_checkpoint
from dcrafter.weights.keys import to_ours, to_published
from dcrafter.weights.trees import read_tree

small = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TINY: Mapping[str, Any] = json.loads(json.dumps(MODELS["tiny"].to_dict()))
PATHS = [(part, name) for part, table in TINY.items() if isinstance(table, dict) for name in table]


@pytest.fixture(scope="module")
def contents(golden: Path) -> list[bytes]:
    tensors = {f"model.diffusion_model.{i}": torch.ones(i + 1) for i in range(4)}
    files = [save(tensors, metadata={"dcrafter": json.dumps(TINY)})]
    for is_zip in (True, False):
        torch.save({"state_dict": tensors}, file := io.BytesIO(), _use_new_zipfile_serialization=is_zip)
        files.append(file.getvalue())
    return files


@small
@given(seed=seeds, which=st.integers(0, 2))
def test_a_damaged_checkpoint_opens_or_is_refused(contents: list[bytes], tmp_path: Path, seed: int, which: int) -> None:
    path = tmp_path / "model"
    path.write_bytes(mutate(contents[which], seed))
    try:
        open_checkpoint(path)
    except WeightsError as error:
        assert str(error).isprintable()  # noqa: PT017


@small
@given(content=st.binary(max_size=64), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02]q\x00"]))
def test_invented_bytes_are_refused(tmp_path: Path, content: bytes, start: bytes) -> None:
    (tmp_path / "model").write_bytes(start + content)
    with pytest.raises(WeightsError):
        open_checkpoint(tmp_path / "model")


@small
@given(path=st.sampled_from(PATHS), value=plain)
def test_any_value_in_a_configuration_makes_a_model_or_a_clean_error(path: tuple[str, str], value: Any) -> None:
    part, name = path
    values = {**TINY, part: {**TINY[part], name: value}}
    try:
        config = ModelConfig.from_dict(values)
    except (TypeError, ValueError):
        return
    DynamiCrafter.on_meta(config)


@small
@given(header=plain | st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), plain, max_size=3))
def test_any_header_is_read_or_refused(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "512.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert isinstance(cache.source_of(path), dict)
    assert isinstance(cache.is_whole(path), bool)
    assert not drain(cache.is_intact(path))
    with pytest.raises(DCrafterError):
        open_checkpoint(path)


@small
@given(text=st.text(max_size=60) | plain.map(json.dumps))
def test_any_text_is_a_tree_or_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8", errors="replace")
    with suppress(WeightsError):
        assert isinstance(read_tree(tmp_path / "config.yaml"), Mapping)


@small
@given(value=plain)
def test_a_reader_of_opcodes_takes_what_pickle_writes(tmp_path: Path, value: Any) -> None:
    """It follows every opcode that plain values have: nothing is left unread, and no name is found."""
    torch.save(value, tmp_path / "model.ckpt")
    assert pickles._names_in_zip(tmp_path / "model.ckpt") == []


def test_keys_survive_the_way_to_ours_and_back(golden: Path) -> None:
    keys = list(load_file(golden / "dc512" / "model.safetensors"))
    ours = {ours: key for key in keys if (ours := to_ours(key)) is not None}
    assert to_published(ours, "512") == ours
