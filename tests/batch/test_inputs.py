from __future__ import annotations

import os
from pathlib import Path

import pytest

from dcrafter.batch.inputs import Search, Shot
from dcrafter.errors import UsageError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def paths(shots: list[Shot]) -> list[str]:
    return [shot.path for shot in shots]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folders_pictures_in_sorted_order(folder: Path) -> None:
    touch(folder, "in/b.png", "in/a.JPG", "in/.hidden.png", "in/clip.mp4", "in/notes.txt", "in/deep/c.webp")
    found = Search().find(["in"])
    assert paths(found.shots) == ["a.JPG", "b.png"]
    assert found.shots[0].pictures == (os.path.join("in", "a.JPG"),)
    assert found.left_out == {os.path.join("in", "clip.mp4"): "no picture by its name"}
    assert paths(Search(recursive=True).find(["in"]).shots) == ["a.JPG", "b.png", "deep/c.webp"]


def test_what_the_batch_has_made_is_no_input(folder: Path) -> None:
    touch(folder, "a.png", "a_1.gif")
    ours = frozenset([(folder / "a_1.gif").absolute()])
    assert paths(Search(ours=ours).find(["."]).shots) == ["a.png"]
    assert paths(Search(ours=ours).find(["*.*"]).shots) == ["a.png"]


def test_links_in_a_circle_end(folder: Path) -> None:
    touch(folder, "in/deep/a.png")
    (folder / "in" / "deep" / "up").symlink_to(folder / "in")
    (folder / "in" / "self.png").symlink_to(folder / "in" / "self.png")
    found = Search(recursive=True).find(["in"])
    assert paths(found.shots) == ["deep/a.png", "self.png"]
    assert list(found.left_out.values()) == ["a link to a folder that it is in"]


def test_files_addresses_and_patterns(folder: Path) -> None:
    touch(folder, "in/a.png", "in/deep/b.png", "x[1].png")
    url = "https://example.org/c.png?size=1"
    found = Search().find(["in/a.png", "x[1].png", url, "in/**/*.png"])
    assert paths(found.shots) == ["a.png", "x[1].png", url, "a.png", "deep/b.png"]
    with pytest.raises(UsageError, match="nothing matches"):
        Search().find(["*.tiff"])
    with pytest.raises(UsageError, match=r"there is no absent\.png"):
        Search().find(["absent.png"])


def test_the_published_layout_works_as_it_is(folder: Path) -> None:
    touch(folder, "in/2.png", "in/10.png")
    (folder / "in" / "test_prompts.txt").write_text("ten\n\n two \n", "utf-8")
    prompts = [(shot.path, shot.prompt) for shot in Search().find(["in"]).shots]
    assert prompts == [("10.png", "ten"), ("2.png", "two")]  # sorted as text, as published
    assert [shot.prompt for shot in Search().find(["in/test_prompts.txt"]).shots] == ["ten", "two"]
    assert [shot.prompt for shot in Search(implied_prompts=False).find(["in"]).shots] == [None, None]
    touch(folder, "in/3.png")
    with pytest.raises(UsageError, match="2 prompts for 3 items"):
        Search().find(["in"])


def test_prompts_from_a_file_a_name_or_beside_the_picture(folder: Path) -> None:
    touch(folder, "in/a_red-fox.png", "in/b.png")
    (folder / "p.txt").write_text("one\ntwo\n")
    assert [s.prompt for s in Search(prompts=Path("p.txt")).find(["in"]).shots] == ["one", "two"]
    assert [s.prompt for s in Search(prompt_from="filename").find(["in"]).shots] == ["a red fox", "b"]
    (folder / "in" / "b.txt").write_text("a bee\n")
    fox, bee = Search(prompt_from="sidecar").find(["in"]).shots
    assert bee.prompt == "a bee"
    assert fox.problem == "cannot read its prompt a_red-fox.txt (No such file or directory)"


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
    shots = Search(command="interpolate").find(["in"]).shots
    assert [(shot.stem, len(shot.pictures)) for shot in shots] == pairs


def test_an_odd_picture_is_refused(folder: Path) -> None:
    touch(folder / "in", "a.png", "b.png", "c.png")
    with pytest.raises(UsageError, match=r"3 pictures cannot be paired, the last is c\.png"):
        Search(command="interpolate").find(["in"])


def test_stdin_is_paths_or_a_manifest() -> None:
    assert paths(Search().find(["-"], "x/a.png\nb.png\n").shots) == ["a.png", "b.png"]
    assert paths(Search().find(["-"], "a\nb.png\0c.png\0").shots) == ["a\nb.png", "c.png"]
    assert [s.prompt for s in Search().find(["-"], '{"image": "a.png", "prompt": "cat"}\n').shots] == ["cat"]
    assert [s.prompt for s in Search().find(["-"], "image,prompt\na.png,cat\n").shots] == ["cat"]
