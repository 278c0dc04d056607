from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import save
from weights.hub_server import COMMIT, Cut, Hold, Hub
from weights.models import CKPT, as_ckpt, small_512

from dcrafter.config import MODELS
from dcrafter.errors import UsageError, WeightsError
from dcrafter.weights import cache, hub, towers
from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint
from dcrafter.weights.hub import DownloadOptions, acquire

T = TypeVar("T")
FP16 = "Kijai/DynamiCrafter_pruned/dynamicrafter_1024_fp16_pruned.safetensors"
OPENCLIP = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K/open_clip_model.safetensors"
CHANGED = "model.ckpt of Doubiiu/DynamiCrafter_512 has changed since this version of dcrafter\n"
TOWERS = ("cond_stage_model.", "embedder.")


@pytest.fixture(scope="session")
def published(golden: Path) -> dict[str, torch.Tensor]:
    return small_512(golden)


@pytest.fixture(scope="session")
def ckpt(published: dict[str, torch.Tensor]) -> bytes:
    return as_ckpt(published)


@pytest.fixture
def folder(server: Hub, ckpt: bytes, published: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """Our cache, which does not exist yet; the hub beside it has a 512, a 1024 without towers, and towers."""
    server.files[CKPT] = ckpt
    half = {key: value.half() for key, value in published.items() if not key.startswith((*TOWERS, "scale_arr"))}
    server.files[FP16] = save(half)
    server.files[OPENCLIP] = save(openclip(published))
    return tmp_path / "cache"


def openclip(published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CLIP's towers of a published file as OpenCLIP's own file has them."""
    text, image = "cond_stage_model.model.", "embedder.model.visual."
    texts = {key.removeprefix(text): value for key, value in published.items() if key.startswith(text)}
    return texts | {f"visual.{key.removeprefix(image)}": value for key, value in published.items() if image in key}


def run(steps: Generator[Any, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def files(folder: Path) -> list[str]:
    """All that is in a folder, but for towers, which have names of their own."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "towers" not in path.parts)


def in_hugging_faces_cache(tmp_path: Path, content: bytes) -> Path:
    repository = tmp_path / "huggingface" / "hub" / "models--Doubiiu--DynamiCrafter_512"
    blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
    link = repository / "snapshots" / COMMIT / "model.ckpt"
    for path in (blob, link, repository / "refs" / "main"):
        path.parent.mkdir(parents=True)
    blob.write_bytes(content)
    link.symlink_to(blob)
    (repository / "refs" / "main").write_text(COMMIT)
    return link


# --- names ---


def test_our_cache_comes_before_hugging_faces(folder: Path, tmp_path: Path) -> None:
    assert hub.find("512") is None
    theirs = in_hugging_faces_cache(tmp_path, b"theirs")
    assert hub.find("512") == hub.fetch("512") == theirs
    folder.mkdir()
    (folder / "512.safetensors").touch()
    assert hub.find("512") == hub.fetch("512") == folder / "512.safetensors"


def test_auto_is_the_best_model_here_that_fits_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.setattr(hub, "EMBEDDED", folder / "none")
    with pytest.raises(WeightsError, match="dcrafter download 512-interp"):
        hub.choose("auto", "loop")
    monkeypatch.setattr(hub, "EMBEDDED", folder / "tiny")
    (folder / "tiny").touch()
    assert hub.choose("auto", "animate") == "tiny"
    (folder / "256.safetensors").touch()
    assert hub.choose("auto", "animate") == "256"
    (folder / "512-interp.safetensors").touch()
    assert hub.choose("auto", "animate") == "256"
    assert hub.choose("auto", "loop") == "512-interp"
    (folder / "1024.safetensors").touch()
    assert hub.choose("auto", "animate") == "1024"
    with pytest.raises(UsageError, match="does not loop"):
        hub.choose("256", "loop")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a\\b", "x" * 65, "/etc/passwd", "a\nb"])
def test_names_that_are_paths_are_refused(folder: Path, name: str) -> None:
    for use in (hub.find, hub.fetch, lambda name: hub.choose(name, "animate"), lambda name: cache.remove(folder, name)):
        with pytest.raises(UsageError, match="no name for a model"):
            use(name)  # type: ignore[operator]


def test_unknown_names(folder: Path) -> None:
    with pytest.raises(UsageError, match="there is no model vast"):
        hub.choose("vast", "animate")
    with pytest.raises(UsageError, match="there is no model vast"):
        hub.fetch("vast")
    with pytest.raises(UsageError, match=r"512 has no variant bf16.*512 fp16, 1024 fp16, 512-interp fp16"):
        run(acquire("512", DownloadOptions(variant="bf16")))


# --- download and conversion ---


def assert_good(folder: Path, published: dict[str, torch.Tensor]) -> None:
    """One whole file of ours, and nothing else."""
    assert files(folder) == ["512.safetensors"]
    assert run(cache.is_intact(folder / "512.safetensors"))
    opened = open_checkpoint(folder / "512.safetensors")
    assert opened.config == MODELS["512"]
    key = "cond_stage_model.model.ln_final.bias"
    assert torch.equal(opened.tensors["text_encoder.ln_final.bias"], published[key].half())


def test_fetch(server: Hub, folder: Path, published: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture) -> None:
    path = hub.fetch("512")
    assert path == folder / "512.safetensors"
    assert_good(folder, published)
    assert "the model 512 is not on this machine yet: 10.4 GB to download (Doubiiu/DynamiCrafter_512)" in caplog.text
    source = cache.source_of(path)
    assert source == {
        "repository": "Doubiiu/DynamiCrafter_512",
        "file": "model.ckpt",
        "variant": None,
        "commit": COMMIT,
        "revision": "main",
        "sha256": hashlib.sha256(server.files[CKPT]).hexdigest(),
        "types": ["float32"],
        "store": None,
    }
    count = len(server.requests)
    assert hub.fetch("512") == hub.fetch("512", offline=True) == path
    assert len(server.requests) == count


def test_leftovers_are_not_kept(folder: Path) -> None:
    tensors = open_checkpoint(hub.fetch("512")).tensors
    assert {key.split(".")[0] for key in tensors} == {
        "unet",
        "autoencoder",
        "text_encoder",
        "image_encoder",
        "projector",
    }


def test_a_file_in_hugging_faces_cache_is_used_and_left(
    server: Hub, folder: Path, tmp_path: Path, ckpt: bytes, published: dict[str, torch.Tensor]
) -> None:
    theirs = in_hugging_faces_cache(tmp_path, ckpt)
    assert hub.fetch("512") == theirs
    assert not folder.exists()
    run(acquire("512", DownloadOptions(store="float16")))  # in so many words
    assert_good(folder, published)
    assert theirs.read_bytes() == ckpt
    assert server.requests == []


@pytest.mark.parametrize(("store", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_another_width_replaces_what_is_here(server: Hub, folder: Path, store: str, dtype: torch.dtype) -> None:
    hub.fetch("512")
    path = run(acquire("512", DownloadOptions(store=store)))
    assert {tensor.dtype for tensor in open_checkpoint(path).tensors.values()} == {dtype}
    assert files(folder) == ["512.safetensors"]
    count = len(server.requests)
    assert run(acquire("512", DownloadOptions(store=store))) == run(acquire("512")) == path
    assert len(server.requests) == count


def test_the_original_is_kept_if_wanted(server: Hub, folder: Path, ckpt: bytes) -> None:
    run(acquire("512", DownloadOptions(keep=True)))
    original = folder / "downloads" / "512" / f"{hashlib.sha256(ckpt).hexdigest()}.ckpt"
    assert original.read_bytes() == ckpt
    count = len(server.requests)
    run(acquire("512", DownloadOptions(store="float32", keep=True, offline=True)))  # from it
    assert original.exists()
    assert len(server.requests) == count


def test_a_variant_takes_its_towers_from_openclip(
    server: Hub, folder: Path, published: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    path = run(acquire("1024", DownloadOptions(variant="fp16")))
    said = "fp16_pruned.safetensors has no CLIP towers, and no other model here has them: OpenCLIP ViT-H-14, 3.9 GB"
    assert said.replace("fp16_pruned", hashlib.sha256(server.files[FP16]).hexdigest()) in caplog.text
    opened = open_checkpoint(path)
    assert {tensor.dtype for tensor in opened.tensors.values()} == {torch.float16}
    assert (opened.config, cache.source_of(path)["variant"]) == (MODELS["1024"], "fp16")
    key = "cond_stage_model.model.ln_final.bias"
    assert torch.equal(opened.tensors["text_encoder.ln_final.bias"], published[key].half())
    assert opened.fingerprint == open_checkpoint(path).fingerprint
    count = len(server.requests)
    assert run(acquire("1024", DownloadOptions(variant="fp16"))) == path
    assert len(server.requests) == count
    assert files(folder) == ["1024.safetensors"]


def test_a_variant_takes_the_towers_of_a_model_that_is_here(
    server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fetch("512")
    (shared,) = cache.all_towers(folder)
    monkeypatch.setattr(towers, "_fits", lambda *_: True)  # stand-ins have few values
    plan = hub.plan("1024", DownloadOptions(variant="fp16"), look_up=False)
    assert (plan.size, plan.towers) == (3_142_870_350, 0)
    path = run(acquire("1024", DownloadOptions(variant="fp16")))
    assert cache.find_towers(path) == shared
    assert cache.all_towers(folder) == [shared]
    assert not server.asked("HEAD", "/laion")


def test_towers_are_kept_once(server: Hub, folder: Path, published: dict[str, torch.Tensor]) -> None:
    hub.fetch("512")
    (shared,) = cache.all_towers(folder)
    size = shared.stat().st_size
    run(acquire("512", DownloadOptions(store="float32")))  # other numbers are other towers
    assert len(cache.all_towers(folder)) == 2
    server.files["Doubiiu/DynamiCrafter_512_Interp/model.ckpt"] = server.files[CKPT]
    assert cache.find_towers(hub.fetch("512-interp")) == shared
    assert cache.remove(folder, "512") > 2 * size  # of float32
    assert cache.all_towers(folder) == [shared]
    assert cache.remove(folder, "512-interp") > size
    assert files(folder) == []
    assert not (folder / "towers").exists()


def test_a_model_whose_towers_are_gone_is_not_here(server: Hub, folder: Path) -> None:
    path = hub.fetch("512")
    (shared,) = cache.all_towers(folder)
    shared.unlink()
    assert hub.find("512") is None
    with pytest.raises(WeightsError, match=r"the towers that .* was written with are not beside it"):
        hub.with_towers(open_checkpoint(path))
    hub.fetch("512")
    assert cache.all_towers(folder) == [shared]


def test_damaged_towers_are_seen_and_fetched_again(folder: Path) -> None:
    path = hub.fetch("512")
    (shared,) = cache.all_towers(folder)
    content = shared.read_bytes()
    shared.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not run(hub.verify(entry("512")))
    hub.set_aside(path)
    assert hub.find("512") is None
    hub.fetch("512")
    assert shared.read_bytes() == content
    assert [file.name for file in shared.parent.iterdir()] == [shared.name]


def test_files_of_earlier_versions_are_whole_and_stay_usable(
    server: Hub, folder: Path, golden: Path, tmp_path: Path
) -> None:
    opened = open_checkpoint(golden / "dc512" / "model.safetensors", model_config=golden / "dc512" / "config.json")
    folder.mkdir()
    save_checkpoint(opened.tensors, replace(opened.config, name="mine"), folder / "mine.safetensors")
    whole = open_checkpoint(hub.fetch("mine"), model="mine")
    assert not whole.lacks_towers
    assert whole.towers is None
    reduced = replace(opened, tensors={k: v for k, v in opened.tensors.items() if "coder." not in k.split("unet")[0]})
    completed = hub.with_towers(replace(reduced, path=tmp_path / "reduced"))
    assert completed.towers is not None
    assert completed.towers.path == folder / "mine.safetensors"


def test_a_file_that_was_renamed_is_found_in_the_listing(
    server: Hub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.files[FP16.replace("_fp16_pruned", "-fp16-v2")] = server.files.pop(FP16)
    server.files["Kijai/DynamiCrafter_pruned/dynamicrafter_512_fp16.safetensors"] = b"of another model"
    path = run(acquire("1024", DownloadOptions(variant="fp16")))
    assert cache.source_of(path)["file"] == "dynamicrafter_1024-fp16-v2.safetensors"
    assert (
        "dynamicrafter_1024_fp16_pruned.safetensors is called dynamicrafter_1024-fp16-v2.safetensors now" in caplog.text
    )


def test_a_file_that_is_gone_says_what_there_is(server: Hub, folder: Path) -> None:
    server.files["Kijai/DynamiCrafter_pruned/other.safetensors"] = server.files.pop(FP16)
    with pytest.raises(WeightsError, match=r"the repository has no such file; it has other\.safetensors\."):
        run(acquire("1024", DownloadOptions(variant="fp16")))
    server.listing = False
    with pytest.raises(WeightsError, match=r"the repository has no such file\."):
        run(acquire("1024", DownloadOptions(variant="fp16")))


def test_a_known_file_is_checked_where_the_hub_gives_no_digest(server: Hub, folder: Path) -> None:
    server.plain_etag = "abc"
    with pytest.raises(WeightsError, match=r"came with the SHA-256 .*, not 87b5eb1981ff"):
        hub.fetch("512")
    assert not list(folder.rglob("*.part"))
    server.files["Doubiiu/DynamiCrafter_512_Interp/model.ckpt"] = server.files[CKPT]
    hub.fetch("512-interp")  # whose digest is not known


def test_a_plan_counts_towers(server: Hub, folder: Path) -> None:
    plan = hub.plan("1024", DownloadOptions(variant="fp16"), look_up=False)
    assert (plan.size, plan.towers) == (3_142_870_350 + 3_944_517_836, 3_944_517_836)
    assert hub.plan("512", DownloadOptions(), look_up=False).towers == 0


def test_a_revision_is_compared_with_what_is_here(
    server: Hub, folder: Path, published: dict[str, torch.Tensor]
) -> None:
    path = hub.fetch("512")
    before = path.stat().st_ino
    run(acquire("512", DownloadOptions(revision="v1")))
    assert path.stat().st_ino == before
    server.files[CKPT] = as_ckpt(published | {"image_proj_model.extra": torch.ones(1)})
    run(acquire("512", DownloadOptions(revision="v2")))
    assert "projector.extra" in open_checkpoint(path).tensors
    assert cache.source_of(path)["revision"] == "v2"
    assert files(folder) == ["512.safetensors"]


def test_a_part_of_another_version_is_not_gone_on_with(
    server: Hub, folder: Path, ckpt: bytes, published: dict[str, torch.Tensor]
) -> None:
    server.faults.append(Cut(50_000))
    steps = acquire("512", sleep=stop)
    with pytest.raises(KeyboardInterrupt):
        run(steps)
    (part,) = (folder / "downloads" / "512").glob("*.part")
    assert part.stat().st_size == 50_000
    torch.save({"state_dict": published, "epoch": 7}, changed := io.BytesIO())
    server.files[CKPT] = changed.getvalue()
    hub.fetch("512")
    assert_good(folder, published)
    assert server.requests[-1].range is None


def stop(_: float) -> None:
    raise KeyboardInterrupt


def test_offline_names_the_command(server: Hub, folder: Path) -> None:
    with pytest.raises(WeightsError, match="Run dcrafter download 512 where there is a network") as error:
        hub.fetch("512", offline=True)
    assert error.value.exit_status == 4
    assert server.requests == []
    assert not folder.exists()


def test_space_is_checked_before(
    server: Hub, folder: Path, ckpt: bytes, monkeypatch: pytest.MonkeyPatch, published: dict[str, torch.Tensor]
) -> None:
    usage = type("Usage", (), {"free": len(ckpt)})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(WeightsError, match=r"MB free, and .* MB are needed: .* MB to download and .* MB for the conv"):
        hub.fetch("512")
    assert server.asked("GET", "/") == []
    usage.free = 2 * len(ckpt)
    hub.fetch("512")
    assert_good(folder, published)


def test_a_cache_that_cannot_be_written(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(WeightsError, match=r"cannot write to .*DCRAFTER_CACHE_DIR"):
        hub.fetch("512")


def test_room_is_advised_where_it_is_missing_alone(folder: Path) -> None:
    for error, advice in ((OSError(28, "No space left on device"), "Make room"), (PermissionError(13, "no"), "Check")):
        with pytest.raises(WeightsError) as caught, cache.writing_to(folder):
            raise error
        assert caught.value.advice.startswith(advice)
        assert ("are free" in caught.value.message) == (advice == "Make room")


def test_a_cache_that_cannot_be_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(WeightsError, match=r"cannot read .* \(Permission denied\)"):
        hub.find("512")


def test_an_unsafe_file_is_refused_and_not_met_again(server: Hub, folder: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": {"x": torch.zeros(1)}, "extra": Attack()}, evil := io.BytesIO())
    server.files[CKPT] = evil.getvalue()
    with pytest.raises(WeightsError, match="unsafe"):
        hub.fetch("512")
    assert not (tmp_path / "ran").exists()
    assert files(folder) == []


# --- kills and companions ---

# Runs `acquire` in a process of its own until a phase is under way, then what is in the braces.
SCRIPT = """
import os, signal
from dcrafter.weights.hub import DownloadOptions, acquire
steps = acquire("512")
while True:
    try:
        step = next(steps)
    except StopIteration as done:
        print(done.value)
        break
    {}
"""


def in_a_process(action: str = "pass") -> subprocess.Popen[str]:
    code = SCRIPT.format(action)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["downloading", "converting"])
def test_a_kill_leaves_what_a_rerun_goes_on_with(
    server: Hub, folder: Path, ckpt: bytes, published: dict[str, torch.Tensor], phase: str
) -> None:
    killed = in_a_process(
        f"if step.phase == {phase!r} and step.done > step.total // 2: os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert killed.communicate()[1] in ("", CHANGED)
    assert killed.returncode == -signal.SIGKILL
    assert not (folder / "512.safetensors").exists()
    (left,) = (folder / "downloads" / "512").iterdir()
    come = left.stat().st_size
    assert come > len(ckpt) // 2
    count = len(server.requests)
    hub.fetch("512")
    assert_good(folder, published)
    asked = [(each.method, each.range) for each in server.requests[count:] if each.path.startswith("/storage/")]
    assert asked == ([("GET", f"bytes={come}-")] if phase == "downloading" else [])


@pytest.mark.slow
def test_two_processes_share_one_download(server: Hub, folder: Path, published: dict[str, torch.Tensor]) -> None:
    server.faults.append(Hold(50_000))
    first = in_a_process()
    assert server.holding.wait(60)
    second = in_a_process("if step.phase == 'another process has it': print('waits', flush=True)")
    assert second.stdout is not None
    assert second.stdout.readline() == "waits\n"
    server.release.set()
    path = str(folder / "512.safetensors")
    assert first.communicate() == (f"{path}\n", CHANGED)
    assert second.communicate()[0].splitlines()[-1] == path
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(server.asked("GET", "/storage/")) == 1
    assert_good(folder, published)


# --- afterwards ---


def entry(model: str) -> hub.Entry:
    return next(entry for entry in hub.entries() if entry.model == model)


def test_verification_sees_every_changed_byte(folder: Path) -> None:
    path = hub.fetch("512")
    whole = path.read_bytes()
    assert run(hub.verify(entry("512")))
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    inside = whole.index(b'"height": 320') if b'"height": 320' in whole else whole.index(b"height")
    assert header["__metadata__"]["dcrafter"]
    for at in (0, 7, 9, inside + 12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert not run(hub.verify(entry("512"))), at
    for cut in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert not run(hub.verify(entry("512"))), cut
    path.write_bytes(whole + b"x")
    assert not run(hub.verify(entry("512")))


def test_verification_in_hugging_faces_cache(folder: Path, tmp_path: Path) -> None:
    theirs = in_hugging_faces_cache(tmp_path, b"theirs")
    assert run(hub.verify(entry("512")))
    theirs.resolve().write_bytes(b"damage")
    assert not run(hub.verify(entry("512")))


@pytest.mark.parametrize("odd", [["fp16"], {"fp16": 1}, "no such"])
def test_a_header_of_odd_values_does_not_keep_a_file_from_being_fetched_again(folder: Path, odd: Any) -> None:
    damaged = hub.Entry("512", folder / "512.safetensors", "cache", 1, 0.0, {"variant": odd, "store": odd})
    options = hub.options_of(damaged, DownloadOptions(folder))
    assert (options.variant, options.store) == ("fp16", None)


def test_what_is_set_aside_goes_when_another_is_there(folder: Path, published: dict[str, torch.Tensor]) -> None:
    path = hub.fetch("512")
    hub.set_aside(path)
    assert files(folder) == ["512.safetensors.damaged"]
    assert hub.find("512") is None
    hub.fetch("512")
    assert_good(folder, published)


def test_entries(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "EMBEDDED", tmp_path / "none")
    assert hub.entries() == []
    hub.fetch("512")
    os.utime(folder / "512.safetensors", (1e9, 1e9))
    assert entry("512").used == 1e9
    hub.fetch("512")
    assert entry("512").used > 1e9
    assert entry("512").path.stat().st_mtime == 1e9
    assert (entry("512").place, entry("512").size) == ("cache", (folder / "512.safetensors").stat().st_size)


def test_strays_in_the_cache_are_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "EMBEDDED", folder / "none")
    folder.mkdir(exist_ok=True)
    for name in ("._512.safetensors", "my model.safetensors", "a" * 99 + ".safetensors"):
        (folder / name).write_bytes(b"x")
    (folder / "folder.safetensors").mkdir()
    (folder / "mine.safetensors").write_bytes(b"x")
    assert [entry.model for entry in hub.entries(folder)] == ["mine"]


@pytest.mark.parametrize("linked", ["folder", "part", "weights"])
def test_links_in_the_cache_go_and_what_they_lead_to_stays(folder: Path, tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "letter.part").write_text("dear")
    place = cache.downloads(folder, "512")
    if linked == "folder":
        place.parent.mkdir(parents=True)
        place.symlink_to(outside)
    elif linked == "part":
        place.mkdir(parents=True)
        (place / "x.part").symlink_to(outside / "letter.part")
    else:
        folder.mkdir(exist_ok=True)
        (folder / "512.safetensors").symlink_to(outside / "letter.part")
    cache.remove(folder, "512")
    assert (outside / "letter.part").read_text() == "dear"
    assert not place.is_symlink()
    assert not place.exists()
    assert not (folder / "512.safetensors").is_symlink()


def test_a_download_does_not_go_through_a_link(server: Hub, folder: Path, tmp_path: Path, ckpt: bytes) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "letter").write_text("dear")
    place = cache.downloads(folder, "512")
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    server.files[CKPT] = ckpt
    run(acquire("512"))
    assert [file.name for file in outside.iterdir()] == ["letter"]


def test_the_model_of_the_package_is_read_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(path: Path) -> hub.Entry:
        return hub.Entry("tiny", path, "package", 0, 0, {})

    assert run(hub.verify(entry(hub.EMBEDDED)))
    content = hub.EMBEDDED.read_bytes()
    copy = tmp_path / "tiny.safetensors"
    copy.write_bytes(content[:-1])
    assert not run(hub.verify(entry(copy)))
    copy.write_bytes(content)
    recorded = SimpleNamespace(locate=lambda: copy, hash=SimpleNamespace(mode="sha256", value=_record_hash(content)))
    monkeypatch.setattr(hub, "files", lambda _: [recorded])
    assert run(hub.verify(entry(copy)))
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not run(hub.verify(entry(copy)))


def _record_hash(content: bytes) -> str:
    """As a wheel's RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def test_removal_takes_all_of_it(folder: Path) -> None:
    path = run(acquire("512", DownloadOptions(keep=True)))
    (folder / "downloads" / "512" / "x.part").write_bytes(b"x")
    (folder / "512.safetensors.damaged").write_bytes(b"x")
    (folder / "512-mine.safetensors").write_bytes(b"stays")
    size = path.stat().st_size
    assert cache.remove(folder, "512") > size
    assert files(folder) == ["512-mine.safetensors"]
    assert cache.remove(folder, "512") == 0


def test_an_imported_model_goes_by_its_name(golden: Path, folder: Path) -> None:
    mine = golden / "dc512" / "model.safetensors"
    before = mine.read_bytes()
    opened = open_checkpoint(mine, model_config=golden / "dc512" / "config.json")
    path = run(hub.import_checkpoint(opened, "mine"))
    assert path == hub.find("mine") == hub.fetch("mine") == folder / "mine.safetensors"
    assert hub.choose("mine", "animate") == "mine"
    assert hub.config("mine") == replace(opened.config, name="mine")
    with pytest.raises(UsageError, match="does not loop"):
        hub.choose("mine", "loop")
    assert entry("mine").source["file"] == str(mine)
    assert mine.read_bytes() == before
    assert files(folder) == ["mine.safetensors"]
    for taken in ("mine", "512", "auto", "tiny"):
        with pytest.raises(UsageError, match=f"there is a model {taken} already"):
            run(hub.import_checkpoint(opened, taken))
