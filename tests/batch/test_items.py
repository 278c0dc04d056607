from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from dcrafter.batch.entries import Entry
from dcrafter.batch.items import Defaults, Item, in_shard, item_seed, make_items, shard_of
from dcrafter.errors import UsageError


def entries(*paths: str) -> list[Entry]:
    return [Entry(path, (f"in/{path}",)) for path in paths]


def test_a_seed_follows_from_the_item_alone() -> None:
    names = [f"{i}.png" for i in range(50)]
    seeds = {item.path: item.seed for item in make_items(entries(*names), Defaults(seed=3))}
    random.Random(0).shuffle(names)
    assert {
        item.path: item.seed for item in make_items(entries(*names[:20]), Defaults(seed=3))
    }.items() <= seeds.items()
    assert len(set(seeds.values())) == 50
    assert all(0 <= seed < 2**32 for seed in seeds.values())
    assert seeds["1.png"] != item_seed(4, "1.png", 1)


def test_the_seed_of_an_item_is_a_promise() -> None:
    """Who resumes with a later version must get the same."""
    assert item_seed(0, "cat.png", 1) == 2767733108
    assert item_seed(0, "é.png", 2) == item_seed(0, "e\u0301.png", 2) == 2417100411


def test_items_are_numbered_by_path_and_by_place() -> None:
    items = make_items(entries("a.png", "b.png", "a.png"), Defaults(count=2))
    assert [(item.path, item.index, item.position) for item in items] == [
        ("a.png", 1, 1), ("a.png", 2, 2), ("b.png", 1, 3), ("b.png", 2, 4), ("a.png", 3, 5), ("a.png", 4, 6),
    ]  # fmt: skip
    assert len({item.seed for item in items}) == 6


def test_what_a_shot_says_wins() -> None:
    entry = Entry("a.png", ("a.png",), prompt="", command="loop", model="512", seed=5, options={"steps": 3})
    defaults = Defaults(prompt="cat", count=2, options={"steps": 9, "fps": 4.0})
    first, second = make_items([entry], defaults)
    assert (first.prompt, first.command, first.model, first.seed, second.seed) == ("", "loop", "512", 5, 6)
    assert first.options == {"steps": 3, "fps": 4.0}


@pytest.mark.parametrize(
    ("path", "template", "output"),
    [
        ("deep/cat.png", "{stem}_{seed}", "deep/cat_7.mp4"),
        ("a.b.png", "{stem}", "a.b.mp4"),
        ("deep/cat.png", "{parent}-{index:03}", "deep-001.mp4"),
        ("cat.png", "{prompt}/{copy}", "a-cat-it-s-red/1.mp4"),
        ("new\nline '\"ü.png", "{stem}", "new_line '\"ü.mp4"),
        ("../up/cat.png", "{stem}", "cat.mp4"),
        ("/abs/cat.png", "{stem}", "cat.mp4"),
        ("https://example.org/a/b%20c.png?x=1", "{stem}", "b c.mp4"),
    ],
)
def test_names(path: str, template: str, output: str) -> None:
    entry = Entry(path, (path if "://" in path else f"in/{path}",), seed=7)
    assert make_items([entry], Defaults(prompt="A cat; it's red!", name=template))[0].output == output


BAD_TEMPLATES = [
    "{nope}", "{", "}", "{stem:q}", "{stem:>1500000000}", "{index:0999}", "{stem:02}", "{stem.__class__}", "{stem!r}",
    "{seed:c}", "{stem[0]}", "/tmp/{stem}", "../{stem}", "x/../../y", "", ".", "{stem}/", "{0}", "{}", "a" * 2000,
    "CON", "con.{seed}", "x/nul", "lpt1.a", "\\..\\x", "C:{stem}", "a\nb", ".batch.part/{stem}",
    ".BATCH.1-of-2.part/{stem}",
]  # fmt: skip


@pytest.mark.parametrize("template", BAD_TEMPLATES)
def test_names_that_cannot_be(template: str) -> None:
    with pytest.raises(UsageError, match="the name"):
        make_items([Entry("a.png", ("a.png",))], Defaults(name=template))
    if template:
        row = Entry("b.png", ("b.png",), "m.csv, line 3", name=template)
        good, bad = make_items([Entry("a.png", ("a.png",)), row], Defaults())
        assert (good.problem, bad.problem[:8]) == ("", "the name")


@pytest.mark.parametrize(
    ("path", "template", "output"),
    [
        ("aux.png", "{stem}", "aux_.mp4"),
        ("con/cat.png", "{stem}", "con_/cat.mp4"),
        ("nul.x.png", "{stem}", "nul_.x.mp4"),
        ("console.png", "{stem}", "console.mp4"),
        ("C:x.png", "{stem}", "C_x.mp4"),
        ("a:b.png", "{stem}", "a_b.mp4"),
        ("cat: 1.png", "{stem}", "cat: 1.mp4"),
        ("\\..\\x.png", "{stem}", "_.._x.mp4"),
        ("https://example.org/..%2F..%2Fx.png", "{stem}", "x.mp4"),
        ("https://example.org/%5C..%5Cx.png", "{stem}", "_.._x.mp4"),
        ("http://[::1/x", "{stem}", "x.mp4"),
        ("cat.png", "{{{stem}}}-{seed:012}", "{cat}-000000000007.mp4"),
    ],
)
def test_a_name_is_one_on_every_platform(path: str, template: str, output: str) -> None:
    entry = Entry(path, (path,), seed=7)
    assert make_items([entry], Defaults(name=template))[0].output == output


def test_no_output_is_where_unfinished_ones_are() -> None:
    entry = Entry(".batch.part/a.png", (".batch.part/a.png",))
    assert "unfinished" in make_items([entry], Defaults())[0].problem


def outputs(items: list[Item]) -> list[str]:
    return [item.output for item in items]


def test_a_seed_is_in_a_name_where_it_tells_something_apart() -> None:
    assert outputs(make_items(entries("a.png", "d/a.png"), Defaults())) == ["a.mp4", "d/a.mp4"]
    a, b, c = make_items(entries("a.png", "a.jpg", "b.png"), Defaults())
    assert [a.output, b.output, c.output] == [f"a_{a.seed}.mp4", f"a_{b.seed}.mp4", "b.mp4"]
    for defaults in (Defaults(count=2), Defaults(seed=0)):
        for item in make_items(entries("a.png"), defaults):
            assert item.output == f"a_{item.seed}.mp4"
    assert outputs(make_items([Entry("a.png", ("a.png",), seed=5)], Defaults())) == ["a_5.mp4"]


def test_an_item_keeps_the_name_that_it_has_in_the_journal() -> None:
    (a,) = make_items(entries("a.png"), Defaults())
    earlier = {f"a_{a.seed}.mp4": a.key, "b.mp4": ("b.png", 1), "c.mp4": ("c.gif", 1)}
    items = make_items(entries("a.png", "b.png", "b.jpg", "c.png"), Defaults(earlier=earlier))
    assert outputs(items) == [f"a_{a.seed}.mp4", "b.mp4", f"b_{items[2].seed}.mp4", f"c_{items[3].seed}.mp4"]


def test_no_default_name_is_an_images(tmp_path: Path) -> None:
    (item,) = make_items([Entry("a.gif", (str(tmp_path / "a.gif"),))], Defaults(format="gif", folder=tmp_path))
    assert item.output == f"a_{item.seed}.gif"


@pytest.mark.parametrize("paths", [("a.png", "a.jpg"), ("a.png", "A.png"), ("é.png", "e\u0301.png")])
def test_two_of_one_name_are_refused(paths: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="would both become"):
        make_items(entries(*paths), Defaults(name="{stem}"))
    assert len(make_items(entries(*paths), Defaults(name="{stem}_{index}"))) == 2


def test_dots_in_names_are_kept_apart() -> None:
    assert [item.output for item in make_items(entries("a.b.png", "a.c.png"), Defaults(name="{stem}"))] == [
        "a.b.mp4",
        "a.c.mp4",
    ]


def test_a_name_that_no_file_can_have_is_the_items_problem() -> None:
    item = make_items(entries("ä" * 130 + ".png"), Defaults())[0]
    assert "too long" in item.problem


@pytest.mark.parametrize(("command", "pictures"), [("interpolate", 1), ("animate", 2), ("loop", 3)])
def test_the_number_of_pictures_fits_the_mode(command: str, pictures: int) -> None:
    entry = Entry("a.png", ("a.png",) * pictures, where="m.csv, line 4", command=command)  # type: ignore[arg-type]
    assert f"to {command} takes" in make_items([entry], Defaults())[0].problem
    with pytest.raises(UsageError, match=rf"a\.png: to {command} takes"):
        make_items([replace(entry, where="")], Defaults())


@pytest.mark.parametrize("of", range(1, 8))
def test_shards_are_a_partition(of: int) -> None:
    items = make_items(entries(*(f"{i}.png" for i in range(200))), Defaults())
    parts = [in_shard(items, number, of) for number in range(1, of + 1)]
    assert sorted((item for part in parts for item in part), key=lambda item: item.position) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("2/3", {"RANK": "0", "WORLD_SIZE": "8"}, (2, 3)),
        ("auto", {"RANK": "0", "WORLD_SIZE": "8"}, (1, 8)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, (3, 4)),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "10", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_STEP": "5", "RANK": "1", "WORLD_SIZE": "2",
            },
            (3, 4),
        ),
    ],
)  # fmt: skip
def test_a_shard_is_given_or_announced(text: str, environment: dict[str, str], shard: tuple[int, int]) -> None:
    assert shard_of(text, environment) == shard


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("0/3", {}),
        ("4/3", {}),
        ("3", {}),
        ("auto", {}),
        ("auto", {"RANK": "x", "WORLD_SIZE": "8"}),
        ("auto", {"SLURM_ARRAY_TASK_ID": "5"}),
        ("auto", {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"}),
    ],
)
def test_no_such_shard(text: str, environment: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        shard_of(text, environment)
