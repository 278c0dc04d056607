"""Whatever a journal, a manifest or a name template holds, it costs itself only."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dcrafter.batch.entries import Entry
from dcrafter.batch.items import Defaults, make_items
from dcrafter.batch.journal import Journal, Record, journal_path, read_journals
from dcrafter.batch.manifest import COLUMNS, is_manifest, parse_manifest
from dcrafter.config import MODELS
from dcrafter.errors import UsageError
from dcrafter.settings import resolve

CASES = settings(
    derandomize=True, deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
GOOD = Record(item="a.png", index=1, status="done", output="a.mp4", source="/in/a.png")

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from([*asdict(GOOD)])
columns = st.sampled_from([*COLUMNS, "image3", "Image", "negative_prompt", "images", "stepz", ""])
rows = st.dictionaries(columns, plain, max_size=6)


@pytest.mark.slow
@CASES
@given(st.lists(st.binary(max_size=200) | st.dictionaries(fields, plain, max_size=4), max_size=5))
def test_no_line_of_a_journal_costs_another(tmp_path: Path, lines: list[bytes | dict[str, Any]]) -> None:
    journal = Journal(journal_path(tmp_path))
    encoded = [each if isinstance(each, bytes) else json.dumps(asdict(GOOD) | each).encode() for each in lines]
    journal.path.write_bytes(b"\n".join(encoded))
    journal.append(Record(**asdict(GOOD) | {"output": "last.mp4", "seed": 7}))
    records = read_journals(tmp_path)
    assert records["last.mp4"].seed == 7
    assert all(isinstance(record.output, str) and record.status in ("done", "failed") for record in records.values())


@CASES
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_damaged_byte_of_a_journal_costs_another_line(tmp_path: Path, place: int, byte: int) -> None:
    path = journal_path(tmp_path)
    path.unlink(missing_ok=True)
    journal = Journal(path)
    names = [f"{i}.mp4" for i in range(5)]
    for name in names:
        journal.append(Record(**asdict(GOOD) | {"output": name}))
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content)
    assert len(set(names) & set(read_journals(tmp_path))) >= 3  # a line end that is lost joins two


@pytest.mark.slow
@CASES
@given(st.lists(rows, min_size=1, max_size=4))
@example([{"image": "a.png", "motion": ["x"]}])
@example([{"image": "a.png", "steps": 10**400}])
def test_a_rows_values_cost_that_row_only(rows: list[dict[str, Any]]) -> None:
    good = {"image": "good.png", "prompt": "cat"}
    text = "\n".join(json.dumps(row) for row in [good, *rows, good])
    entries = parse_manifest(text, "m.jsonl", Path("in"))
    assert len(entries) == len(rows) + 2
    assert (entries[0].problem, entries[-1].problem) == ("", "")
    _make(entries)


@CASES
@given(st.text(max_size=200) | st.lists(st.lists(st.text(max_size=8), max_size=4).map(",".join)).map("\n".join))
@example("image\n" + "\0" + "\n\ud800")
def test_any_text_is_a_manifest_or_refused(text: str) -> None:
    is_manifest(text)
    for complete in (text, f"image,prompt\n{text}", f'{{"image": "a"}}\n{text}', f"[{text}]"):
        with suppress(UsageError):
            _make(parse_manifest(complete, "m.csv", Path()))


def _make(entries: list[Entry]) -> None:
    """Items of entries; what their models refuse, they refuse in so many words."""
    for item in make_items(entries, Defaults(name="{stem}_{index}")):
        assert item.problem.isprintable()
        if not item.problem:
            _check_output(item.output)
            with suppress(UsageError):
                resolve(MODELS["tiny"], item.command, item.prompt, item.seed, item.options)


pieces = st.sampled_from(
    ["{stem}", "{seed}", "{index:03}", "{parent}", "{prompt}", "{{", "}}", "/", "..", ".", "\\", ":", "C:", "con",
     "nul.", ".batch", ".part", "\n", "{", "}", "{stem!r}", "{seed:>9}", "~", " "]
)  # fmt: skip


@CASES
@given(st.lists(pieces | st.text(max_size=4), max_size=6).map("".join), st.text(min_size=1, max_size=8))
def test_no_name_leads_out_of_the_output_folder(template: str, stem: str) -> None:
    stem = stem.replace("\0", "").replace("/", "") or "x"
    try:
        items = make_items([Entry(f"{stem}.png", (f"in/{stem}.png",))], Defaults(name=template))
    except UsageError:
        return
    if not items[0].problem:
        _check_output(items[0].output)


def _check_output(output: str) -> None:
    path = PurePosixPath(output)
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert "\\" not in output
    assert not any(
        "\n" in part or (part.casefold().startswith(".batch") and part.endswith(".part")) for part in path.parts
    )
    assert path.parts[0][1:2] != ":" or not path.parts[0][0].isascii() or not path.parts[0][0].isalpha()
    assert not {part.split(".")[0].strip().casefold() for part in path.parts} & {"con", "nul", "aux", "prn"}
    os.fsencode(output)
