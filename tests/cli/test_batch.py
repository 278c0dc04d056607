from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from batch.conftest import checkpoint, pictures
from cli.running import CAT, Run
from cli.test_terminal import at_a_terminal
from PIL import Image

from dcrafter.batch.journal import read_journals
from dcrafter.media.video import read_settings, read_video

__all__ = ["checkpoint", "pictures"]


@pytest.fixture
def model(checkpoint: Path) -> list[str]:
    return [
        "--checkpoint", str(checkpoint), "--device", "cpu", "--dtype", "float32", "--steps", "1", "-g", "1",
        "-f", "apng", "-o", "out",
    ]  # fmt: skip


@pytest.fixture
def folder(pictures: Path, tmp_path: Path) -> Path:
    """in/ with the pictures 0 to 3."""
    for i in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(pictures / f"{i}.png", tmp_path / "in")
    return tmp_path / "in"


def test_a_folder_becomes_videos_once(dcrafter: Run, model: list[str], folder: Path) -> None:
    first = dcrafter("batch", "in", "-p", "cat", *model)
    assert first.status == 0, first.stderr
    assert len(first.lines) == 4
    assert [Path(line).name for line in first.lines] == ["0.apng", "1.apng", "2.apng", "3.apng"]
    assert "[4/4] 3.png: done in" in first.stderr
    assert read_video(first.lines[0])[0].shape == (4, 32, 32, 3)
    times = {line: os.stat(line).st_mtime_ns for line in first.lines}
    again = dcrafter("batch", "in", "-p", "cat", *model)
    assert again.lines == first.lines
    assert again.stderr.count("done already") == 4
    assert times == {line: os.stat(line).st_mtime_ns for line in first.lines}
    other = dcrafter("batch", "in", "-p", "cat", "--seed", "1", "-q", *model)
    assert (len(set(other.lines) | set(first.lines)), other.stderr) == (8, "")


def test_no_video_takes_the_place_of_a_picture(dcrafter: Run, model: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "in" / "cat.gif"
    picture.parent.mkdir()
    Image.new("RGB", (32, 32)).save(picture)
    before = picture.read_bytes()
    named = dcrafter("batch", "in", *model, "-f", "gif", "--name", "{stem}", "-o", "in", "--overwrite")
    (tmp_path / "m.csv").write_text("image\nin/cat.gif\n")
    joined = dcrafter("batch", "m.csv", *model, "--join", "in/cat.gif", "--overwrite")
    for outcome in (named, joined):
        assert outcome.status == 2
        assert "in/cat.gif would overwrite the input image" in outcome.stderr
    assert picture.read_bytes() == before


def test_the_same_seed_is_the_same_video_as_alone(dcrafter: Run, model: list[str], folder: Path) -> None:
    (path,) = dcrafter("batch", "in/1.png", "-p", "cat", *model).lines
    settings = read_settings(path)
    assert settings is not None
    dcrafter("animate", "in/1.png", "-p", "cat", "--seed", str(settings["seed"]), *model[:-1], "alone.apng")
    assert np.array_equal(read_video(path)[0], read_video("alone.apng")[0])
    assert read_settings("alone.apng") == settings


def test_every_hostile_file_has_an_outcome(dcrafter: Run, model: list[str], pictures: Path, tmp_path: Path) -> None:
    source, good = tmp_path / "in", (pictures / "0.png").read_bytes()
    source.mkdir()
    fine = ["a b.png", 'it\'s "q".png', "new\nline.png", "ünï 猫.png", "a.b.png", "a.c.png", "same.png", "same.jpg"]
    for name in fine:
        (source / name).write_bytes(good)
    with Image.open(pictures / "0.png") as image:
        image.save(source / "moves.gif", save_all=True, append_images=[image.rotate(90)])
    broken = {"cut.png": good[: len(good) // 2], "empty.png": b"", "text.png": b"hello", "page.jpg": b"<html>"}
    for name, content in broken.items():
        (source / name).write_bytes(content)
    (source / "self.png").symlink_to("self.png")
    (source / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(source / "pipe.png")
    (source / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    shutil.copy(source / "film.mp4", source / "film.png")
    (source / "deep").mkdir()
    (source / "deep" / "up").symlink_to(source)
    os.fsencode(source)
    bad = [*broken, "self.png", "gone.png", "pipe.png", "film.png"]
    outcome = dcrafter("batch", "-r", "in", "--json", *model)
    assert outcome.status == 3, outcome.stderr
    told = {each["item"]: each for each in map(json.loads, outcome.lines)}
    assert {name for name, each in told.items() if each["status"] == "done"} == {*fine, "moves.gif"}
    assert {name for name, each in told.items() if each["status"] == "failed"} == set(bad)
    assert all(each["error"] for each in told.values() if each["status"] == "failed")
    assert "left out in/film.mp4: not an image by its name" in outcome.stderr
    assert "left out in/deep/up: a link to a folder that it is in" in outcome.stderr
    assert outcome.stderr.splitlines()[-1].startswith(f"dcrafter: {len(bad)} of {len(told)} items failed.")
    table = outcome.stderr.splitlines()[-len(bad) - 1 : -1]
    assert sorted(line.split("  ")[0] for line in table) == sorted(bad)
    assert len({each["path"] for each in told.values()}) == len(told)
    for name in (*fine, "moves.gif"):
        assert read_video(told[name]["path"])[0].shape == (4, 32, 32, 3)


def test_names_follow_folders_and_a_template(dcrafter: Run, model: list[str], folder: Path) -> None:
    (folder / "deep").mkdir()
    shutil.copy(folder / "0.png", folder / "deep")
    outcome = dcrafter("batch", "-r", "in", "--name", "{index:02}-{stem}-{prompt}", "-p", "A cat!", *model)
    assert outcome.lines[0] == "out/01-0-a-cat.apng"
    assert outcome.lines[-1] == "out/deep/05-0-a-cat.apng"
    refused = dcrafter("batch", "in", "--name", "same", *model)
    assert refused.status == 2
    assert "0.png and 1.png would both become same.apng" in refused.stderr


@pytest.mark.slow
def test_a_manifest_mixes_modes_and_is_joined(dcrafter: Run, model: list[str], folder: Path) -> None:
    Path("m.csv").write_text(
        "image,image2,mode,prompt,name,frames,seed\n"
        "in/0.png,,animate,a cat,one,4,5\n"
        "in/1.png,in/2.png,interpolate,,two,4,6\n"
        "in/2.png,,loop,,three,3,7\n"
    )
    arguments = ("batch", "m.csv", "-p", "other", "--join", "story.apng", "--crossfade", "0.125", *model)
    outcome = dcrafter(*arguments)
    assert outcome.status == 0, outcome.stderr
    assert outcome.lines == ["out/in/one.apng", "out/in/two.apng", "out/in/three.apng", "story.apng"]
    settings = [read_settings(line) or {} for line in outcome.lines[:3]]
    assert [s["command"] for s in settings] == ["animate", "interpolate", "loop"]
    assert [s["prompt"] for s in settings] == ["a cat", "other", "other"]
    assert [s["seed"] for s in settings] == [5, 6, 7]
    one, two, three, story = (read_video(line)[0] for line in outcome.lines)
    assert len(story) == 4 + 4 + 3 - 2
    assert np.array_equal(story[:3], one[:3])
    mixed = np.rint(one[3] / 2 + two[0] / 2)
    assert np.abs(story[3] - mixed).max() <= 1
    assert np.array_equal(story[-2:], three[1:])
    made = os.stat("story.apng").st_mtime_ns
    assert dcrafter(*arguments).status == 0
    assert os.stat("story.apng").st_mtime_ns == made
    assert dcrafter(*arguments, "--color-match").status == 0  # other shots, another story
    assert os.stat("story.apng").st_mtime_ns != made
    edited = Path("story.apng").read_bytes() + b"x"
    Path("story.apng").write_bytes(edited)
    kept = dcrafter(*arguments)
    assert (kept.status, Path("story.apng").read_bytes()) == (0, edited)
    assert "story.apng: kept, since it is not what a batch wrote" in kept.stderr
    assert dcrafter(*arguments, "--overwrite").status == 0
    assert Path("story.apng").read_bytes() != edited


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--crossfade", "9"), "--crossfade must be 0 to 0.25 seconds"),
        (("--join", "mine.apng"), "mine.apng already exists"),
        (("--shard", "1/2"), "a shard has not all of a story"),
        (("--join", "story.xyz"), "has no known suffix"),
    ],
)
def test_a_story_that_cannot_be(
    dcrafter: Run, model: list[str], folder: Path, more: tuple[str, ...], message: str
) -> None:
    Path("mine.apng").write_bytes((folder / "0.png").read_bytes())
    outcome = dcrafter("batch", "in", "--join", "story.apng", *model, *more)
    assert outcome.status == 2
    assert message in outcome.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no input given"),
        (("nowhere",), "there is no nowhere"),
        (("empty",), "there is no picture"),
        (("in", "-o", "-"), "stdout"),
        (("in", "-o", "video.mp4", "-f", "mp4"), "video.mp4 names one file, and a batch needs a folder"),
        (("in", "--prompts", "p.txt"), "2 prompts for 4 items"),
        (("in", "--prompts", "p.txt", "--prompt-from", "sidecar"), "mutually exclusive"),
        (("bad.csv",), "bad.csv, line 1: unknown column stepz"),
        (("worse.jsonl",), "worse.jsonl, line 1: steps must be 1 to 1000"),
        (("model.jsonl",), "model.jsonl, line 1: with --checkpoint there is one model"),
        (("in", "--shard", "5/4"), "there is no shard 5 of 4"),
        (("in", "--shard", "auto"), "neither a SLURM array nor RANK"),
        (("in", "--crossfade", "1"), "Give --join too"),
        (("in", "--workers", "2", "--ray"), "Use --cpus-per-worker"),
        (("in", "--name", "{nope}"), "cannot be filled in"),
        (("in", "--mode", "dance"), "--mode"),
        (("in", "--noise", "n.safetensors"), "for one video"),
        (("-", "-p", "-"), "only one argument can be -"),
        (("in", "--crf", "9"), "neither codec nor crf"),
    ],
)
def test_what_is_refused_is_refused_before_the_work(
    dcrafter: Run, model: list[str], folder: Path, arguments: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    Path("empty").mkdir()
    Path("p.txt").write_text("one\ntwo\n")
    Path("bad.csv").write_text("image,stepz\nin/0.png,3\n")
    Path("worse.jsonl").write_text('{"image": "in/0.png", "steps": 0}\n')
    Path("model.jsonl").write_text('{"image": "in/0.png", "model": "512"}\n')
    outcome = dcrafter("batch", *model, *arguments)
    assert outcome.status == 2, outcome.stderr
    assert message in outcome.stderr
    assert not Path("out").exists()


def test_a_dry_run_tells_and_writes_nothing(dcrafter: Run, model: list[str], folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"no")
    outcome = dcrafter("batch", "in", "--dry-run", "--json", *model)
    assert outcome.status == 3
    told = [json.loads(line) for line in outcome.lines]
    assert [each["status"] for each in told] == ["planned"] * 4 + ["failed"]
    assert told[0]["settings"]["seed"] == told[0]["seed"]
    assert not Path("out").exists()
    dcrafter("batch", "in/0.png", *model)
    again = dcrafter("batch", "in/0.png", "in/1.png", "--dry-run", *model)
    assert "0.png: done already" in again.stderr
    assert "1.png, seed" in again.stderr
    assert (again.status, again.lines) == (0, [])


@pytest.mark.usefixtures("uncounted")
def test_a_dry_run_tells_each_prompt_and_each_download(
    dcrafter: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    arguments = ("batch", "in", "--prompt-from", "filename", "-m", "256", "--dry-run")
    outcome = dcrafter(*arguments)
    assert outcome.status == 0, outcome.stderr
    assert "the model 256 is not on this machine yet: 10.4 GB to download" in outcome.stderr
    assert '3.png, seed 1243422229, "3": 3.mp4' in outcome.stderr.splitlines()
    assert outcome.stderr.count("model 256, 256×256, 50 steps, cpu") == 1
    assert "motion 3 (frame stride), guidance 7.5, sampler ddim, 16 frames at 8 FPS" in outcome.stderr
    offline = dcrafter(*arguments, "--offline")
    assert offline.status == 4
    assert "the weights of 256 are not on this machine, and --offline was given" in offline.stderr


def test_a_batch_has_the_options_of_its_commands(dcrafter: Run, folder: Path) -> None:
    def planned(*arguments: str) -> list[dict[str, object]]:
        outcome = dcrafter("batch", *arguments, "-m", "tiny", "--dry-run", "--json")
        assert outcome.status == 0, outcome.stderr
        return [json.loads(line)["settings"] for line in outcome.lines]

    assert [each["repeat"] for each in planned("in", "--mode", "loop", "--repeat", "4")] == [4] * 4
    assert [each["segments"] for each in planned("in", "--segments", "3")] == [3] * 4
    refused = dcrafter("batch", "in", "-m", "tiny", "--repeat", "4", "--dry-run")
    assert refused.status == 2
    assert "--repeat must be left to `loop`, not 4" in refused.stderr
    Path("m.jsonl").write_text('{"image": "in/0.png", "mode": "loop"}\n{"image": "in/1.png", "mode": "animate"}\n')
    assert [each["repeat"] for each in planned("m.jsonl", "--mode", "loop", "--repeat", "4")] == [4, 1]


def test_shards_share_a_folder(dcrafter: Run, model: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = dcrafter("batch", "in", "--shard", "1/2", *model)
    assert first.lines == sorted(first.lines)
    assert len(first.lines) == 2
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = dcrafter("batch", "in", "--shard", "auto", *model)
    assert {Path(line).name[0] for line in second.lines} == {"1", "3"}
    whole = dcrafter("batch", "in", *model)  # RANK alone divides nothing
    assert sorted(whole.lines) == sorted(first.lines + second.lines)
    assert whole.stderr.count("done already") == 4
    names = sorted(path.name for path in Path("out").glob("*.jsonl"))
    assert names == ["batch.1-of-2.jsonl", "batch.2-of-2.jsonl"]


def test_lists_and_prompts_from_stdin(dcrafter: Run, model: list[str], folder: Path) -> None:
    listed = dcrafter("batch", "-", *model, stdin=b"in/0.png\nin/1.png\n")
    assert [Path(line).name[0] for line in listed.lines] == ["0", "1"]
    prompted = dcrafter("batch", "in/2.png", "-p", "-", *model, stdin=b"a cat\n")
    assert (read_settings(prompted.lines[0]) or {})["prompt"] == "a cat"
    if sys.platform != "darwin":  # where names are Unicode
        name = os.fsdecode(b"in/\xff.png")
        shutil.copy("in/0.png", name)
        odd = dcrafter("batch", "-", "--json", *model, stdin=os.fsencode(name) + b"\0")
        assert json.loads(odd.lines[0])["status"] == "done"


def test_pairs_and_prompts_of_the_published_layout(dcrafter: Run, model: list[str], folder: Path) -> None:
    (folder / "test_prompts.txt").write_text("first\nsecond\n")
    outcome = dcrafter("batch", "in", "--mode", "interpolate", *model)
    assert outcome.status == 0, outcome.stderr
    settings = [read_settings(line) or {} for line in outcome.lines]
    assert [(s["prompt"], s["images"]) for s in settings] == [
        ("first", ["0.png", "1.png"]),
        ("second", ["2.png", "3.png"]),
    ]


def test_it_may_write_where_it_reads(dcrafter: Run, model: list[str], folder: Path) -> None:
    for _ in range(2):
        outcome = dcrafter("batch", "in", *model[:-1], "in")
        assert (outcome.status, len(outcome.lines)) == (0, 4)


def test_a_full_disk_ends_it_and_it_goes_on_later(
    dcrafter: Run, model: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, [4096]

    def writing(file: int, content: bytes) -> int:  # of the journal
        if len(content) > room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= len(content)
        return write(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", writing)
        full = dcrafter("batch", "in", *model)
    assert full.status == 1, full.stderr
    assert "no room left in out. Make room, and run the same command again" in full.stderr
    assert 0 < len(full.lines) < 4
    assert not list(Path("out").glob(".*"))
    again = dcrafter("batch", "in", *model)
    assert (again.status, len(again.lines), again.stderr.count("done already")) == (0, 4, len(full.lines))


@pytest.mark.parametrize("where", ["batch.store.write_video", "media.video._sync"])
def test_a_full_disk_is_no_wrong_usage(
    dcrafter: Run, model: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*given: object, **_: object) -> None:
        if any(isinstance(each, Path) and each.is_relative_to("out") for each in given):  # not the trial encoding
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(f"dcrafter.{where}", full)
        outcome = dcrafter("batch", "in", *model)
    assert (outcome.status, outcome.lines) == (1, [])
    assert "no room left in out" in outcome.stderr
    assert list(Path("out").iterdir()) == []
    assert len(dcrafter("batch", "in", *model).lines) == 4


def test_the_first_failure_ends_it_if_asked(dcrafter: Run, model: list[str], folder: Path) -> None:
    (folder / "0.png").write_bytes(b"")
    outcome = dcrafter("batch", "in", "--fail-fast", *model)
    assert (outcome.status, outcome.lines) == (3, [])
    (record,) = read_journals(Path("out")).values()
    assert record.error.endswith("is empty (0 bytes)")


def test_the_small_model_is_named_when_it_is_taken(dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcrafter.weights.hub.choose", lambda model, command: "tiny")
    outcome = dcrafter("batch", CAT, "--dry-run")
    assert outcome.status == 0, outcome.stderr
    assert "using the built-in `tiny` model" in outcome.stderr


@pytest.mark.slow
def test_a_person_sees_how_far_it_is(model: list[str], folder: Path, tmp_path: Path) -> None:
    (folder / "bad.png").write_bytes(b"")
    status, seen = at_a_terminal("batch", "in", *model, folder=tmp_path)
    assert status == 3
    assert "batch" in seen
    assert "5/5" in seen
    assert "3.png decoding" in seen
    assert seen.count("out/") == 4
    assert "1 of 5 items failed" in " ".join(seen.split())
