from __future__ import annotations

from pathlib import Path

import pytest

from dcrafter.errors import WeightsError
from dcrafter.weights.trees import MAX_ALIASES, read_tree


def tree(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text)
    return folder / "config.yaml"


def test_anchors_and_merge_keys_in_measure(tmp_path: Path) -> None:
    read = read_tree(tree(tmp_path, "base: &base {a: 1, b: [2, 3]}\nmore: {<<: *base, a: 4}\nsame: *base\n"))
    assert read == {"base": {"a": 1, "b": [2, 3]}, "more": {"a": 4, "b": [2, 3]}, "same": {"a": 1, "b": [2, 3]}}


def test_merge_keys_do_not_multiply(tmp_path: Path) -> None:
    """Each table merges the one before nine times. PyYAML since 6.0.4 keeps one of each key; before, 9⁹ came of it."""
    rows = ["a0: &a0 {k0: 1, k1: 1}"]
    rows += [f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    try:
        read = read_tree(tree(tmp_path, "\n".join(rows)))
    except WeightsError as error:
        assert "merge keys" in error.message  # noqa: PT017
    else:
        assert all(table == {"k0": 1, "k1": 1} for table in read.values())


def test_tables_that_merge_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcrafter.weights.trees.MAX_MERGED", 3)
    with pytest.raises(WeightsError, match="merge keys make it too large"):
        read_tree(tree(tmp_path, "a: &a {k: 1, l: 2}\nb: &b {m: 1, n: 2}\nc: {<<: [*a, *b]}"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 2000 + "]" * 2000, "nested too deeply"),
        ("{" + '"a": {' * 5000 + "}" * 5001, "cannot read"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "cannot read"),
        ("a: &a [1]\nb: [" + ", ".join(["*a"] * (MAX_ALIASES + 1)) + "]", "repeats too much"),
        ("a: " + "x" * 300_000, "more than 256 kB"),
        ("a: \x00", "cannot read"),
        ("? [a]\n: 1", "cannot read"),
        ("a: 2001-99-99", "cannot read"),
        ("!!python/object/apply:os.system ['true']", "cannot read"),
        ("a: " + "9" * 5000, "cannot read"),
        ("[1, 2]", "no YAML or JSON tree"),
    ],
    ids=lambda value: value[:12],
)
def test_what_would_take_much_memory_or_is_no_tree(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        read_tree(tree(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(WeightsError, match="cannot read"):
        read_tree(tmp_path / "config.yaml")
