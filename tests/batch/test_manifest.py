from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcrafter.batch.manifest import read_manifest
from dcrafter.errors import UsageError


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
    assert first.options == {"steps": "5", "negative_prompt": "blurry", "trim_keyframes": True}
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
        ("image,stepz\na.png,3\n", "line 2: unknown column stepz; there are image, "),
        ("image,no-metadata\na.png,1\n", "unknown column no-metadata"),
        ("prompt\ncat\n", "line 2: no image"),
        ("image,image\na,b\n", "line 1: a column appears twice"),
        ("image,prompt\na.png\n", "line 2: 1 cells under 2 columns"),
        ('image\n"a.png\n', "no CSV"),
        ("image,seed\na.png,x\nb.png,-1\n", "line 2: seed must be a whole number, not 'x'; m.csv, line 3: seed"),
        ("image,mode\na.png,dance\n", "mode must be animate, interpolate, loop, not dance"),
        ("image,color-match\na.png,maybe\n", "color-match must be true or false"),
        ("image\n" + "\n".join(",x" for _ in range(9)), "; and 4 more"),
        ('{"image": "a.png"}\n{"image": }\n', "line 2: no JSON"),
        ('{"image": "a.png"}\n[1]\n', "line 2: no JSON object"),
        ('{"image": 3}\n', "image must be a path"),
        ('{"image": []}\n', "image must be a path"),
        ('{"image": "a", "prompt": 3}\n', "prompt must be text, not 3"),
        ('{"image": "a", "image": "b"}\n', "a column appears twice"),
    ],
)
def test_errors_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_manifest(manifest(tmp_path, text))
    assert message in caught.value.message


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(UsageError, match="cannot read"):
        read_manifest(tmp_path / "m.csv")
