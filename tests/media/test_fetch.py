from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from loopback import files, served

from dcrafter.errors import InputError
from dcrafter.media import fetch as module
from dcrafter.media.fetch import fetch, is_url, public_name, stored_name, url_path

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
    assert public_name("http://me:secret@[::1/x?token=1") == "http://[::1/x"  # an address that is none
    assert url_path("https://example.org/a/caf%C3%A9.png?token=1") == "a/café.png"
    assert url_path("http://[::1/x.png") == "x.png"
    assert stored_name("https://example.org/a.png") == "https://example.org/a.png"
    one, other = (stored_name(f"https://me:secret@example.org/a.png?token={token}") for token in (1, 2))
    assert one != other
    assert one.startswith("https://example.org/a.png#")


@contextmanager
def raw(*parts: bytes, pause: float = 0.0) -> Iterator[str]:
    """A server that sends these bytes to whoever connects, one part after the other, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(65536)
                        for part in parts:
                            connection.sendall(part)
                            time.sleep(pause)
                    except OSError:  # the other side has left
                        pass

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"


@pytest.mark.parametrize(
    "parts", [(HEAD, *[b"x"] * 40), (b"HTTP/1.1 200 OK\r\n", *[b"X-Wait: 1\r\n"] * 40)], ids=["body", "headers"]
)
def test_a_trickle_ends_at_the_deadline(parts: tuple[bytes, ...]) -> None:
    with raw(*parts, pause=0.1) as place, pytest.raises(InputError, match="it takes too long"):
        fetch(f"{place}/cat.png", deadline=0.5)


def test_an_incomplete_body_is_refused() -> None:
    with raw(HEAD + b"x" * 39) as place, pytest.raises(InputError, match="after 39 of 40 bytes"):
        fetch(f"{place}/cat.png")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nxxx"
    with raw(chunked) as place, pytest.raises(InputError, match="cannot fetch"):
        fetch(f"{place}/cat.png")


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/cat.png", "file:///etc/passwd", "data:,x"])
def test_redirects_stay_on_the_web(target: str) -> None:
    moved = served(lambda *_: (302, {"Location": target}, b""))
    with moved as place, pytest.raises(InputError, match=r"(?i)redirect"):
        fetch(f"{place}/cat.png")


@pytest.mark.parametrize("url", ["http://[::1/x", "http://", "http://exa mple.org/x", "http://127.0.0.1:port/x"])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="cannot fetch"):
        fetch(url)


def test_addresses_may_have_any_letters() -> None:
    with served(files({"/k%C3%A4tzchen%20a.png": CONTENT})) as place:
        assert fetch(f"{place}/kätzchen a.png") == CONTENT
        assert fetch(f"{place}/k%C3%A4tzchen%20a.png") == CONTENT


def test_credentials_reach_their_host_and_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    download = module._download

    def watched(request: module.urllib.request.Request, *more: object) -> bytes:
        seen.append(request.get_header("Authorization"))
        assert "secret" not in request.full_url
        return download(request, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_download", watched)
    with served(files({"/cat.png": CONTENT})) as place:
        host = place.removeprefix("http://")
        assert fetch(f"http://me:s%40cret@{host}/cat.png?token=t0ken") == CONTENT
        for url in (f"http://me:secret@{host}/dog.png?token=t0ken", "http://me:secret@127.0.0.1:1/?token=t0ken"):
            with pytest.raises(InputError) as caught:
                fetch(url)
            assert "secret" not in str(caught.value)
            assert "t0ken" not in str(caught.value)
    assert seen[0] == "Basic " + base64.b64encode(b"me:s@cret").decode()
    with pytest.raises(InputError) as caught:
        fetch("http://me:secret@127.0.0.1/x?token=t0ken", offline=True)
    assert "secret" not in str(caught.value)
