"""Pictures from the web."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from dcrafter.errors import InputError

MAX_BYTES = 50_000_000
TIMEOUT = 30.0  # seconds without a byte


def is_url(source: str) -> bool:
    return re.match(r"https?://", source, re.IGNORECASE) is not None


def public_name(picture: str) -> str:
    """How a result calls its picture: a file by its name, an address without what may be secret in it."""
    if not is_url(picture):
        return Path(picture).name or picture
    parts = urlsplit(picture)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def fetch(url: str, *, offline: bool = False, max_bytes: int = MAX_BYTES) -> bytes:
    """What an http or https address holds. Raises InputError where it cannot be had, or is too large."""
    if offline:
        raise InputError(f"{url} is on the web, and --offline downloads nothing", "Save the picture and give its path")
    request = urllib.request.Request(url, headers={"User-Agent": "dcrafter", "Accept": "image/*"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            content: bytes = response.read(max_bytes + 1)
    except (OSError, HTTPException, ValueError) as error:  # OSError: refused, timed out, or a status such as 404
        reason = f"{error.code} {error.reason}" if isinstance(error, urllib.error.HTTPError) else error
        raise InputError(f"cannot fetch {url} ({reason})", "Save the picture and give its path") from error
    if len(content) > max_bytes:
        raise InputError(f"{url} has more than {max_bytes / 1e6:g} MB", "Save the picture and give its path")
    return content
