from __future__ import annotations

from collections.abc import Iterator

import pytest
from loopback import files, served

from dcrafter.errors import InputError
from dcrafter.media.fetch import fetch, is_url, public_name

CONTENT = bytes(range(256)) * 4


@pytest.fixture
def address() -> Iterator[str]:
    has = files({"/cat.png": CONTENT})
    with served(lambda path, _: (302, {"Location": "/cat.png"}, b"") if path == "/moved" else has(path, b"")) as place:
        yield place


def test_what_is_there(address: str) -> None:
    assert fetch(f"{address}/cat.png") == CONTENT
    assert fetch(f"{address}/moved") == CONTENT
    assert fetch(f"{address}/cat.png", max_bytes=len(CONTENT)) == CONTENT


def test_what_is_not(address: str) -> None:
    with pytest.raises(InputError, match="404 Not Found"):
        fetch(f"{address}/dog.png")
    with pytest.raises(InputError, match=r"more than 0\.001 MB"):
        fetch(f"{address}/cat.png", max_bytes=1000)
    with pytest.raises(InputError, match="cannot fetch"):
        fetch("http://127.0.0.1:1/cat.png")
    with pytest.raises(InputError, match="cannot fetch"):
        fetch("http://")


def test_addresses() -> None:
    assert is_url("https://example.org/cat.png")
    assert is_url("HTTP://example.org")
    assert not is_url("ftp://example.org/cat.png")
    assert not is_url("https.png")


def test_what_a_result_calls_its_picture() -> None:
    assert public_name("photos/cat.png") == "cat.png"
    assert public_name("-") == "-"
    assert public_name("https://me:secret@example.org:8080/a/cat.png?token=1#x") == "https://example.org:8080/a/cat.png"
