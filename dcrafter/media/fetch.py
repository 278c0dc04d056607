"""Images from the web."""

from __future__ import annotations

import base64
import hashlib
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage, InvalidURL
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlsplit

from dcrafter.errors import InputError
from dcrafter.text import error_text

MAX_BYTES = 50_000_000
TIMEOUT = 30.0  # seconds without a byte
DEADLINE = 120.0  # seconds for all of an image
ADVICE = "Save the image and give its path"
_CHUNK = 2**16


def is_url(source: str) -> bool:
    """True for http and https addresses."""
    return re.match(r"https?://", source, re.IGNORECASE) is not None


def public_name(image: str) -> str:
    """The name of an image for messages and results: a file's name, or an address without credentials and query."""
    if not is_url(image):
        return Path(image).name or image
    scheme, _, rest = re.split(r"[?#]", image, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def stored_name(url: str) -> str:
    """An address as records keep it: what may be secret in it is replaced by a hash, so that addresses still differ."""
    name = public_name(url)
    return name if name == url else f"{name}#{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def url_path(url: str) -> str:
    """The path of an address, unquoted, without its query; for an address that is not valid too."""
    return unquote(public_name(url).partition("://")[2].partition("/")[2])


def fetch(url: str, *, offline: bool = False, max_bytes: int = MAX_BYTES, deadline: float = DEADLINE) -> bytes:
    """Download an image.

    Credentials in the address (`https://user:password@host/…`) are sent to its host only, and appear in no message.

    Args:
        url: an http or https address; redirects to other schemes are refused.
        offline: refuse.
        max_bytes: size limit.
        deadline: seconds for everything, name resolution included.

    Raises:
        InputError: it cannot be had, is incomplete or too large.
    """
    name = public_name(url)
    if offline:
        raise InputError(f"{name} is on the web, and --offline downloads nothing", ADVICE)
    try:
        content = _within(deadline, lambda: _download(_request(url), max_bytes, time.monotonic() + deadline))
    except (OSError, HTTPException, ValueError) as error:  # OSError: refused, timed out, or a status such as 404
        raise InputError(f"cannot fetch {name} ({_reason(error)})", ADVICE) from error
    if len(content) > max_bytes:
        raise InputError(f"{name} has more than {max_bytes / 1e6:g} MB", ADVICE)
    return content


def _within(seconds: float, work: Callable[[], bytes]) -> bytes:
    """Run `work` in a thread, which is left behind after so many seconds: resolving and headers have no deadline."""
    outcome: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(work())
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, Exception):
        raise result
    return result


def _request(url: str) -> urllib.request.Request:
    """A request for an address as people write it: with credentials, and characters that are not ASCII."""
    parts = urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    if not host.isascii():
        host = host.encode("idna").decode()
    path, query = (quote(part, safe="/%:=&?~+!$,;'@()*[]") for part in (parts.path, parts.query))
    plain = parts._replace(netloc=host, path=path, query=query, fragment="").geturl()
    request = urllib.request.Request(plain, headers={"User-Agent": "dcrafter", "Accept": "image/*"})
    if credentials:
        user, _, password = credentials.partition(":")
        secret = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return request


class _WebOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not is_url(newurl) or (req.type == "https" and not newurl.lower().startswith("https:")):
            fp.close()
            raise InvalidURL(f"it redirects to {public_name(newurl) if is_url(newurl) else newurl.partition(':')[0]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(request: urllib.request.Request, max_bytes: int, end: float) -> bytes:
    """The body of a response, up to `max_bytes` + 1. Raises OSError, HTTPException."""
    try:
        opened = urllib.request.build_opener(_WebOnly).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
    with opened as response:
        length = response.headers.get("Content-Length", "")
        content = bytearray()
        while len(content) <= max_bytes and (chunk := response.read1(_CHUNK)):
            content += chunk
            if time.monotonic() > end:
                raise TimeoutError
    if len(content) <= max_bytes and length.isdecimal() and len(content) < int(length):
        raise ConnectionError(f"the connection ended after {len(content)} of {length} bytes")
    return bytes(content[: max_bytes + 1])


def _reason(error: Exception) -> str:
    """Why a download failed, in plain words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "it takes too long"
    return error_text(cause) if isinstance(cause, Exception) else str(cause)
