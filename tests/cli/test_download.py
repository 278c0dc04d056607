from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.running import Run
from weights.conftest import server  # noqa: F401
from weights.hub_server import Hub, Status
from weights.models import CKPT, as_ckpt, small_512

from dcrafter.weights import hub


def files(folder: Path) -> list[str]:
    """All that is in a folder, but for towers, which have names of their own."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "towers" not in path.parts)


@pytest.fixture
def cache(server: Hub, golden: Path, tmp_path: Path, dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """Our cache, which does not exist yet; the hub beside it has the keys of a 512."""
    server.files[CKPT] = as_ckpt(small_512(golden))
    monkeypatch.setenv("DCRAFTER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "EMBEDDED", tmp_path / "none")
    return tmp_path / "cache"


def test_the_path_is_the_result(dcrafter: Run, cache: Path) -> None:
    first = dcrafter("download", "512")
    path = str(cache / "512.safetensors")
    assert (first.status, first.lines) == (0, [path])
    assert "512: converting" in first.stderr.splitlines()
    again = dcrafter("download", "512", "-q", "--json")
    assert (again.status, again.stderr) == (0, "")
    assert json.loads(again.lines[0]) == {"model": "512", "path": path, "size": Path(path).stat().st_size}
    assert dcrafter("download", "--path", "512").lines == [path]
    assert dcrafter("download", "--path", "--all").lines == [path]
    assert files(cache) == ["512.safetensors"]


def test_another_folder(dcrafter: Run, cache: Path, tmp_path: Path) -> None:
    assert dcrafter("download", "512", "--cache-dir", "else").lines == [str(tmp_path / "else" / "512.safetensors")]
    assert not cache.exists()


def test_a_mirror(dcrafter: Run, cache: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert dcrafter("download", "512", "--endpoint", server.endpoint, "-q").status == 0


def test_the_list(dcrafter: Run, cache: Path) -> None:
    head, *rows = dcrafter("download", "--list").lines
    assert head.split() == ["MODEL", "SIZE", "PLACE", "USED", "WHERE"]
    names = ["256", "512", "1024", "512-interp", "cil-512", "cil-1024", "toon", "tiny"]
    assert [row.split()[0] for row in rows] == names
    assert rows[1].split() == ["512", "10.4", "GB", "not", "here", "Doubiiu/DynamiCrafter_512"]
    dcrafter("download", "512")
    row = dcrafter("download", "--list", "512").lines[1]
    assert row.endswith(str(cache / "512.safetensors"))
    facts = {each["model"]: each for each in map(json.loads, dcrafter("download", "--list", "--json").lines)}
    assert facts["256"] == {"model": "256", "here": False}
    assert facts["512"]["source"]["repository"] == "Doubiiu/DynamiCrafter_512"
    assert max(len(line) for line in (head, *rows)) <= 80


def test_a_dry_run_offline_asks_nobody(dcrafter: Run, cache: Path, server: Hub) -> None:  # noqa: F811
    for arguments in (("512",), ("--all",)):
        outcome = dcrafter("download", *arguments, "--dry-run", "--offline")
        assert outcome.status == 4
        assert "are not on this machine, and --offline was given" in outcome.stderr
    assert server.requests == []


def test_a_dry_run(dcrafter: Run, cache: Path, server: Hub) -> None:  # noqa: F811
    outcome = dcrafter("download", "512", "--dry-run", "--json")
    plan = json.loads(outcome.lines[0])
    assert plan["size"] == len(server.files[CKPT])
    assert plan["space"] == len(server.files[CKPT]) * 3 // 2
    assert f"512: {plan['size'] / 1e6:.1f} MB from {server.endpoint}/Doubiiu/DynamiCrafter_512/" in outcome.stderr
    assert not cache.exists()
    dcrafter("download", "512")
    assert "here already" in dcrafter("download", "512", "--dry-run").stderr


def test_verification(dcrafter: Run, cache: Path, server: Hub) -> None:  # noqa: F811
    dcrafter("download", "512")
    path = cache / "512.safetensors"
    assert dcrafter("download", "--verify").stderr.splitlines()[-1] == f"512: good, {path}"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    offline = dcrafter("download", "--verify", "--offline")
    assert (offline.status, offline.stderr.count("is damaged. Run the same without --offline")) == (4, 1)
    mended = dcrafter("download", "--verify", "--json")
    assert mended.status == 0
    assert f"512: DAMAGED, {path}" in mended.stderr
    assert json.loads(mended.lines[0])["good"] is False
    assert json.loads(dcrafter("download", "--verify", "512", "--json").lines[0])["good"] is True
    assert files(cache) == ["512.safetensors"]


def test_verification_goes_on_after_a_damaged_file(dcrafter: Run, cache: Path) -> None:
    cache.mkdir()
    for name in ("a", "b"):
        (cache / f"{name}.safetensors").write_bytes(b"x")
    (cache / "._512.safetensors").write_bytes(b"x")
    outcome = dcrafter("download", "--verify", "--json")
    assert outcome.status == 4
    assert [json.loads(line)["model"] for line in outcome.lines] == ["a", "b"]
    assert outcome.stderr.count("is damaged") == 2


def test_removal(dcrafter: Run, cache: Path) -> None:
    dcrafter("download", "512")
    assert "would be removed" in dcrafter("download", "--remove", "512", "--dry-run").stderr
    assert files(cache) == ["512.safetensors"]
    assert dcrafter("download", "--remove", "512").stderr.endswith("removed\n")
    assert files(cache) == []
    assert "nothing to remove" in dcrafter("download", "--remove", "512").stderr
    assert dcrafter("download", "--remove").status == 2
    assert dcrafter("download", "--remove", "../512").status == 2


@pytest.mark.slow
def test_an_import(dcrafter: Run, cache: Path, golden: Path) -> None:
    mine = golden / "dc512" / "model.safetensors"
    arguments = ("download", "--import", mine, "--model-config", mine.with_name("config.json"))
    assert dcrafter(*arguments, "--name", "mine").lines == [str(cache / "mine.safetensors")]
    *_, row, shared = dcrafter("download", "--list").lines
    assert (row.split()[0], shared.split()[0]) == ("mine", "towers")
    assert dcrafter("download", "--verify", "mine").stderr.endswith(f"mine: good, {cache / 'mine.safetensors'}\n")
    for name, status in (("mine", 2), ("512", 2), ("../mine", 2)):
        assert dcrafter(*arguments, "--name", name).status == status
    assert dcrafter(*arguments).status == 2
    unfit = dcrafter("download", "--import", mine, "--name", "other")
    assert (unfit.status, unfit.stderr.count("\n")) == (4, 2)  # what was assumed, and the error
    assert files(cache) == ["mine.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "no model is named. Try dcrafter download 512"),
        (["vast"], 2, "there is no model vast"),
        (["tiny"], 4, "not on the hub"),
        (["--list", "--verify"], 2, "one at a time"),
        (["512", "--name", "x"], 2, "--import"),
        (["256", "--variant", "fp16"], 2, "no variant fp16"),
        (["512", "--store", "int8"], 2, "--store"),
        (["512", "--offline"], 4, "Run dcrafter download 512 where there is a network"),
        (["--path", "512"], 4, "Fetch it with dcrafter download 512"),
        (["--verify", "512"], 4, "Fetch it with dcrafter download 512"),
        (["--path", "mine"], 4, "mine is not on this machine. See dcrafter download --list"),
    ],
)
def test_what_cannot_be(dcrafter: Run, cache: Path, arguments: list[str], status: int, said: str) -> None:
    outcome = dcrafter("download", *arguments)
    assert (outcome.status, outcome.stdout) == (status, b"")
    assert said in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_a_repository_that_is_gone(dcrafter: Run, cache: Path, server: Hub) -> None:  # noqa: F811
    server.head_faults.append(Status(404, {"X-Error-Code": "RepoNotFound"}))
    outcome = dcrafter("download", "512")
    assert outcome.status == 4
    assert "no such repository" in outcome.stderr
    assert "--checkpoint" in outcome.stderr
    assert files(cache) == []


def test_help_fits(dcrafter: Run) -> None:
    text = dcrafter("download", "--help").stdout.decode()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "--import" in text
