"""The installed script, as a person at a terminal sees it and as another program does."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.running import CAT, QUICK
from PIL import Image
from weights.conftest import server  # noqa: F401
from weights.hub_server import Hub
from weights.models import CKPT, as_ckpt, small_512

from dcrafter.errors import BatchError
from dcrafter.media.video import read_video

pytestmark = pytest.mark.slow

SCRIPT = Path(sys.executable).with_name("dcrafter")
DC512 = Path(CAT).with_name("golden") / "dc512"
LOOPS = (
    "--checkpoint", str(DC512 / "model.safetensors"), "--model-config", str(DC512 / "config.json"),
    "--device", "cpu", "--dtype", "float32", "--width", "64", "--height", "64", "--steps", "1", "-g", "1",
)  # fmt: skip
COMMANDS = [
    (("animate", CAT, *QUICK, "-p", "cat"), "cat.png, seed 5"),
    (("interpolate", CAT, CAT, *LOOPS), "cat.png → cat.png, seed 5"),
    (("loop", CAT, *LOOPS, "--repeat", "2"), "cat.png, seed 5"),
]
IDS = [arguments[0] for arguments, _ in COMMANDS]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DCRAFTER_")}
    return {**kept, **more, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", "LC_ALL": "C.UTF-8"}


def at_a_terminal(*arguments: str, folder: Path, **more: str) -> tuple[int, str]:
    """Exit status and all that a terminal was sent, without its control codes."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [SCRIPT, *arguments], cwd=folder, env=environment(**more), stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    sent = b""
    while True:
        select.select([master], [], [])
        try:
            part = os.read(master, 65536)
        except OSError:  # what Linux says when the other side has been closed
            break
        if not part:
            break
        sent += part
    os.close(master)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent.decode())


@pytest.mark.parametrize(("arguments", "title"), COMMANDS, ids=IDS)
def test_a_person_sees_bars_the_seed_and_the_path(arguments: tuple[str, ...], title: str, tmp_path: Path) -> None:
    status, seen = at_a_terminal(*arguments, "--seed", "5", folder=tmp_path)
    assert status == 0, seen
    for phase in ("encoding", "sampling", "decoding"):
        assert re.search(rf"{phase} +━+", seen), seen
    assert "1/1" in seen
    assert re.search(r"(16/16|15/15)", seen)  # frames decoded
    assert title in seen
    assert re.search(r"done in [\d.]+ s", seen)
    assert seen.split()[-1] == "cat.mp4"
    assert (tmp_path / "cat.mp4").exists()


@pytest.mark.parametrize(("arguments", "title"), COMMANDS, ids=IDS)
def test_a_script_sees_paths_alone(arguments: tuple[str, ...], title: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT, *arguments, "--seed", "5", "-n", "2", "-o", "made/"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["made/cat_5.mp4", "made/cat_6.mp4"]
    assert title in done.stderr
    assert "\x1b" not in done.stderr
    assert re.search(r"sampling 1/1$", done.stderr, re.MULTILINE)
    assert read_video(tmp_path / "made" / "cat_6.mp4")[0].ndim == 4


def paths(seen: str) -> list[str]:
    return [word for word in seen.split() if word.endswith(".mp4")]


def test_a_batch_is_a_bar_for_all_one_for_the_item_and_paths(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(CAT, pictures / name)
    (pictures / "broken.png").write_text("no picture")
    arguments = ("batch", "pictures", *QUICK, "-p", "cat", "-o", "made/", "--name", "{stem}")
    status, seen = at_a_terminal(*arguments, folder=tmp_path)
    assert status == BatchError.exit_status, seen
    assert re.search(r"batch +━+.* 3/3", seen), seen
    assert re.search(r"[ab]\.png (loading|sampling|decoding) +━+", seen), seen
    assert paths(seen) == ["made/a.mp4", "made/b.mp4"]
    assert "broken.png: failed: " in seen
    (pictures / "broken.png").unlink()
    status, seen = at_a_terminal(*arguments, folder=tmp_path)
    assert (status, paths(seen)) == (0, ["made/a.mp4", "made/b.mp4"]), seen


def test_a_batch_in_a_pipe(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        shutil.copy(CAT, tmp_path / name)
    arguments = ("batch", "-", *QUICK, "-p", "cat", "-o", "made/", "--name", "{stem}")
    for status, listed, said in ((0, "a.png\nb.png\n", "a.png"), (BatchError.exit_status, "c.png\n", "c.png: failed")):
        done = piped(*arguments, folder=tmp_path, stdin=listed)
        assert done.returncode == status, done.stderr
        assert done.stdout.splitlines() == (["made/a.mp4", "made/b.mp4"] if status == 0 else [])
        assert said in done.stderr
        assert "\x1b" not in done.stderr


def piped(*arguments: str, folder: Path, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments], cwd=folder, env=environment(**more), capture_output=True, text=True, input=stdin
    )


def test_a_download_in_a_pipe(server: Hub, golden: Path, tmp_path: Path) -> None:  # noqa: F811
    server.files[CKPT] = as_ckpt(small_512(golden))
    done = piped("download", "512", folder=tmp_path, DCRAFTER_CACHE_DIR="cache")
    assert done.returncode == 0, done.stderr
    (path,) = done.stdout.splitlines()
    assert path.endswith("cache/512.safetensors")
    assert (tmp_path / path).is_file()
    assert re.search(r"^(512: )?downloading", done.stderr, re.MULTILINE), done.stderr
    assert "\x1b" not in done.stderr


def test_a_download_is_a_bar_and_a_path(server: Hub, golden: Path, tmp_path: Path) -> None:  # noqa: F811
    server.files[CKPT] = as_ckpt(small_512(golden))
    status, seen = at_a_terminal("download", "512", folder=tmp_path, DCRAFTER_CACHE_DIR="cache")
    assert status == 0, seen
    assert re.search(r"512 (downloading|converting) +━+", seen), seen
    assert seen.split()[-1].endswith("cache/512.safetensors")
    status, seen = at_a_terminal("download", "--verify", folder=tmp_path, DCRAFTER_CACHE_DIR="cache")
    assert status == 0, seen
    assert "512: good" in seen


def test_json_lines_and_a_video_on_stdout(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "animate", CAT, *QUICK, "--json", "-q"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["path"] == "cat.mp4"
    assert done.stderr == ""
    picture = Path(CAT).read_bytes()
    piped = subprocess.run(
        [SCRIPT, "animate", "-", *QUICK, "-o", "-", "-f", "webm"],
        cwd=tmp_path, env=environment(), capture_output=True, input=picture, check=True,
    )  # fmt: skip
    (tmp_path / "piped.webm").write_bytes(piped.stdout)
    assert len(read_video(tmp_path / "piped.webm")[0]) == 16


def test_a_preview_is_drawn_on_a_terminal_and_into_a_file(tmp_path: Path) -> None:
    status, seen = at_a_terminal("animate", CAT, *QUICK, "--preview", "--save-preview", "now.png", folder=tmp_path)
    assert status == 0, seen
    assert "▀▀▀▀" in seen
    with Image.open(tmp_path / "now.png") as picture:
        assert picture.width > picture.height
    done = subprocess.run(
        [SCRIPT, "animate", CAT, *QUICK, "--preview"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert "▀" not in done.stdout + done.stderr  # no terminal, no preview
