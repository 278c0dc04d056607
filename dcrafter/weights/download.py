"""Downloads from the hub into a `.part` file that a later run resumes, checked by their SHA-256.

huggingface_hub gives the addresses, metadata, authentication, proxies and connections; its own download begins from
the start after every interruption and compares no hash.
"""

from __future__ import annotations

import email.utils
import hashlib
import html
import logging
import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status, parse_ratelimit_headers
from huggingface_hub.utils._runtime import is_xet_available
from huggingface_hub.utils._xet import XetFileData

from dcrafter.errors import WeightsError
from dcrafter.text import error_text
from dcrafter.weights.cache import Progress, hash_file, open_own, writing_to

TRIES = 6  # in a row, without a byte more than before
TRIES_TO_LOOK_UP = 3
LONGEST_WAIT = 300.0  # seconds that a server may ask for
MAX_SIZE = 10**12  # bytes; no model is as large
MAX_WORDS = 2_000  # bytes of an answer that is not the file's, and
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
MAX_FILES = 1_000  # of a repository that are looked at, and
MAX_LISTED = 12  # names of them in a message
ELSEWHERE = "A mirror can be named in HF_ENDPOINT; a copy from elsewhere goes by dcrafter animate --checkpoint FILE"
MAX_SHOWN = 80  # characters of it that are shown

logger = logging.getLogger(__name__)
Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Remote:
    """A file on the hub, at one moment. `key` names its content: the SHA-256 where the hub gives it, or an ETag's.

    `needs_token`: the hub gives it to those only who say who they are.
    """

    repository: str
    file: str
    url: str
    size: int
    sha256: str | None
    key: str
    commit: str
    xet: XetFileData | None
    etag: str = ""
    needs_token: bool = False


def look_up(
    repository: str,
    file: str,
    *,
    pattern: str = "",
    revision: str | None = None,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
) -> Remote:
    """Ask the hub about a file.

    Args:
        repository: "owner/name".
        file: a path in the repository.
        pattern: a regular expression of names that the file may have if it has this one no more.
        revision: a branch, tag or commit. None: main.
        endpoint: a mirror of the hub. None: $HF_ENDPOINT, or the hub itself.
        sleep: waits before another try.

    Raises:
        WeightsError: the hub does not have the file, or cannot be reached.
    """
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or None
    retries = _Retries(TRIES_TO_LOOK_UP, sleep)
    what = f"{file} of {repository}"
    needs_token = False
    while True:
        try:
            url = hf_hub_url(repository, file, revision=revision, endpoint=endpoint)
            found = get_hf_file_metadata(url, endpoint=endpoint, token=None if needs_token else False)
            break
        except RemoteEntryNotFoundError as error:
            listed = _listing(repository, revision, endpoint)
            others = [name for name in listed if re.fullmatch(pattern, name, re.IGNORECASE)] if pattern else []
            if not others:
                raise _no_such_file(what, listed) from error
            file, pattern = max(others, key=lambda name: (name.endswith(".safetensors"), name)), ""
        except _FAILURES as error:
            if isinstance(error, HfHubHTTPError) and _is_page(error.response):
                raise _no_hub(str(error.response.url)) from error
            is_refused = isinstance(error, HfHubHTTPError) and error.response.status_code == 401
            if is_refused and not needs_token and _may_have_token(url):
                needs_token = True
            else:
                retries.wait(error, what)
        except ValueError as error:  # a size that is no number
            raise _no_hub(url) from error
    if found.commit_hash is None or found.etag is None or found.size is None or not 0 < found.size < MAX_SIZE:
        raise _no_hub(found.location or url)
    etag = found.etag.lower()
    sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None
    key = sha256 or "etag-" + hashlib.sha256(found.etag.encode()).hexdigest()
    xet = found.xet_file_data
    return Remote(
        repository, file, url, found.size, sha256, key, found.commit_hash, xet, etag=found.etag, needs_token=needs_token
    )


def _listing(repository: str, revision: str | None, endpoint: str | None) -> list[str]:
    """The weight files of a repository; none where its listing cannot be had."""
    try:
        tree = HfApi(endpoint=endpoint, token=False).list_repo_tree(repository, revision=revision, recursive=True)
        names = [entry.path for entry in islice(tree, MAX_FILES)]
        return [name for name in names if name.endswith(WEIGHTS) and name.isprintable()]
    except (*_FAILURES, ValueError, KeyError, TypeError):
        return []


def _no_such_file(what: str, listed: list[str]) -> WeightsError:
    problem = f"cannot download {what}: the repository has no such file"
    if listed:
        problem += f"; it has {', '.join(listed[:MAX_LISTED])}" + (" and others" if len(listed) > MAX_LISTED else "")
    return WeightsError(problem, ELSEWHERE)


def _may_have_token(url: str) -> bool:
    """Whether the user's token may go there: to the configured hub, and encrypted."""
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or constants.HUGGINGFACE_CO_URL_HOME)
    to = urlsplit(url)
    return to.scheme == "https" and (to.scheme, to.netloc) == (hub.scheme, hub.netloc)


def _no_hub(url: str) -> WeightsError:
    """The error where something else answers in the hub's place, with what it says."""
    try:
        with get_session().stream("GET", url, timeout=constants.HF_HUB_ETAG_TIMEOUT) as response:
            content = _first_words(response)
    except Exception:  # the answer alone is what matters
        content = ""
    host = urlsplit(url).netloc
    return WeightsError(
        f"{host} does not answer as a Hugging Face hub does" + (f": it sends {content}" if content else ""),
        "Log in to the network in a browser if it asks for that, or check the mirror if you named one",
    )


def _is_page(response: httpx.Response) -> bool:
    """Whether an answer is a web page, as of a captive portal or a proxy, and none of the hub's that say why."""
    status = response.status_code
    is_html = response.headers.get("Content-Type", "").startswith("text/html")
    is_said = status in (401, 408, 429) or status >= 500 or "X-Error-Code" in response.headers
    return status == 511 or (is_html and not is_said)  # 511: the network asks for a login


def _first_words(response: httpx.Response) -> str:
    """What kind of thing an answer is, and its first words, tags left out."""
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    start = next(response.iter_bytes(MAX_WORDS), b"")
    try:
        page = start.decode(response.encoding or "utf-8", "replace")
    except (LookupError, ValueError):  # no encoding of text
        page = start.decode(errors="replace")
    text = html.unescape(re.sub(r"<(script|style)\b.*?(</\1>|\Z)|<[^>]*>?", " ", page, flags=re.DOTALL | re.IGNORECASE))
    words = "".join(char if char.isprintable() else " " for char in text).split()
    shown = " ".join(words)[:MAX_SHOWN]
    return f"{kind or 'something'} that begins “{shown}”" if shown else kind


def download(remote: Remote, part: Path, *, sleep: Sleep = time.sleep) -> Generator[Progress, None, None]:
    """Download a file into `part`, resuming from what is there, and compare it with the hub's size and SHA-256.

    Args:
        remote: what `look_up` found.
        part: where to write. It keeps what has arrived, unless the size or hash is wrong.
        sleep: waits before another try.

    Yields:
        Progress after every chunk.

    Raises:
        WeightsError: the download failed for good, or the size or hash is wrong twice.
    """
    for last_try in (False, True):
        digest = yield from _complete(remote, part, sleep)
        if part.stat().st_size > remote.size:
            reason = f"{remote.file} came with more than its {remote.size:,} bytes"
        elif remote.sha256 is None:
            logger.warning("%s gives no SHA-256 of %s: only its size was checked", remote.url, remote.file)
            return
        elif digest == remote.sha256:
            return
        else:
            reason = f"{remote.file} came with the SHA-256 {digest[:12]}…, not {remote.sha256[:12]}… as the hub has it"
        part.unlink()
        if not last_try:
            logger.warning("%s; fetching it again", reason)
    raise WeightsError(f"{reason}, twice", "The connection or the mirror changes files: try another one in HF_ENDPOINT")


def _complete(remote: Remote, part: Path, sleep: Sleep) -> Generator[Progress, None, str]:
    """Fetch what is missing; the SHA-256 of the whole is the generator's return value."""
    digest = hashlib.sha256()
    done = part.stat().st_size if part.exists() and not part.is_symlink() else 0
    if done > remote.size:
        part.unlink()
        done = 0
    if done:
        digest = yield from hash_file(part)
    best = done
    retries = _Retries(TRIES, sleep)
    sources = [_over_http]
    if remote.xet is not None and is_xet_available():
        sources.append(_over_xet)
    with writing_to(part.parent):
        file = open_own(part, "ab")
    with file:
        while done < remote.size:
            yield Progress("downloading", done, remote.size)
            error: Exception | None = None
            try:
                with closing(sources[-1](remote, done)) as chunks:
                    for chunk in chunks:
                        with writing_to(part.parent):
                            rest = memoryview(chunk)
                            while rest:  # where the disk is nearly full, less is written than given
                                rest = rest[file.write(rest) :]
                        digest.update(chunk)
                        done += len(chunk)
                        yield Progress("downloading", min(done, remote.size), remote.size)
                        if done > remote.size:
                            break
            except _StartAgainError:
                file.truncate(0)
                digest, done = hashlib.sha256(), 0
            except _FAILURES as failure:
                error = failure
            except _XetError as failure:
                logger.warning("%s; going on over plain HTTP", failure)
                sources.pop()
                continue
            if done < remote.size:
                if done > best:
                    best = done
                    retries.reset()
                progress = (
                    f"{100 * done // remote.size} % of it have come, the same command goes on from there"
                    if done
                    else ""
                )
                retries.wait(error, f"{remote.file} of {remote.repository}", progress)
        with writing_to(part.parent):
            os.fsync(file.fileno())
    return digest.hexdigest()


class _StartAgainError(Exception):
    """The server does not send the rest of a file alone."""


class _XetError(Exception):
    """The content-addressed way does not work here."""


_FINAL = (httpx.UnsupportedProtocol, httpx.InvalidURL, HFValidationError, OfflineModeIsEnabled)
_FAILURES = (httpx.HTTPError, *_FINAL)


def _over_http(remote: Remote, start: int) -> Generator[bytes, None, None]:
    """The bytes from `start` on. Each call asks the hub anew: its links to storage expire."""
    headers = build_hf_headers(token=None if remote.needs_token else False) | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if remote.sha256 is None:  # no hash will tell whether the file became another
            headers["If-Range"] = f'"{remote.etag}"'
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", remote.url, headers=headers, timeout=timeout) as response:
        etag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
        is_changed = remote.sha256 is None and etag not in ("", remote.etag)
        if _is_page(response) or not (is_changed or _has_its_size(response, remote)):
            raise WeightsError(
                f"{response.url.host} sends {_first_words(response) or 'nothing'} in place of {remote.file}",
                "Log in to the network in a browser if it asks for that, then run the same again",
            )
        if start and (response.status_code in (200, 416) or not _begins_at(start, response.headers)):
            raise _StartAgainError
        hf_raise_for_status(response)
        if is_changed:
            raise WeightsError(f"{remote.file} has changed on the hub meanwhile", "Run the same again")
        yield from response.iter_bytes()


def _has_its_size(response: httpx.Response, remote: Remote) -> bool:
    """Whether an answer with a whole file, if it says how long that is, gives the announced size."""
    says = response.status_code == 200 and "Content-Encoding" not in response.headers
    return not says or response.headers.get("Content-Length") in (None, str(remote.size))


def _begins_at(start: int, headers: Any) -> bool:
    """Whether what a server sends, if it says where that begins, begins there."""
    first = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return first is None or int(first[1]) == start


def _over_xet(remote: Remote, start: int) -> Generator[bytes, None, None]:
    """The bytes from `start` on, from the hub's content-addressed storage."""
    from hf_xet import XetFileInfo  # type: ignore[import-untyped]
    from huggingface_hub.utils._xet import get_xet_session, refresh_xet_connection_info, xet_headers_without_auth

    assert remote.xet is not None
    if remote.needs_token and not _may_have_token(remote.xet.refresh_route):
        raise _XetError(f"{urlsplit(remote.xet.refresh_route).netloc} is not the hub, and gets no token")
    headers = build_hf_headers(token=None if remote.needs_token else False)
    try:
        connection = refresh_xet_connection_info(file_data=remote.xet, headers=headers)
        session = get_xet_session()  # type: ignore[no-untyped-call]
        group = session.new_download_stream_group(
            endpoint=connection.endpoint,
            token=connection.access_token,
            token_expiry_unix_secs=connection.expiration_unix_epoch,
            token_refresh_url=remote.xet.refresh_route,
            token_refresh_headers=headers,
            custom_headers=xet_headers_without_auth(headers),
        )
        with group:
            chunks: Iterator[bytes] = group.download_stream(XetFileInfo(remote.xet.file_hash, remote.size), start=start)
            yield from chunks
    except Exception as error:  # its own, and those of the request for its token
        raise _XetError(f"Xet storage failed ({error_text(error)})") from error


# --- retries ---


class _Retries:
    """Counts failures in a row, and waits longer after each."""

    def __init__(self, tries: int, sleep: Sleep) -> None:
        self.tries, self.sleep = tries, sleep
        self.reset()

    def reset(self) -> None:
        self.failures = 0

    def wait(self, error: Exception | None, what: str, progress: str = "") -> None:
        """Sleep before the next try. Raises WeightsError where there is no use in another."""
        self.failures += 1
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        is_final = isinstance(
            error, httpx.UnsupportedProtocol | httpx.InvalidURL | HFValidationError | OfflineModeIsEnabled
        )
        is_final |= status not in (0, 408, 429) and status < 500
        pause = min(2.0 ** (self.failures - 1), 30.0)
        if isinstance(error, HfHubHTTPError):
            pause = max(pause, _retry_after(error.response.headers))
        if is_final or self.failures >= self.tries or pause > LONGEST_WAIT:
            _give_up(error, what, pause, progress)
        logger.info(
            "%s: trying again in %.0f s (%s)", what, pause, error_text(error) if error else "the connection ended"
        )
        self.sleep(pause)


def _retry_after(headers: Any) -> float:
    """Seconds that a response asks to wait: Retry-After, a number or a date, or the hub's own rate limit."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _give_up(error: Exception | None, what: str, pause: float, progress: str) -> NoReturn:
    """Raise the failure as an error that says what to do."""
    advice = ELSEWHERE
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, GatedRepoError) or status == 403:
        reason = "the hub does not give it to you"
        advice = "Ask for access on its page, then log in with `hf auth login` or set HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        reason, advice = "the repository has no such revision", "Leave it out for the newest, or check its name"
    elif isinstance(error, RemoteEntryNotFoundError):
        reason = "the repository has no such file"
    elif isinstance(error, RepositoryNotFoundError) or status == 401:
        reason = "there is no such repository, or only for those who may see it"
        advice = "Check HF_TOKEN or `hf auth login` if you need one. " + advice
    elif status == 429:
        reason, advice = f"the hub asks to wait {pause:.0f} s", "Try later, or log in with `hf auth login`"
    elif status:
        reason = f"the hub answers {status}"
    elif isinstance(error, OfflineModeIsEnabled):
        reason, advice = "HF_HUB_OFFLINE is set", "Unset it"
    elif error is None:
        reason = "the connection ends too early"
    else:
        reason = error_text(error)
    raise WeightsError(f"cannot download {what}: {reason}" + (f"; {progress}" if progress else ""), advice) from error
