from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dcrafter.errors import InputError
from dcrafter.media.fetch import fetch, is_url, public_name

CONTENT = bytes(range(256)) * 4


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/cat.png")
            self.end_headers()
            return
        self.send_response(200 if self.path == "/cat.png" else 404)
        self.end_headers()
        if self.path == "/cat.png":
            self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


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
