from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dcrafter.batch.journal import Journal, Record, journal_path, read_journals


def record(output: str, finished: float = 1.0, **more: str) -> Record:
    return Record(item="a.png", index=1, status="done", output=output, source="/in/a.png", finished=finished, **more)  # type: ignore[arg-type]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    journal = Journal(journal_path(tmp_path))
    names = ["a.mp4", "new\nline.mp4", "ünï.mp4", "\udcff.mp4"]
    for name in names:
        journal.append(record(name))
    assert read_journals(tmp_path) == {name: record(name) for name in names}
    assert len(journal.path.read_bytes().splitlines()) == 4


def test_a_torn_line_costs_itself_only(tmp_path: Path) -> None:
    journal = Journal(journal_path(tmp_path))
    journal.append(record("a.mp4"))
    journal.append(record("b.mp4"))
    content = journal.path.read_bytes()
    for end in range(content.index(b"\n") + 1, len(content), 20):
        journal.path.write_bytes(content[:end])
        journal.append(record("c.mp4"))
        assert sorted(read_journals(tmp_path)) == ["a.mp4", "c.mp4"]


def test_the_latest_counts_over_all_shards(tmp_path: Path) -> None:
    Journal(journal_path(tmp_path, (1, 2))).append(record("a.mp4", 5.0, error="late"))
    Journal(journal_path(tmp_path, (2, 2))).append(record("a.mp4", 4.0, error="early"))
    Journal(journal_path(tmp_path)).append(record("b.mp4", 1.0))
    assert {name: each.error for name, each in read_journals(tmp_path).items()} == {"a.mp4": "late", "b.mp4": ""}


def test_what_was_done_once_is_remembered(tmp_path: Path) -> None:
    journal = Journal(journal_path(tmp_path))
    for status, finished in (("failed", 1.0), ("done", 2.0), ("failed", 3.0)):
        journal.append(replace(record("a.mp4", finished), status=status))  # type: ignore[arg-type]
    assert read_journals(tmp_path)["a.mp4"].finished == 2.0


def test_order_counts_and_not_the_clock(tmp_path: Path) -> None:
    journal = Journal(journal_path(tmp_path))
    for finished in (5.0, 1.0):
        journal.append(record("a.mp4", finished))
    assert read_journals(tmp_path)["a.mp4"].finished == 1.0


@pytest.mark.parametrize(
    "line",
    [
        "[]", "3", "null", "{}", "[" * 100_000, '{"a":' * 100_000, "\xff",
        json.dumps(asdict(record("b.mp4")) | {"output": 3}),
        json.dumps(asdict(record("b.mp4")) | {"status": ["done"]}),
        json.dumps(asdict(record("b.mp4")) | {"inputs": [1]}),
        json.dumps(asdict(record("b.mp4")) | {"finished": "noon"}),
        json.dumps(asdict(record("b.mp4")) | {"settings": None}),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_costs_itself_only(tmp_path: Path, line: str) -> None:
    journal = Journal(journal_path(tmp_path))
    journal.append(record("a.mp4"))
    with journal.path.open("a", encoding="latin-1") as file:
        file.write(line + "\n")
    journal.append(record("c.mp4"))
    assert sorted(read_journals(tmp_path)) == ["a.mp4", "c.mp4"]


def test_a_later_versions_records_are_read(tmp_path: Path) -> None:
    journal_path(tmp_path).write_text(json.dumps(asdict(record("a.mp4")) | {"more": 1}))
    assert read_journals(tmp_path) == {"a.mp4": record("a.mp4")}


def test_a_users_notes_are_no_journal(tmp_path: Path) -> None:
    for name in ("batch-notes.jsonl", "batches.jsonl", "batch.1-of-x.jsonl"):
        Journal(tmp_path / name).append(record("a.mp4"))
    assert read_journals(tmp_path) == {}


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    journal = Journal(journal_path(tmp_path))
    threads = [threading.Thread(target=journal.append, args=(record(f"{i}.mp4"),)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_journals(tmp_path)) == 20
