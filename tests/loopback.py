"""A server of the tests' own on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers and content."""


@contextmanager
def served(answer: Callable[[str, bytes], Reply]) -> Iterator[str]:
    """The address of a server whose `answer` gets the path of each request, and what was posted."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = answer(self.path, posted)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def files(contents: dict[str, bytes]) -> Callable[[str, bytes], Reply]:
    """An answer that has files at paths such as /cat.png."""

    def answer(path: str, _: bytes) -> Reply:
        name = path.partition("?")[0]
        return (200, {}, contents[name]) if name in contents else (404, {}, b"")

    return answer
