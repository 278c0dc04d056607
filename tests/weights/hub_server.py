"""A hub on this machine: what huggingface_hub's real client needs of the protocol, with faults at chosen bytes."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "a" * 40
PIECE = 8_192


@dataclass(frozen=True)
class Cut:
    """The connection ends when byte number `at` of the file would be next."""

    at: int
    reset: bool = False  # with RST, not FIN


@dataclass(frozen=True)
class Status:
    """An answer without the file."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Corrupt:
    """One bit of byte number `at` is another."""

    at: int


@dataclass(frozen=True)
class Whole:
    """Ranges are ignored: the answer is 200 and the whole file."""


@dataclass(frozen=True)
class Hold:
    """The connection stays silent at byte number `at`, until `Hub.release` is set; `Hub.holding` is set meanwhile."""

    at: int


Fault = Cut | Status | Corrupt | Whole | Hold | None


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    range: str | None
    authorization: str | None


class Hub:
    """One hub with its storage on another host, as the real one has.

    `faults` are taken by requests to storage one by one, `head_faults` by those for metadata.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}  # by "owner/repository/file"
        self.faults: deque[Fault] = deque()
        self.head_faults: deque[Fault] = deque()
        self.sha256: str | None = None  # instead of the true one
        self.plain_etag: str | None = None  # of a file that is not in LFS
        self.size: str | None = None  # in the metadata, instead of the true one
        self.portal: bytes | None = None  # the page that answers every request,
        self.portal_status = 200
        self.portal_type = "text/html; charset=utf-8"
        self.gives_length = True  # of files
        self.listing = True  # whether repositories list their files
        self.piece = PIECE
        self.holding, self.release = threading.Event(), threading.Event()
        self.requests: list[Asked] = []
        self.endpoint = self.storage = ""

    def etag(self, content: bytes) -> str:
        return self.plain_etag or self.sha256 or hashlib.sha256(content).hexdigest()

    def asked(self, method: str, of: str) -> list[Asked]:
        """The requests with this method to addresses that begin with this."""
        return [each for each in self.requests if each.method == method and each.path.startswith(of)]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    servers = [_Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    hosts = ("127.0.0.1", "localhost")
    hub.endpoint, hub.storage = (f"http://{h}:{s.server_port}" for h, s in zip(hosts, servers, strict=True))
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None: ...  # clients go away


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        path = urlsplit(self.path).path  # a proxy is asked for the whole address
        hub.requests.append(Asked(self.command, path, self.headers["Range"], self.headers["Authorization"]))
        if hub.portal is not None:
            self._page(hub.portal)
            return
        if path.startswith("/storage/"):
            self._storage(hub.files[path.removeprefix("/storage/")])
            return
        fault = hub.head_faults.popleft() if self.command == "HEAD" and hub.head_faults else None
        if isinstance(fault, Status):
            self._send(fault.code, fault.headers)
            return
        if isinstance(fault, Cut):
            self._end(fault)
            return
        if path.startswith("/api/models/"):
            self._list(path.removeprefix("/api/models/").partition("/tree/")[0])
            return
        repository, _, rest = path.strip("/").partition("/resolve/")
        name = f"{repository}/{rest.partition('/')[2]}"
        if name not in hub.files:
            known = any(file.startswith(f"{repository}/") for file in hub.files)
            self._send(404, {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})
            return
        content = hub.files[name]
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{hub.etag(content)}"',
            "X-Linked-Size": hub.size or str(len(content)),
            "Location": f"{hub.storage}/storage/{name}",
        }
        self._send(302, headers)

    def _storage(self, content: bytes) -> None:
        hub = self.hub
        fault = hub.faults.popleft() if hub.faults else None
        if isinstance(fault, Status):
            self._send(fault.code, fault.headers)
            return
        start, headers, code = 0, {}, 200
        etag = f'"{hub.etag(content)}"'
        is_same = self.headers["If-Range"] in (None, etag)
        if (asked := self.headers["Range"]) and is_same and not isinstance(fault, Whole):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self._send(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            headers, code = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}, 206
        if isinstance(fault, Corrupt):
            content = content[: fault.at] + bytes([content[fault.at] ^ 1]) + content[fault.at + 1 :]
        self.send_response(code)
        if hub.gives_length:
            headers["Content-Length"] = str(len(content) - start)
        else:
            headers["Connection"] = "close"
        for name, value in (headers | {"ETag": etag}).items():
            self.send_header(name, value)
        self.end_headers()
        stop = max(fault.at, start) if isinstance(fault, Cut | Hold) else len(content)
        try:
            for i in range(start, stop, hub.piece):
                self.wfile.write(content[i : min(i + hub.piece, stop)])
            self.wfile.flush()
            if isinstance(fault, Hold):
                hub.holding.set()
                hub.release.wait()
                self.wfile.write(content[stop:])
        except OSError:  # the client went away
            self.close_connection = True
        if isinstance(fault, Cut):
            self._end(fault)

    def _list(self, repository: str) -> None:
        names = [name.removeprefix(f"{repository}/") for name in self.hub.files if name.startswith(f"{repository}/")]
        if not (names and self.hub.listing):
            self._send(404, {"X-Error-Code": "RepoNotFound"})
            return
        content = json.dumps([{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _page(self, content: bytes) -> None:
        self.send_response(self.hub.portal_status)
        self.send_header("Content-Type", self.hub.portal_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _send(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()

    def _end(self, cut: Cut) -> None:
        if cut.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: Any) -> None: ...
