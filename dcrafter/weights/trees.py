"""Configuration files of the published code, YAML or JSON, read with bounds on size, nesting and repetition."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dcrafter.errors import WeightsError

MAX_SIZE = 256_000  # bytes; the published files have 3,000
MAX_DEPTH = 64
MAX_ALIASES = 100
MAX_MERGED = 10_000  # entries of a table, with those that merge keys bring


class _Loader(yaml.SafeLoader):
    """Aliases and merge keys multiply a few hundred bytes into gigabytes; nesting exhausts Python's stack."""

    depth = aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.aliases += self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > MAX_DEPTH or self.aliases > MAX_ALIASES:
            raise ValueError("it is nested too deeply, or repeats too much")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED:
            raise ValueError("its merge keys make it too large")


def read_tree(path: Path) -> Mapping[str, Any]:
    """A model configuration as nested tables. Raises WeightsError where it is none, or is beyond the bounds."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
        if len(content) > MAX_SIZE:
            raise ValueError(f"it has more than {MAX_SIZE // 1000} kB")
        text = content.decode()
        # Not all JSON is YAML to PyYAML: tabs are not.
        tree = json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, _Loader)
    except (OSError, ValueError, TypeError, RecursionError, OverflowError, yaml.YAMLError) as error:
        said = str(error).strip().split("\n")[0][:200]
        raise WeightsError(f"cannot read the model configuration {path} ({said})") from error
    if not isinstance(tree, Mapping):
        raise WeightsError(f"the model configuration {path} is no YAML or JSON tree")
    return tree
