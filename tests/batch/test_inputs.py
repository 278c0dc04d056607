from __future__ import annotations

import os
from pathlib import Path

import pytest

from dcrafter.batch.entries import Entry
from dcrafter.batch.inputs import Search
from dcrafter.batch.items import Defaults, make_items
from dcrafter.errors import UsageError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def paths(entries: list[Entry]) -> list[str]:
    return [entry.path for entry in entries]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folders_pictures_in_sorted_order(folder: Path) -> None:
    touch(folder, "in/b.png", "in/a.JPG", "in/.hidden.png", "in/clip.mp4", "in/notes.txt", "in/deep/c.webp")
    found = Search().find(["in"])
    assert paths(found.entries) == ["a.JPG", "b.png"]
    assert found.entries[0].images == (os.path.join("in", "a.JPG"),)
    assert found.skipped == {os.path.join("in", "clip.mp4"): "not an image by its name"}
    assert paths(Search(recursive=True).find(["in"]).entries) == ["a.JPG", "b.png", "deep/c.webp"]


def test_what_the_batch_has_made_is_no_input(folder: Path) -> None:
    touch(folder, "a.png", "a_1.gif")
    outputs = frozenset([(folder / "a_1.gif").absolute()])
    assert paths(Search(outputs=outputs).find(["."]).entries) == ["a.png"]
    assert paths(Search(outputs=outputs).find(["*.*"]).entries) == ["a.png"]


def test_links_in_a_circle_end(folder: Path) -> None:
    touch(folder, "in/deep/a.png")
    (folder / "in" / "deep" / "up").symlink_to(folder / "in")
    (folder / "in" / "self.png").symlink_to(folder / "in" / "self.png")
    found = Search(recursive=True).find(["in"])
    assert paths(found.entries) == ["deep/a.png", "self.png"]
    assert list(found.skipped.values()) == ["a link to a folder that it is in"]


def test_files_addresses_and_patterns(folder: Path) -> None:
    touch(folder, "in/a.png", "in/deep/b.png", "x[1].png")
    url = "https://example.org/c.png?size=1"
    found = Search().find(["in/a.png", "x[1].png", url, "in/**/*.png"])
    assert paths(found.entries) == ["a.png", "x[1].png", url, "a.png", "deep/b.png"]
    with pytest.raises(UsageError, match="nothing matches"):
        Search().find(["*.tiff"])
    with pytest.raises(UsageError, match=r"there is no absent\.png"):
        Search().find(["absent.png"])


def test_the_published_layout_works_as_it_is(folder: Path) -> None:
    touch(folder, "in/2.png", "in/10.png")
    (folder / "in" / "test_prompts.txt").write_text("ten\n\n two \n", "utf-8")
    prompts = [(entry.path, entry.prompt) for entry in Search().find(["in"]).entries]
    assert prompts == [("10.png", "ten"), ("2.png", "two")]  # sorted as text, as published
    assert [entry.prompt for entry in Search().find(["in/test_prompts.txt"]).entries] == ["ten", "two"]
    assert [entry.prompt for entry in Search(implied_prompts=False).find(["in"]).entries] == [None, None]
    touch(folder, "in/3.png")
    with pytest.raises(UsageError, match="2 prompts for 3 items"):
        Search().find(["in"])


def test_prompts_from_a_file_a_name_or_beside_the_picture(folder: Path) -> None:
    touch(folder, "in/a_red-fox.png", "in/b.png")
    (folder / "p.txt").write_text("one\ntwo\n")
    assert [s.prompt for s in Search(prompts=Path("p.txt")).find(["in"]).entries] == ["one", "two"]
    assert [s.prompt for s in Search(prompt_from="filename").find(["in"]).entries] == ["a red fox", "b"]
    (folder / "in" / "b.txt").write_text("a bee\n")
    fox, bee = Search(prompt_from="sidecar").find(["in"]).entries
    assert bee.prompt == "a bee"
    assert fox.problem == "its prompt: cannot read in/a_red-fox.txt (No such file or directory)"
    os.mkfifo("in/a_red-fox.txt")  # reading it would wait for ever
    assert Search(prompt_from="sidecar").find(["in"]).entries[0].problem == "its prompt: in/a_red-fox.txt is no file"


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("cat_01.png", "cat_02.png", "dog_1.png", "dog_2.png", "dog_3.png"), [("cat", 2), ("dog", 3)]),
        (("a_frame1.png", "a_frame3.png", "b.png", "c.png"), [("a_frame1", 2), ("b", 2)]),
        (("x_1.png", "y_2.png"), [("x", 2)]),
    ],
)
def test_pictures_are_paired(folder: Path, names: tuple[str, ...], pairs: list[tuple[str, int]]) -> None:
    touch(folder / "in", *names)
    entries = Search(command="interpolate").find(["in"]).entries
    assert [(entry.stem, len(entry.images)) for entry in entries] == pairs


def test_a_path_that_no_file_can_have_costs_itself_only(folder: Path) -> None:
    touch(folder, "b.png")
    (folder / "list.txt").write_bytes(b"a\0.png\nb.png\n")
    bad, good = make_items(Search().find(["list.txt"]).entries, Defaults())
    assert (bad.problem, good.problem) == ("its path holds a NUL", "")


def test_a_list_of_images(folder: Path) -> None:
    touch(folder, "in/a.png", "b.png")
    (folder / "in" / "list.txt").write_text("a.png\n\nb.png\nhttps://example.org/c.JPG\nabsent.png\n")
    found = Search().find(["in/list.txt"]).entries
    assert [entry.images for entry in found] == [
        (os.path.join("in", "a.png"),), ("b.png",), ("https://example.org/c.JPG",), ("absent.png",),
    ]  # fmt: skip
    (folder / "no").mkdir()
    (folder / "no" / "p.txt").write_text("a cat\na dog\n")
    with pytest.raises(UsageError, match=r"p\.txt holds prompts, but there are no images for them"):
        Search().find(["no/p.txt"])


def test_an_address_that_is_none_costs_itself_only() -> None:
    bad, good = Search().find(["-"], "http://[::1/x\nhttps://example.org/a.png\n").entries
    assert (bad.problem, good.problem) == ("this is no address", "")


def test_an_odd_picture_is_refused(folder: Path) -> None:
    touch(folder / "in", "a.png", "b.png", "c.png")
    with pytest.raises(UsageError, match=r"3 images cannot be paired, the last is c\.png"):
        Search(command="interpolate").find(["in"])


def test_stdin_is_paths_or_a_manifest() -> None:
    assert paths(Search().find(["-"], "x/a.png\nb.png\n").entries) == ["a.png", "b.png"]
    assert paths(Search().find(["-"], "a\nb.png\0c.png\0").entries) == ["a\nb.png", "c.png"]
    assert [s.prompt for s in Search().find(["-"], '{"image": "a.png", "prompt": "cat"}\n').entries] == ["cat"]
    assert [s.prompt for s in Search().find(["-"], "image,prompt\na.png,cat\n").entries] == ["cat"]
