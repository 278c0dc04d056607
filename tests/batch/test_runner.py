from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dcrafter.batch.entries import Entry
from dcrafter.batch.inputs import Search
from dcrafter.batch.items import Defaults, Item, make_items
from dcrafter.batch.journal import Record, read_journals
from dcrafter.batch.runner import Batch, Engine, Weights
from dcrafter.batch.store import Store, hash_output
from dcrafter.batch.worker import Models, Result, Task, Worker
from dcrafter.captioner import Captioner
from dcrafter.errors import InputError, NumericalError, OutputError, UsageError
from dcrafter.media.video import read_settings, read_video
from dcrafter.pipeline import Pipeline
from dcrafter.settings import ModelOptions, Options, WriteOptions
from dcrafter.weights.checkpoint import Checkpoint

QUICK: Options = {"steps": 1, "guidance": 1.0}
Make = Callable[..., Batch]


@pytest.fixture
def make(checkpoint: Path, tmp_path: Path) -> Make:
    """A batch of entries into tmp_path/out."""

    def make(entries: list[Entry], options: Options | None = None, retries: int = 0, **more: Any) -> Batch:
        store = Store(tmp_path / "out", WriteOptions("apng"), overwrite=more.pop("overwrite", False))
        items = make_items(
            entries, Defaults(prompt="cat", options=QUICK | (options or {}), name="{stem}", format="apng")
        )
        return Batch(
            items,
            store,
            Weights(Models(ModelOptions(checkpoint=checkpoint, device="cpu", dtype="float32"), retries=retries)),
            **more,
        )

    return make


def run(batch: Batch, engine: Engine | None = None) -> dict[str, str]:
    """What became of each item, by its path."""
    batch.check()
    engine = engine or Worker(batch.weights.models).run
    return {each.item: each.status for each in batch.run(engine) if isinstance(each, Record)}


def entries_of(folder: Path, count: int = 8) -> list[Entry]:
    return Search().find([str(folder)]).entries[:count]


@pytest.mark.slow
def test_an_item_is_what_it_would_be_alone(make: Make, pictures: Path, checkpoint: Path) -> None:
    """In every mode, in a block with others; also a prompt of its own, more keyframes, and a longer video."""
    paths = sorted(map(str, pictures.iterdir()))
    entries = [
        Entry("a.png", (paths[0],)),
        Entry("b.png", (paths[2],), prompt="a dog", options={"segments": 2}),
        Entry("c.png", tuple(paths[3:6]), command="interpolate", options={"trim_keyframes": True}),
        Entry("d.png", (paths[6],), command="loop", options={"repeat": 2, "color_match": True}),
    ]
    batch = make(entries)
    assert set(run(batch).values()) == {"done"}
    pipe = Pipeline.from_pretrained(checkpoint=checkpoint, device="cpu", dtype="float32")
    for item in batch.items:
        given: Any = list(item.images) if item.command == "interpolate" else item.images[0]
        alone = getattr(pipe, item.command)(given, item.prompt, seed=item.seed, **item.options)
        record = read_journals(batch.store.folder)[item.output]
        assert record.latents_hash == hashlib.sha256(alone.latents.numpy().tobytes()).hexdigest()
        assert (read_video(batch.store.path(item))[0] == alone.frames).all()
        assert read_settings(batch.store.path(item)) == alone.settings


def test_components_are_loaded_once_a_block(make: Make, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: Counter[str] = Counter()
    load = Checkpoint.load

    def counting(self: Checkpoint, model: Any, component: str, **options: Any) -> Iterator[tuple[int, int]]:
        loads[component] += 1
        return load(self, model, component, **options)

    monkeypatch.setattr(Checkpoint, "load", counting)
    batch = make(entries_of(pictures))
    run(batch)
    once = {"text_encoder": 1, "image_encoder": 1, "projector": 1, "autoencoder": 2, "unet": 1}
    assert loads == once
    alternating = [replace(item, model=("tiny", "auto")[item.position % 2]) for item in batch.items]
    loads.clear()
    run(replace(make(entries_of(pictures)), items=alternating, resume=False))
    assert loads == {component: 2 * count for component, count in once.items()}  # once for each model


@pytest.mark.slow
def test_what_is_done_is_skipped_and_what_changed_is_made_anew(make: Make, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(pictures, folder)
    entries = entries_of(folder, 5)
    first = run(make(entries))
    assert first == dict.fromkeys(["0.png", "1.png", "2.png", "3.png", "4.png"], "done")
    assert set(run(make(entries)).values()) == {"skipped"}
    shutil.copy(pictures / "7.png", folder / "0.png")
    (tmp_path / "out" / "1.apng").unlink()
    entries[3] = replace(entries[3], prompt="another")
    again = run(make(entries))
    assert again == {"0.png": "done", "1.png": "done", "2.png": "skipped", "3.png": "done", "4.png": "skipped"}
    assert set(run(make(entries, {"steps": 2})).values()) == {"done"}
    assert set(run(make(entries, {"steps": 2}, resume=False)).values()) == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"options": {"steps": 2}}, {"resume": False}])
def test_a_video_that_was_edited_is_kept_and_named(make: Make, pictures: Path, tmp_path: Path, more: Any) -> None:
    run(make(entries_of(pictures, 2)))
    edited = tmp_path / "out" / "1.apng"
    shutil.copy(tmp_path / "out" / "0.apng", edited)
    content = edited.read_bytes()
    batch = make(entries_of(pictures, 2), **more)
    records = [each for each in batch.run(Worker(batch.weights.models).run) if isinstance(each, Record)]
    kept = next(each for each in records if each.item == "1.png")
    assert (kept.status, "--overwrite replaces it" in kept.error) == ("skipped", True)
    assert edited.read_bytes() == content
    assert run(make(entries_of(pictures, 2), overwrite=True, **more))["1.png"] == "done"


def test_a_video_that_is_edited_while_its_batch_runs_is_kept(make: Make, pictures: Path, tmp_path: Path) -> None:
    run(make(entries_of(pictures, 1)))
    batch, edited = make(entries_of(pictures, 1), {"steps": 2}), tmp_path / "out" / "0.apng"

    def engine(tasks: Iterator[Record | Task]) -> Generator[Any, None, None]:
        for event in Worker(batch.weights.models).run(tasks):
            edited.write_text("mine")
            yield event

    assert run(batch, engine) == {"0.png": "failed"}
    assert edited.read_text() == "mine"


def test_a_lost_journal_is_made_anew_from_the_videos(make: Make, pictures: Path, tmp_path: Path) -> None:
    folder, journal = tmp_path / "in", tmp_path / "out" / "batch.jsonl"
    shutil.copytree(pictures, folder)
    entries = entries_of(folder, 4)
    run(make(entries))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[2])
    assert set(run(make(entries)).values()) == {"skipped"}
    journal.unlink()
    assert set(run(make(entries)).values()) == {"skipped"}
    assert len(read_journals(tmp_path / "out")) == 4
    journal.unlink()
    entries[1] = replace(entries[1], prompt="another")
    later = os.stat(tmp_path / "out" / "2.apng").st_mtime + 10
    os.utime(folder / "2.png", (later, later))
    before = hash_output(tmp_path / "out" / "1.apng")
    assert run(make(entries)) == {"0.png": "skipped", "1.png": "skipped", "2.png": "skipped", "3.png": "skipped"}
    assert hash_output(tmp_path / "out" / "1.apng") == before
    assert sorted(read_journals(tmp_path / "out")) == ["0.apng", "3.apng"]  # of the others nobody knows


def test_a_clock_that_was_put_back_makes_nothing_anew(
    make: Make, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = entries_of(pictures, 1)
    run(make(entries, {"steps": 2}))
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert run(make(entries)) == {"0.png": "done"}
    assert run(make(entries)) == {"0.png": "skipped"}


def test_a_journal_that_is_deleted_while_its_batch_runs_is_written_anew(
    make: Make, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries, journal = entries_of(pictures, 3), tmp_path / "out" / "batch.jsonl"
    run(make(entries[:1]))
    batch = make(entries)
    for event in batch.run(Worker(batch.weights.models).run):
        if isinstance(event, Record) and event.item == "1.png":
            journal.unlink()
    assert "batch.jsonl was deleted while the batch ran" in caplog.text
    assert sorted(read_journals(tmp_path / "out")) == ["0.apng", "1.apng", "2.apng"]


def test_others_files_are_not_replaced(make: Make, pictures: Path, tmp_path: Path) -> None:
    entries = entries_of(pictures, 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.apng").write_text("mine")
    with pytest.raises(OutputError, match=r"1\.apng already exists"):
        run(make(entries))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.apng"]
    assert set(run(make(entries, overwrite=True)).values()) == {"done"}
    moved = [replace(entry, images=(str(pictures / "5.png"),)) for entry in entries]  # the same names from elsewhere
    with pytest.raises(OutputError, match="already exists"):
        run(make(moved))


def test_a_bad_item_costs_itself_only(make: Make, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes((pictures / "0.png").read_bytes()[:200])
    entries = [
        Entry("bad.png", (str(tmp_path / "bad.png"),)),
        Entry("none.png", ("absent.png",)),
        *entries_of(pictures, 2),
    ]
    entries.append(Entry("said.png", (str(pictures / "4.png"),), problem="known before"))
    batch = make(entries, retries=3)
    assert run(batch) == {
        "bad.png": "failed", "none.png": "failed", "said.png": "failed", "0.png": "done", "1.png": "done",
    }  # fmt: skip
    records = read_journals(batch.store.folder)
    assert "decoded" in records["bad.apng"].error
    assert records["none.apng"].error == "cannot read the file: No such file or directory"
    assert records["said.apng"].error == "known before"
    assert set(run(make(entries)).values()) == {"failed", "skipped"}


def test_one_that_fails_in_its_block_does_not_take_the_others(
    make: Make, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, prepare = Pipeline.generate, Pipeline.prepare
    tries: Counter[int] = Counter()
    entries = entries_of(pictures, 4)
    batch = make(entries, retries=1)
    always, once = batch.items[0].seed, batch.items[2].seed

    def failing(self: Pipeline, images: Any, settings: Any, **more: Any) -> Generator[Any, None, None]:
        tries[settings.seed] += 1
        if settings.seed == always or (settings.seed == once and tries[once] == 1):
            raise NumericalError("NaN")
        yield from generate(self, images, settings, **more)

    monkeypatch.setattr(Pipeline, "generate", failing)
    monkeypatch.setattr(Pipeline, "prepare", unprepared)
    assert run(batch) == {"0.png": "failed", "1.png": "done", "2.png": "done", "3.png": "done"}
    assert (tries[always], tries[once]) == (2, 2)
    together = {name: record.latents_hash for name, record in read_journals(batch.store.folder).items()}
    monkeypatch.setattr(Pipeline, "generate", generate)
    monkeypatch.setattr(Pipeline, "prepare", prepare)
    run(make(entries, resume=False))
    prepared = {name: record.latents_hash for name, record in read_journals(batch.store.folder).items()}
    assert {**together, "0.apng": ""} == {**prepared, "0.apng": ""}


def unprepared(self: Pipeline, videos: Any) -> Generator[Any, None, None]:
    raise InputError("the block cannot be prepared")
    yield


def test_fail_fast_stops(make: Make, pictures: Path) -> None:
    def engine(tasks: Iterator[Record | Task]) -> Generator[Any, None, None]:
        for task in tasks:
            assert isinstance(task, Task)
            yield Result(task.key, None, 0.0, 1, "no")

    assert run(make(entries_of(pictures), fail_fast=True), engine) == {"0.png": "failed"}
    assert len(run(make(entries_of(pictures)), engine)) == 8


def test_what_is_wrong_with_a_row_costs_that_row(make: Make, pictures: Path, tmp_path: Path) -> None:
    entries = [Entry(f"{i}.png", (str(pictures / f"{i}.png"),), f"m.csv, line {i + 2}") for i in range(3)]
    entries[0].options["steps"] = 0
    entries.append(Entry("m.csv, line 5", (), "m.csv, line 5", problem="no image"))
    batch = make(entries)
    assert run(batch) == {"0.png": "failed", "1.png": "done", "2.png": "done", "m.csv, line 5": "failed"}
    failed = [each for each in batch.plan() if isinstance(each, Record) and each.status == "failed"]
    assert failed[0].error.startswith("m.csv, line 2: --steps must be")
    assert failed[1].error == "no image"


def test_what_is_wrong_with_every_row_is_said_before_any_runs(make: Make, pictures: Path, tmp_path: Path) -> None:
    entries = [Entry(f"{i}.png", (str(pictures / f"{i}.png"),), f"m.csv, line {i + 2}") for i in range(2)]
    entries[0].options["steps"] = 0
    entries[1].options["fit"] = "squeeze"  # type: ignore[typeddict-item]
    with pytest.raises(UsageError, match=r"line 2: --steps must be .*; m.csv, line 3: --fit must be"):
        run(make(entries))
    assert not (tmp_path / "out").exists()


def test_portraits_turn_the_size_unless_told_otherwise(
    make: Make, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make(entries_of(pictures, 3), {"width": None})
    monkeypatch.setattr(
        Weights, "config", lambda self, model, config=Weights.config: replace(config(self, model), width=64)
    )
    sizes = [each.settings for each in batch.plan() if isinstance(each, Task)]
    assert [(s.width, s.height) for s in sizes] == [(64, 32), (64, 32), (32, 64)]
    level = replace(batch, turned=False)
    assert {(e.settings.width, e.settings.height) for e in level.plan() if isinstance(e, Task)} == {(64, 32)}


def test_what_a_crop_leaves_is_told(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (250, 450)).save(tmp_path / "in" / "tall.png")
    entries = [Entry("tall.png", (str(tmp_path / "in" / "tall.png"),))]
    (task,) = make(entries, turned=False).plan()
    assert isinstance(task, Task)
    assert caplog.messages == ["tall.png: keeps the middle 56 %; --fit pad keeps all, --fit crop:top the top"]


def test_a_caption_is_asked_once(make: Make, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def say(picture: Any, name: str, **_: Any) -> str:
        asked.append((picture.size, name))
        return "two trees"

    monkeypatch.setattr("dcrafter.captioner.caption", say)

    for status in ("done", "skipped"):
        batch = make(entries_of(pictures, 1), captioner=Captioner("some/model"))
        assert run(batch) == {"0.png": status}
    assert asked == [((40, 30), "some/model")]
    assert read_settings(batch.store.path(batch.items[0]))["prompt"] == "two trees, cat"  # type: ignore[index]


def test_one_batch_at_a_time_writes_into_a_folder(make: Make, pictures: Path) -> None:
    batch, other = (make(entries_of(pictures, 1)) for _ in range(2))
    with batch.store, pytest.raises(OutputError, match="another batch is writing"):
        run(other)
    assert run(other) == {"0.png": "done"}


def test_what_a_killed_run_left_is_removed(make: Make, pictures: Path) -> None:
    batch = make(entries_of(pictures, 1))
    batch.store.unfinished.mkdir(parents=True)
    (batch.store.unfinished / "0123.apng").write_text("half")
    (batch.store.unfinished / "0123.frames").mkdir()
    elsewhere = batch.store.folder / ".others.part"
    elsewhere.write_text("not ours")
    run(batch)
    assert sorted(path.name for path in batch.store.folder.iterdir()) == [".others.part", "0.apng", "batch.jsonl"]


def test_folders_of_frames_are_replaced_whole(make: Make, pictures: Path, tmp_path: Path) -> None:
    entries = entries_of(pictures, 1)
    for steps in (1, 2, 2):
        batch = make(entries, {"steps": steps, "frames": 3 - steps})
        store = Store(tmp_path / "out", WriteOptions("frames"))
        items: list[Item] = [replace(item, output="0.frames") for item in batch.items]
        status = run(replace(batch, store=store, items=items))
        assert len(list((tmp_path / "out" / "0.frames").iterdir())) == 3 - steps
    assert status == {"0.png": "skipped"}


def test_an_interrupted_run_keeps_what_is_made(make: Make, pictures: Path) -> None:
    batch = make(entries_of(pictures, 4))
    news = batch.run(Worker(batch.weights.models).run)
    for each in news:
        if isinstance(each, Record):
            break
    news.close()
    made = len(read_journals(batch.store.folder))
    assert made >= 1
    assert not batch.store.unfinished.exists()
    statuses = run(make(entries_of(pictures, 4)))
    assert list(statuses.values()).count("skipped") == made
    assert torch.is_inference_mode_enabled() is False
