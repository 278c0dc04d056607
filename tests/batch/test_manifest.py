from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcrafter.batch.manifest import COLUMNS, is_manifest, read_manifest
from dcrafter.errors import UsageError
from dcrafter.settings import Settings, options_of


def manifest(folder: Path, text: str, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_csv(tmp_path: Path) -> None:
    text = (
        "\ufeffimage,prompt,mode,image2,steps,negative-prompt,trim-keyframes,seed,name\r\n"
        '"a,b.png","two\r\nlines",interpolate,c.png,5,blurry,yes,7,first\r\n'
        "\r\n"
        "sub/d.png,,,,,,,,\r\n"
    )
    first, second = read_manifest(manifest(tmp_path, text))
    assert first.images == (str(tmp_path / "a,b.png"), str(tmp_path / "c.png"))
    assert (first.path, first.command, first.prompt, first.seed, first.name) == (
        "a,b.png", "interpolate", "two\nlines", 7, "first",
    )  # fmt: skip
    assert first.options == {"steps": 5, "negative_prompt": "blurry", "trim_keyframes": True}
    assert (second.path, second.prompt, second.command, second.options) == ("sub/d.png", None, None, {})
    assert second.where == "m.csv, line 5"


def test_jsonl(tmp_path: Path) -> None:
    rows = [
        {"image": ["a.png", "b.png", "c.png"], "mode": "interpolate", "guidance": 3.5, "color-match": True},
        {"image": "https://example.org/a.png", "prompt": None},
    ]
    first, second = read_manifest(manifest(tmp_path, "\n\n".join(map(json.dumps, rows)), "m.jsonl"))
    assert [Path(picture).name for picture in first.images] == ["a.png", "b.png", "c.png"]
    assert first.options == {"guidance": 3.5, "color_match": True}
    assert second.path == second.images[0] == "https://example.org/a.png"
    assert second.where == "m.jsonl, line 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,stepz\na.png,3\n", "m.csv, line 1: unknown column stepz (did you mean steps?); there are image, "),
        ("image;stepz\na.png;3\n", "m.csv, line 1: unknown column stepz (did you mean steps?)"),
        ("\n\nimage,no-metadata\na.png,1\n", "m.csv, line 3: unknown column no-metadata; there are"),
        ("prompt\ncat\n", "m.csv, line 1: no column image"),
        ("image,image\na,b\n", "line 1: a column appears twice"),
        ("image,Image\na,b\n", "line 1: a column appears twice"),
        ('image\n"a.png\n', "no CSV"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"image": }]', "m.csv: no JSON"),
    ],
)
def test_errors_of_the_whole_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_manifest(manifest(tmp_path, text))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"image": }', "no JSON"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"image": "a", "seed": ' + "1" * 5000 + "}", "no JSON (a number of 5000 digits)"),
        ('{"image": "a", "motion": "' + "1" * 5000 + '"}', "motion must have at most 1000 characters, not 5000"),
        ('{"image": "a", "motion": [3]}', "motion must be text or a whole number, not a list or an object"),
        ('{"image": "a", "motion": {"a": 3}}', "motion must be text or a whole number"),
        ('{"image": "a", "steps": 1e400}', "steps must be a number, not inf"),
        ('{"image": "a", "steps": NaN}', "steps must be a number, not nan"),
        ('{"image": "a", "seed": 1e400}', "seed must be a whole number, not inf"),
        ('{"image": "a", "seed": true}', "seed must be a whole number, not True"),
        ('{"image": "a\\u0000.png"}', "holds a NUL"),
        ('{"image": "a\\ud800.png"}', "is not valid Unicode"),
        ('{"image": ["a.png", "\\u0000"]}', "holds a NUL"),
        ('{"image": "a", "prompt": "\\ud800"}', "prompt is not valid Unicode"),
        ('{"image": "a", "prompt": 3}', "prompt must be text, not 3"),
        ('{"image": "a", "prompt": "' + "x" * 20_000 + '"}', "prompt has 20000 characters"),
        ('{"image": 3}', "image must be a path"),
        ('{"image": []}', "image must be a path"),
        ('{"image": "a", "image": "b"}', "a column appears twice"),
        ('{"image": "a", "stepz": 3}', "unknown column stepz (did you mean steps?)"),
        ('{"image": "a", "mode": "dance"}', "mode must be animate, interpolate, loop, not dance"),
        ('{"image": "a", "color-match": "maybe"}', "color-match must be true or false, not maybe"),
        ('{"prompt": "a"}', "no image"),
    ],
)
def test_a_bad_row_costs_itself_only(tmp_path: Path, row: str, problem: str) -> None:
    good = '{"image": "good.png"}'
    first, bad, last = read_manifest(manifest(tmp_path, f"{good}\n{row}\n{good}\n", "m.jsonl"))
    assert (first.problem, last.problem) == ("", "")
    assert problem in bad.problem
    assert len(bad.problem) < 500
    assert bad.where == bad.path == "m.jsonl, line 2"


def test_a_bad_csv_row_costs_itself_only(tmp_path: Path) -> None:
    text = "image,prompt,seed\na.png\nb.png,x,-1\nc.png,\0,1\n\0,,\nd.png,,2\n"
    problems = [entry.problem for entry in read_manifest(manifest(tmp_path, text))]
    assert problems[0] == "1 cells under 3 columns"
    assert problems[1] == "seed must be a whole number, not '-1'"
    assert "holds a NUL" in problems[3]
    assert (problems[2], problems[4]) == ("", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "Image,Prompt,negative_prompt,GUIDANCE\na.png,cat,blur,3\n"),
        ("m.csv", "image;prompt;negative-prompt;guidance\na.png;cat;blur;3\n"),
        ("m.tsv", "image\tprompt\tnegative_prompt\tguidance\na.png\tcat\tblur\t3\n"),
        ("m.json", '[{"image": "a.png", "prompt": "cat", "negative_prompt": "blur", "guidance": "3"}]'),
        ("m.json", '\n[\n{"images": ["a.png"], "command": "animate", "prompt": "cat", "negative_prompt": "blur",\n'
                   '"guidance": "3"}]'),
    ],
)  # fmt: skip
def test_spellings_and_formats(tmp_path: Path, name: str, text: str) -> None:
    (entry,) = read_manifest(manifest(tmp_path, text, name))
    assert (Path(entry.images[0]).name, entry.prompt) == ("a.png", "cat")
    assert entry.options == {"negative_prompt": "blur", "guidance": 3.0}
    assert is_manifest(text)


def test_every_option_is_a_column() -> None:
    assert {name.replace("_", "-") for name in options_of(Settings)} <= set(COLUMNS)


def test_a_list_of_paths_is_no_manifest() -> None:
    for text in ("image.png\n", "a,b.png\n", "[1].png\nb.png", "my image,1.png"):
        assert not is_manifest(text)


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(UsageError, match="cannot read"):
        read_manifest(tmp_path / "m.csv")
