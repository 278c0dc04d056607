from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.utils._xet import XetFileData
from weights.hub_server import COMMIT, Corrupt, Cut, Fault, Hold, Hub, Status, Whole

from dcrafter.errors import WeightsError
from dcrafter.weights.cache import Progress
from dcrafter.weights.download import TRIES, Remote, _may_have_token, download, look_up

REPOSITORY, FILE = "someone/model", "model.ckpt"
CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(server: Hub) -> Hub:
    server.files[f"{REPOSITORY}/{FILE}"] = CONTENT
    return server


@pytest.fixture
def naps() -> list[float]:
    """How long the code under test would have slept; it does not."""
    return []


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "model.part"


def fetch(part: Path, naps: list[float]) -> list[Progress]:
    return list(download(look_up(REPOSITORY, FILE, sleep=naps.append), part, sleep=naps.append))


def ranges(hub: Hub) -> list[str | None]:
    return [each.range for each in hub.asked("GET", "/storage/")]


def test_metadata(hub: Hub) -> None:
    found = look_up(REPOSITORY, FILE)
    url = f"{hub.endpoint}/{REPOSITORY}/resolve/main/{FILE}"
    assert found == Remote(REPOSITORY, FILE, url, len(CONTENT), SHA256, SHA256, COMMIT, None, etag=SHA256)
    hub.plain_etag = "../../etc/passwd"
    strange = look_up(REPOSITORY, FILE)
    assert strange.sha256 is None
    assert "/" not in strange.key
    look_up(REPOSITORY, FILE, revision="v1", endpoint=hub.endpoint)
    assert hub.requests[-1].path == f"/{REPOSITORY}/resolve/v1/{FILE}"


def test_a_whole_download(hub: Hub, part: Path, naps: list[float]) -> None:
    seen = fetch(part, naps)
    assert part.read_bytes() == CONTENT
    assert (seen[0], seen[-1]) == (
        Progress("downloading", 0, len(CONTENT)),
        Progress("downloading", len(CONTENT), len(CONTENT)),
    )
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert naps == []


def seeded_cuts() -> Iterable[int]:
    return [0, 1, len(CONTENT) - 1, *random.Random(1).sample(range(len(CONTENT)), 9)]


@pytest.mark.parametrize("at", seeded_cuts())
@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_is_gone_on_from(hub: Hub, part: Path, naps: list[float], at: int, reset: bool) -> None:
    hub.faults.append(Cut(at, reset))
    fetch(part, naps)
    assert part.read_bytes() == CONTENT
    first, *more = ranges(hub)
    assert first is None
    assert len(more) == len(naps) == 1
    come = int((more[0] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    assert come <= at  # a reset may lose what was under way
    if not reset:
        assert come == at


@pytest.mark.parametrize("at", seeded_cuts())
def test_a_later_run_goes_on_and_hashes_the_whole(hub: Hub, part: Path, naps: list[float], at: int) -> None:
    part.write_bytes(CONTENT[:at])
    seen = fetch(part, naps)
    assert part.read_bytes() == CONTENT
    assert ranges(hub) == [f"bytes={at}-" if at else None]
    assert {each.phase for each in seen} == ({"checking", "downloading"} if at else {"downloading"})


def test_a_complete_part_is_only_checked(hub: Hub, part: Path, naps: list[float]) -> None:
    part.write_bytes(CONTENT)
    fetch(part, naps)
    assert ranges(hub) == []


@pytest.mark.parametrize("damage", [CONTENT[:1000] + b"x", b"x" + CONTENT[1:], CONTENT + b"x"])
def test_a_damaged_part_is_fetched_again(hub: Hub, part: Path, naps: list[float], damage: bytes) -> None:
    part.write_bytes(damage)
    fetch(part, naps)
    assert part.read_bytes() == CONTENT


def test_a_changed_bit_is_noticed_and_fetched_again(
    hub: Hub, part: Path, naps: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults.append(Corrupt(123_456))
    fetch(part, naps)
    assert part.read_bytes() == CONTENT
    assert "model.ckpt came with the SHA-256" in caplog.text
    assert SHA256[:12] in caplog.text


def test_a_wrong_hash_leaves_nothing(hub: Hub, part: Path, naps: list[float]) -> None:
    hub.sha256 = "0" * 64
    with pytest.raises(WeightsError, match=f"{SHA256[:12]}…, not 000000000000….*twice.*mirror"):
        fetch(part, naps)
    assert not part.exists()


def test_without_a_hash_that_is_said(hub: Hub, part: Path, naps: list[float], caplog: pytest.LogCaptureFixture) -> None:
    hub.plain_etag = "abc"
    fetch(part, naps)
    assert part.read_bytes() == CONTENT
    assert "only its size was checked" in caplog.text


def test_more_than_was_announced_is_not_kept(hub: Hub, part: Path, naps: list[float]) -> None:
    hub.plain_etag, hub.size, hub.gives_length = "abc", str(len(CONTENT) - 1), False
    with pytest.raises(WeightsError, match=r"model\.ckpt came with more than its 299,999 bytes, twice"):
        fetch(part, naps)
    assert not part.exists()


def test_a_server_without_ranges(hub: Hub, part: Path, naps: list[float]) -> None:
    hub.faults.extend([Cut(100_000), Whole()])
    fetch(part, naps)
    assert part.read_bytes() == CONTENT


def test_a_server_that_never_gets_further_is_given_up(hub: Hub, part: Path, naps: list[float]) -> None:
    hub.faults.extend([Cut(100_000), *[Status(416), Cut(100_000)] * TRIES])
    with pytest.raises(WeightsError, match="the connection ends too early"):
        fetch(part, naps)


@pytest.mark.parametrize("fault", [Cut(100_000), Status(500), Status(502), Status(429), Status(408)])
def test_patience_ends(hub: Hub, part: Path, naps: list[float], fault: Fault) -> None:
    part.write_bytes(CONTENT[:100_000])
    hub.faults.extend([fault] * TRIES)
    with pytest.raises(WeightsError, match="33 % of it have come, the same command goes on from there"):
        fetch(part, naps)
    assert naps == [1, 2, 4, 8, 16]
    assert part.read_bytes() == CONTENT[:100_000]
    fetch(part, naps)
    assert part.read_bytes() == CONTENT


def test_progress_renews_patience(hub: Hub, part: Path, naps: list[float]) -> None:
    hub.faults.extend([Cut(at) for at in range(0, 20_000, 1_000)])
    fetch(part, naps)
    assert part.read_bytes() == CONTENT
    assert naps == [1.0] * 20


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Retry-After": "17"}, 17),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1),  # is over
        ({"Retry-After": "soon"}, 1),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 55),
    ],
)
def test_the_server_says_how_long_to_wait(
    hub: Hub, part: Path, naps: list[float], headers: dict[str, str], pause: float
) -> None:
    hub.faults.append(Status(429, headers))
    hub.head_faults.append(Status(503, {"Retry-After": "5"}))
    fetch(part, naps)
    assert naps == [5, pause]
    assert part.read_bytes() == CONTENT


def test_an_hour_is_too_long_to_wait(hub: Hub, part: Path, naps: list[float]) -> None:
    hub.faults.append(Status(429, {"Retry-After": "3600"}))
    with pytest.raises(WeightsError, match="asks to wait 3600 s"):
        fetch(part, naps)
    assert naps == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Status(404, {"X-Error-Code": "RepoNotFound"}), "no such repository.*hf auth login"),
        (Status(401), "no such repository.*HF_TOKEN"),
        (Status(404, {"X-Error-Code": "EntryNotFound"}), "no such file"),
        (Status(404, {"X-Error-Code": "RevisionNotFound"}), "no such revision.*Leave it out"),
        (Status(403, {"X-Error-Code": "GatedRepo"}), "does not give it to you.*Ask for access"),
        (Status(403), "does not give it to you"),
        (Status(418), "answers 418"),
        (Status(200), "does not answer as a Hugging Face hub"),
    ],
)
def test_refusals_are_final_and_say_what_to_do(hub: Hub, naps: list[float], fault: Status, said: str) -> None:
    hub.head_faults.append(fault)
    with pytest.raises(WeightsError, match=said):
        look_up(REPOSITORY, FILE, sleep=naps.append)
    assert naps == []


def test_an_access_that_ends_in_the_middle(hub: Hub, part: Path, naps: list[float]) -> None:
    hub.faults.extend([Cut(200_000), Status(403)])
    with pytest.raises(WeightsError, match="does not give it to you; 66 % of it have come"):
        fetch(part, naps)
    assert part.read_bytes() == CONTENT[:200_000]


def test_no_network(hub: Hub, naps: list[float]) -> None:
    with pytest.raises(WeightsError, match=r"cannot download model\.ckpt of someone/model"):
        look_up(REPOSITORY, FILE, endpoint="http://127.0.0.1:1", sleep=naps.append)
    assert naps == [1, 2]
    with pytest.raises(WeightsError, match="cannot download"):
        look_up(REPOSITORY, FILE, endpoint="nonsense", sleep=naps.append)
    assert naps == [1, 2]


def test_offline_mode(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        look_up(REPOSITORY, FILE)


@pytest.fixture
def trusted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub of these tests is as good as one behind https."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("dcrafter.weights.download._may_have_token", lambda url: url.startswith(hub.endpoint))
    return hub


def authorizations(hub: Hub) -> set[str | None]:
    return {each.authorization for each in hub.requests}


def test_a_token_stays_here_unless_it_is_asked_for(trusted: Hub, part: Path, naps: list[float]) -> None:
    fetch(part, naps)
    assert authorizations(trusted) == {None}


def test_a_token_that_is_asked_for_goes_to_the_hub_and_no_further(trusted: Hub, part: Path, naps: list[float]) -> None:
    trusted.head_faults.append(Status(401, {"X-Error-Code": "GatedRepo"}))
    fetch(part, naps)
    assert [each.authorization for each in trusted.asked("HEAD", "/")] == [None, "Bearer hf_secret"]
    assert {each.authorization for each in trusted.asked("GET", f"/{REPOSITORY}")} == {"Bearer hf_secret"}
    assert {each.authorization for each in trusted.asked("GET", "/storage/")} == {None}
    assert naps == []


def test_a_mirror_that_asks_for_the_token_does_not_get_it(
    hub: Hub, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.head_faults.append(Status(401))
    with pytest.raises(WeightsError, match="no such repository"):
        look_up(REPOSITORY, FILE, endpoint=hub.endpoint, sleep=naps.append)
    assert authorizations(hub) == {None}


@pytest.mark.parametrize(
    ("configured", "url", "may"),
    [
        ("", "https://huggingface.co/a/b", True),
        ("", "http://huggingface.co/a/b", False),
        ("", "https://mirror.example/a/b", False),
        ("", "https://huggingface.co.mirror.example/a/b", False),
        ("", "https://user@huggingface.co/a/b", False),
        ("https://hub.example", "https://hub.example/a/b", True),
        ("https://hub.example", "https://huggingface.co/a/b", False),
        ("http://hub.example", "http://hub.example/a/b", False),
    ],
)
def test_who_may_have_the_token(configured: str, url: str, may: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", configured)
    assert _may_have_token(url) == may


def test_a_host_that_a_xet_header_names_gets_no_token(
    trusted: Hub, part: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**given: object) -> None:
        raise AssertionError(given)

    monkeypatch.setattr("huggingface_hub.utils._xet.refresh_xet_connection_info", refuse)
    trusted.head_faults.append(Status(401, {"X-Error-Code": "GatedRepo"}))
    xet = XetFileData("0" * 64, "https://elsewhere.example/token")
    list(download(replace(look_up(REPOSITORY, FILE), xet=xet), part, sleep=naps.append))
    assert part.read_bytes() == CONTENT  # over plain HTTP


def test_a_hash_in_capitals_is_one(hub: Hub, part: Path, naps: list[float]) -> None:
    hub.sha256 = SHA256.upper()
    assert look_up(REPOSITORY, FILE).sha256 == SHA256
    hub.faults.append(Corrupt(7))
    fetch(part, naps)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("size", ["-5", "0", "many", "1" * 30])
def test_sizes_that_no_file_has(hub: Hub, naps: list[float], size: str) -> None:
    hub.size = size
    with pytest.raises(WeightsError, match="does not answer as a Hugging Face hub does"):
        look_up(REPOSITORY, FILE, sleep=naps.append)


def test_a_file_without_a_hash_that_changes_is_not_mixed(hub: Hub, part: Path, naps: list[float]) -> None:
    """The first part comes of one file, and the server then has another of the same size."""
    hub.plain_etag = "one"
    remote = look_up(REPOSITORY, FILE)
    part.write_bytes(CONTENT[:100_000])
    hub.plain_etag, hub.files[f"{REPOSITORY}/{FILE}"] = "two", CONTENT[::-1]
    with pytest.raises(WeightsError, match="has changed on the hub"):
        list(download(remote, part, sleep=naps.append))
    assert CONTENT[:100_000] not in part.read_bytes()
    part.write_bytes(CONTENT[:100_000])
    hub.plain_etag, hub.files[f"{REPOSITORY}/{FILE}"] = "one", CONTENT
    list(download(remote, part, sleep=naps.append))
    assert part.read_bytes() == CONTENT
    assert ranges(hub)[-1] == "bytes=100000-"


PORTAL = b"<html><head><title>Hotel</title><script>evil()</script></head><body>Welcome!\x1b[2J Room number?</body>"


def test_a_captive_portal_in_place_of_the_hub(hub: Hub, naps: list[float]) -> None:
    hub.portal = PORTAL
    with pytest.raises(WeightsError) as caught:
        look_up(REPOSITORY, FILE, sleep=naps.append)
    host = hub.endpoint.removeprefix("http://")
    assert f"{host} does not answer as a Hugging Face hub does: it sends text/html" in caught.value.message
    assert "“Hotel Welcome! [2J Room number?”" in caught.value.message
    assert "Log in to the network" in caught.value.advice


@pytest.mark.parametrize("kind", ["text/html", "text/plain"])
def test_a_captive_portal_in_place_of_the_file(hub: Hub, part: Path, naps: list[float], kind: str) -> None:
    remote = look_up(REPOSITORY, FILE)
    part.write_bytes(CONTENT[:1000])
    hub.portal, hub.portal_type = PORTAL, kind
    with pytest.raises(WeightsError, match=rf"127\.0\.0\.1 sends {kind} that begins “Hotel Welcome!.*model\.ckpt"):
        list(download(remote, part, sleep=naps.append))
    assert part.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(("status", "kind"), [(511, "text/plain"), (403, "text/html"), (404, "text/html")])
def test_a_portal_that_refuses(hub: Hub, part: Path, naps: list[float], status: int, kind: str) -> None:
    remote = look_up(REPOSITORY, FILE)
    hub.portal = "Gäste &amp; Zürich".encode("latin-1")
    hub.portal_status, hub.portal_type = status, f"{kind}; charset=latin-1"
    words = f"sends {kind} that begins “Gäste & Zürich”"
    with pytest.raises(WeightsError, match=f"as a Hugging Face hub does: it {words}"):
        look_up(REPOSITORY, FILE, sleep=naps.append)
    with pytest.raises(WeightsError, match=f"{words} in place of model"):
        list(download(remote, part, sleep=naps.append))
    assert (naps, part.read_bytes()) == ([], b"")


def test_a_short_answer_in_place_of_the_file(hub: Hub, part: Path, naps: list[float]) -> None:
    remote = look_up(REPOSITORY, FILE)
    hub.portal, hub.portal_type = b"{}", "application/json; charset=hex"
    with pytest.raises(WeightsError, match=r"sends application/json that begins “\{\}” in place of model"):
        list(download(remote, part, sleep=naps.append))
    assert naps == []


def test_a_proxy(hub: Hub, part: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", hub.endpoint)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    huggingface_hub.close_session()  # a session reads the environment when it begins
    fetch(part, naps)
    huggingface_hub.close_session()
    assert part.read_bytes() == CONTENT


def test_a_slow_trickle(hub: Hub, part: Path, naps: list[float]) -> None:
    hub.piece = 97
    fetch(part, naps)
    assert part.read_bytes() == CONTENT
    assert naps == []


def test_silence_is_a_cut(hub: Hub, part: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.faults.append(Hold(150_000))
    fetch(part, naps)
    assert part.read_bytes() == CONTENT
    assert len(naps) == 1


def test_a_full_disk(hub: Hub, part: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcrafter.weights.download.open_own", lambda *_: Path("/dev/full").open("ab", buffering=0))  # noqa: SIM115
    with pytest.raises(WeightsError, match=r"No space left on device.*GB are free.*DCRAFTER_CACHE_DIR"):
        fetch(part, naps)


def test_a_link_in_the_place_of_a_part_is_not_followed(hub: Hub, part: Path, naps: list[float], tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    part.symlink_to(tmp_path / "letter")
    fetch(part, naps)
    assert (tmp_path / "letter").read_text() == "dear"
    assert not part.is_symlink()
    assert part.read_bytes() == CONTENT


def test_an_interrupt_keeps_what_has_come(hub: Hub, part: Path, naps: list[float]) -> None:
    steps = download(look_up(REPOSITORY, FILE), part)
    for step in steps:
        if step.done >= 100_000:
            break
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt)
    assert part.read_bytes() == CONTENT[: part.stat().st_size]
    assert part.stat().st_size >= 100_000
    fetch(part, naps)
    assert part.read_bytes() == CONTENT


class FakeXet:
    """In place of the content-addressed storage's session."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.starts: list[int] = []

    def new_download_stream_group(self, **_: object) -> FakeXet:
        return self

    def __enter__(self) -> FakeXet:
        return self

    def __exit__(self, *_: object) -> None: ...

    def download_stream(self, file: object, start: int) -> Iterable[bytes]:
        self.starts.append(start)
        end = len(CONTENT) if self.fails_at is None else self.fails_at
        for i in range(start, end, 10_000):
            yield CONTENT[i : min(i + 10_000, end)]
        if self.fails_at is not None:
            raise RuntimeError("no reconstruction")


@pytest.mark.parametrize("fails_at", [None, 0, 150_000])
def test_xet_where_there_is_one(
    hub: Hub, part: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch, fails_at: int | None
) -> None:
    session = FakeXet(fails_at)
    connection = SimpleNamespace(endpoint="e", access_token="t", expiration_unix_epoch=1)
    monkeypatch.setattr("huggingface_hub.utils._xet.get_xet_session", lambda: session)
    monkeypatch.setattr("huggingface_hub.utils._xet.refresh_xet_connection_info", lambda **_: connection)
    remote = replace(look_up(REPOSITORY, FILE), xet=XetFileData("0" * 64, "http://127.0.0.1:1/token"))
    part.write_bytes(CONTENT[:100_000] if fails_at else b"")
    list(download(remote, part, sleep=naps.append))
    assert part.read_bytes() == CONTENT
    assert session.starts == [100_000 if fails_at else 0]
    assert ranges(hub) == {None: [], 0: [None], 150_000: ["bytes=150000-"]}[fails_at]
