from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch
from cli.running import CAT, CHECKPOINT, CONFIG, MODEL, QUICK, Outcome, Run, start
from PIL import Image
from safetensors.torch import save_file

from dcrafter.cli.console import Console
from dcrafter.errors import UNREAD
from dcrafter.media import video
from dcrafter.media.video import read_settings


def shown(source: str | Path | bytes) -> tuple[int, float, int, int]:
    """Frames, frames a second, width and height of an H.264 video."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate is not None
        frames = list(container.decode(stream))
        return len(frames), float(stream.average_rate), frames[0].width, frames[0].height


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_picture_becomes_a_video(tmp_path: Path) -> None:
    """In a process of its own: its streams are what other programs see."""
    process = start(
        "animate", CAT, "-p", "cat", *QUICK, folder=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (0, b"cat.mp4\n")
    assert shown(tmp_path / "cat.mp4") == (16, 8.0, 64, 64)
    assert files(tmp_path) == ["cat.mp4"]
    settings = read_settings(tmp_path / "cat.mp4")
    assert settings is not None
    assert (settings["prompt"], settings["images"]) == ("cat", ["cat.png"])
    lines = stderr.decode().splitlines()
    assert lines[0] == "model 256, 64×64, 1 step, cpu (float32)"
    assert lines[1] == f"cat.png, seed {settings['seed']}"
    assert lines[2:4] == ["loading", "sampling 1/1"]
    assert all(re.fullmatch(r"decoding \d+/16", line) for line in lines[4:-1])
    assert re.fullmatch(r"done in [\d.]+ s, [\d.]+ s of it generation", lines[-1])


def test_names_and_seeds(dcrafter: Run, tmp_path: Path) -> None:
    """As APNG, which is lossless: x264 now and then makes another file of the same frames."""
    quick = (*QUICK, "-f", "apng", "--frames", "2")
    first = dcrafter("animate", CAT, *quick, "--seed", "7", "--json", "--no-metadata")
    more = dcrafter("animate", CAT, *quick, "--seed", "6", "-n", "2")
    assert more.lines == ["cat_6.apng", "cat_7.apng"]
    result = json.loads(first.lines[0])
    assert (result["path"], result["seed"], result["settings"]["seed"]) == ("cat.apng", 7, 7)
    assert result["seconds"] > 0
    assert read_settings("cat.apng") is None
    seeds = [(read_settings(name) or {})["seed"] for name in ("cat_6.apng", "cat_7.apng")]
    assert seeds == [6, 7]
    pixels = [frames_of(name) for name in ("cat.apng", "cat_6.apng", "cat_7.apng")]
    assert pixels[0] == pixels[2] != pixels[1]  # the same seed is the same video, another is another
    assert files(tmp_path) == ["cat.apng", "cat_6.apng", "cat_7.apng"]


def frames_of(name: str) -> list[bytes]:
    with av.open(name) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


def test_an_existing_output_is_kept_unless_told_otherwise(dcrafter: Run, tmp_path: Path) -> None:
    kept = tmp_path / "mine.mp4"
    kept.write_text("mine")
    outcome = dcrafter("animate", CAT, "--checkpoint", "not looked at", "-o", kept)
    assert (outcome.status, outcome.stdout, kept.read_text()) == (2, b"", "mine")
    assert "already exists" in outcome.stderr
    assert "--overwrite" in outcome.stderr
    assert dcrafter("animate", CAT, *QUICK, "-o", kept, "--overwrite").lines == [str(kept)]
    assert shown(kept)[0] == 16


def test_several_pictures_go_into_a_folder(dcrafter: Run, tmp_path: Path) -> None:
    shutil.copy(CAT, tmp_path / "other.png")
    outcome = dcrafter("animate", CAT, "other.png", *QUICK, "-o", "new/", "-f", "gif", "--frames", "4", "-q")
    assert outcome == Outcome(0, b"new/cat.gif\nnew/other.gif\n", "")
    with Image.open("new/other.gif") as image:
        assert getattr(image, "n_frames", 1) == 4


def test_streams_in_and_out(dcrafter: Run, tmp_path: Path) -> None:
    outcome = dcrafter("animate", "-", *QUICK, "-o", "-", stdin=Path(CAT).read_bytes())
    assert shown(outcome.stdout) == (16, 8.0, 64, 64)
    assert "stdin, seed" in outcome.stderr
    assert files(tmp_path) == []
    planned = dcrafter("animate", CAT, *QUICK, "-p", "-", "--dry-run", "--json", stdin=b"a cat\n yawning\n")
    assert json.loads(planned.lines[0])["settings"]["prompt"] == "a cat yawning"
    assert dcrafter("animate", "-", *QUICK, stdin=b"").status == 2


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="the system has no names of pipes")
def test_a_pipe_with_a_name_is_read_once(dcrafter: Run) -> None:
    """As of a shell's <(…)."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as pipe:
            pipe.write(Path(CAT).read_bytes())

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    outcome = dcrafter("animate", f"/dev/fd/{reading}", *QUICK, "-o", "-")
    os.close(reading)
    writer.join()
    assert shown(outcome.stdout) == (16, 8.0, 64, 64)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    source, sink = os.pipe()
    os.close(source)
    process = start("animate", CAT, *QUICK, "--dry-run", "--json", folder=tmp_path, stdout=sink, stderr=subprocess.PIPE)
    os.close(sink)
    _, stderr = process.communicate()
    assert process.returncode == UNREAD
    assert [
        line
        for line in stderr.decode().splitlines()
        if not line.startswith(("model 256", "motion 3", "about ", "cat.png, "))
    ] == []


def test_a_dry_run_makes_and_loads_nothing(dcrafter: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("dcrafter.weights.checkpoint.Checkpoint.load", never)
    arguments = ("animate", CAT, *MODEL, "-p", "cat", "--seed", "5", "-n", "2", "--motion", "high", "--dry-run")
    outcome = dcrafter(*arguments)
    assert (outcome.status, outcome.stdout) == (0, b"")
    model, numbers, memory, *planned = outcome.stderr.splitlines()
    assert model == "model 256, 64×64, 50 steps, cpu (float32)"
    assert numbers == "motion 6 (frame stride), guidance 7.5, sampler ddim, 16 frames at 8 FPS"
    assert re.fullmatch(r"about \d+\.\d GB of memory must be free \(--memory normal\)", memory)
    assert planned == ["prompt: cat", "cat.png, seed 5: cat_5.mp4", "cat.png, seed 6: cat_6.mp4"]
    results = [json.loads(line) for line in dcrafter(*arguments, "--json").lines]
    assert [(result["path"], result["seed"]) for result in results] == [("cat_5.mp4", 5), ("cat_6.mp4", 6)]
    assert results[0]["settings"]["motion"] == 6
    assert 30e6 < results[0]["expected_memory"] < 10e9  # the libraries alone take as much
    assert files(tmp_path) == []


def test_a_dry_run_chooses_no_seed(dcrafter: Run) -> None:
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run", "--json")
    assert "cat.png, random seed: cat.mp4" in outcome.stderr.splitlines()
    result = json.loads(outcome.lines[0])
    assert (result["seed"], result["settings"]["seed"]) == (None, None)
    two = dcrafter("animate", CAT, *MODEL, "--dry-run", "-n", "2").stderr.splitlines()
    assert two[-2:] == ["cat.png, random seed: cat_<seed+0>.mp4", "cat.png, random seed: cat_<seed+1>.mp4"]


def test_a_dry_run_names_a_missing_captioner(dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "nowhere")
    monkeypatch.setattr("dcrafter.captioner.is_here", lambda name: False)
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run", "--auto-prompt")
    assert outcome.status == 0, outcome.stderr
    assert (
        "the captioner Salesforce/blip-image-captioning-base is not on this machine yet: to download" in outcome.stderr
    )
    offline = dcrafter("animate", CAT, *MODEL, "--dry-run", "--auto-prompt", "--captioner", "no/such", "--offline")
    assert offline.status == 4
    assert "the captioner no/such is not on this machine, and --offline was given" in offline.stderr


def test_all_images_that_cannot_be_read_are_named(dcrafter: Run) -> None:
    outcome = dcrafter("animate", "a.png", CAT, "b.png", *QUICK)
    assert outcome.status == 2
    assert "a.png" in outcome.stderr
    assert "b.png" in outcome.stderr


@pytest.mark.usefixtures("uncounted")
def test_a_dry_run_of_a_registry_model_downloads_nothing(dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it would be downloaded")

    monkeypatch.setattr("dcrafter.weights.hub.fetch", never)
    monkeypatch.setattr("dcrafter.weights.download.look_up", never)
    free = 10**12
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    arguments = ("animate", CAT, "-m", "1024", "--device", "cpu", "--dtype", "bfloat16", "--dry-run")
    outcome = dcrafter(*arguments)
    download, model = outcome.stderr.splitlines()[:2]
    assert (outcome.status, model) == (0, "model 1024, 1024×576, 50 steps, cpu (bfloat16)")
    assert re.search(
        r"model 1024 is not on this machine yet: 10\.\d GB to download .* GB needed, [\d.]+ GB free", download
    )
    free = 10**9
    full = dcrafter(*arguments)
    assert full.status == 4
    assert re.search(r"15\.\d GB are needed for 1024, and 1\.0 GB are free", full.stderr)
    offline = dcrafter(*arguments, "--offline")  # as the command itself
    assert (offline.status, offline.stderr.count("\n")) == (4, 1)
    assert "the weights of 1024 are not on this machine, and --offline was given" in offline.stderr
    outcome = dcrafter("animate", CAT, "-m", "1024", "--motion", "wild")  # before the download, too
    assert outcome.status == 2
    assert "trained on 5 to 15" in outcome.stderr


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, ("touch ran",)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each input that must be refused."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "text.png").write_text("this is no picture")
    (folder / "empty.png").touch()
    with Image.open(CAT) as image:
        image.save(folder / "cut.jpg")
    os.truncate(folder / "cut.jpg", 5000)
    Image.new("1", (30_000, 30_000)).save(folder / "huge.png")
    save_file({"weight": torch.zeros(1000)}, folder / "other.safetensors")
    shutil.copy(folder / "other.safetensors", folder / "cut.safetensors")
    os.truncate(folder / "cut.safetensors", 2000)
    shutil.copy(CHECKPOINT, folder / "cut.ckpt")
    os.truncate(folder / "cut.ckpt", 1_000_000)
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "extra": Evil()}, folder / "evil.ckpt")
    return folder


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["bad/none.png", *QUICK], 2, "bad/none.png: No such file"),
        (["bad", *QUICK], 2, "bad: Is a directory"),
        (["bad/text.png", *QUICK], 2, "not an image"),
        (["bad/empty.png", *QUICK], 2, "empty"),
        (["bad/cut.jpg", *QUICK], 2, "damaged"),
        (["bad/huge.png", *QUICK], 2, "64 million pixels"),
        ([CAT, "bad/text.png", *QUICK], 2, "bad/text.png is not an image"),  # before the first is begun
        (["bad/text.png"], 2, "not an image"),  # before a model is looked for
        ([CAT, *QUICK, "-o", "bad/text.png/x.mp4"], 2, "not a writable folder"),
        ([CAT, *QUICK, "-o", "/dev/null/x.mp4"], 2, "not a writable folder"),
        ([CAT, *QUICK, "-o", "x.avi"], 2, "-f"),
        ([CAT, *QUICK, "--codec", "h265", "-f", "gif"], 2, "codec"),
        ([CAT, *QUICK, "--codec", "cinepaque"], 2, "cinepaque"),
        ([CAT, *QUICK, "--crf", "64"], 2, "crf"),
        ([CAT, *QUICK, "--motion", "wild"], 2, "--motion must be"),
        ([CAT, *QUICK, "--motion", "9" * 30], 2, "--motion must be"),
        ([CAT, *QUICK, "--context-scale", "9" * 30], 2, "--context-scale must be"),
        ([CAT, *QUICK, "--width", "100"], 2, "--width must be a multiple"),
        ([CAT, *QUICK, "--steps", "1001"], 2, "--steps must be 1 to 1000"),
        ([CAT, *QUICK, "--fps", "nan"], 2, "--fps must be"),
        ([CAT, *QUICK, "--device", "abacus"], 2, "abacus"),
        ([CAT, *QUICK, "--device", "meta"], 2, "meta"),  # one that torch has, and nothing is computed on
        (["http://127.0.0.1:1/cat.png", *QUICK, "--offline"], 2, "--offline downloads nothing"),
        ([CAT, *QUICK, "--noise", "bad/none"], 2, "no file bad/none"),
        (
            [CAT, *QUICK, "--save-latents", "bad/none/x"],
            2,
            "bad/none is not a writable folder. Choose another with --save-latents",
        ),
        ([CAT, *QUICK, "--codec", "h264", "-f", "webm"], 2, "Choose one of vp9, av1"),
        (["-", *QUICK, "-p", "-"], 2, "only one argument can be -"),
        ([CAT, *CONFIG], 2, "--checkpoint"),
        ([CAT, "-m", "512-interp"], 2, "512-interp"),  # does not animate
        ([CAT, "--offline", "-m", "256"], 4, "--offline"),
        ([CAT, "--checkpoint", "bad/none.ckpt"], 4, "bad/none.ckpt"),
        ([CAT, "--checkpoint", CAT], 4, "no checkpoint"),
        ([CAT, "--checkpoint", "bad/other.safetensors"], 4, "no DynamiCrafter model"),
        ([CAT, "--checkpoint", str(CHECKPOINT)], 4, "--model-config"),  # not of the published size
        ([CAT, "--checkpoint", str(CHECKPOINT), "-m", "512"], 4, "256"),
        ([CAT, "--checkpoint", "bad/cut.safetensors", *CONFIG], 4, "damaged or incomplete"),
        ([CAT, "--checkpoint", "bad/cut.ckpt", *CONFIG], 4, "damaged or incomplete"),
        ([CAT, "--checkpoint", "bad/evil.ckpt", *CONFIG], 4, "would run code"),
        ([CAT, "--checkpoint", str(CHECKPOINT), "--model-config", "bad/text.png"], 4, "no YAML or JSON tree"),
    ],
)
def test_bad_input_is_one_line_of_advice(
    dcrafter: Run,
    refused: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    said: str,
) -> None:
    monkeypatch.setattr("dcrafter.weights.hub.find", lambda *_: None)
    Path("bad").symlink_to(refused)
    before = files(tmp_path), files(refused)
    outcome = dcrafter("animate", *arguments)
    assert (outcome.status, outcome.stdout) == (status, b"")
    assert outcome.stderr.startswith("dcrafter: ")
    assert outcome.stderr.count("\n") == 1
    assert said in outcome.stderr
    assert (files(tmp_path), files(refused)) == before


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = start(
        "animate",
        CAT,
        *(*MODEL, "--steps", "1000", "-o", "new/"),
        folder=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines = iter(process.stderr.readline, b"")
    assert any(line.startswith(b"sampling 1/1000") for line in lines)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (130, b"")
    assert stderr.endswith(b"dcrafter: interrupted\n")
    assert b"Traceback" not in stderr
    assert files(tmp_path) == []


@pytest.mark.slow
def test_ctrl_c_while_it_starts(tmp_path: Path) -> None:
    """At any moment of the imports; one that Python loses while it cleans up comes again."""
    code = (
        "import signal, sys\n"
        "import dcrafter.__main__ as entry\n"
        "class Lost:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "def run(**_):\n"
        "    Lost()\n"
        "    import time; time.sleep(60)\n"
        "import types; sys.modules['dcrafter.cli.app'] = types.SimpleNamespace(main=run)\n"
        "entry.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "dcrafter: interrupted\n")


def test_files_that_settings_name_are_read_before_weights(dcrafter: Run, tmp_path: Path) -> None:
    (tmp_path / "noise.pt").write_bytes(b"no tensors")
    (tmp_path / "mask.png").write_bytes(b"no image")
    for option, problem in (("--init-noise", "holds no initial noise"), ("--mask", "mask.png is not an image")):
        file = problem.split()[0] if "mask" in problem else "noise.pt"
        for dry in ((), ("--dry-run",)):
            outcome = dcrafter("animate", CAT, *QUICK, option, file, *dry)
            assert outcome.status == 2
            assert problem in outcome.stderr
            assert "loading" not in outcome.stderr
            assert "sampling" not in outcome.stderr


def test_a_reader_that_goes_ends_the_command_quietly(
    dcrafter: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(Console, "result_bytes", refuse)
    outcome = dcrafter("animate", CAT, *QUICK, "--frames", "2", "-f", "gif", "-n", "2", "--seed", "5")
    assert outcome.status == UNREAD
    assert "Broken pipe" not in outcome.stderr
    assert "unexpected" not in outcome.stderr
    assert [path.name for path in tmp_path.glob("*.gif")] == ["cat_5.gif"]  # what was made stays
    reader, writer = os.pipe()
    os.close(reader)
    with start("--version", folder=tmp_path, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert process.communicate()[1] == b""
    assert process.returncode == UNREAD


@pytest.mark.slow
def test_closed_streams_are_no_traceback(tmp_path: Path) -> None:
    for image, closing, status in ((CAT, ">&-", 0), (CAT, "2>&-", 0), ("-", "<&-", 2)):
        command = shlex.join([sys.executable, "-m", "dcrafter", "animate", image, *QUICK, "--dry-run"])
        done = subprocess.run(f"{command} {closing}", shell=True, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_behind_stdout_is_said(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start("animate", CAT, *QUICK, "-o", "-", folder=tmp_path, stdout=full, stderr=subprocess.PIPE)
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.decode().splitlines()[-1].startswith("dcrafter: cannot write to stdout")


def test_a_preview_takes_the_place_of_nothing(dcrafter: Run, tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(Path(CAT).read_bytes())
    for name in ("x.png", str(picture)):
        outcome = dcrafter("animate", picture, *QUICK, "-o", "x.png", "--save-preview", name, "--overwrite")
        assert outcome.status == 2
        assert f"the preview {name} would overwrite" in outcome.stderr
    assert picture.read_bytes() == Path(CAT).read_bytes()


def test_a_motion_that_no_model_learned(dcrafter: Run) -> None:
    outcome = dcrafter("animate", CAT, "-m", "tiny", "--motion", "100", "--dry-run")
    assert outcome.status == 0
    assert "trained at a motion of 6 to 24 (FPS); at 100" in outcome.stderr


@pytest.mark.slow
def test_lines_on_a_terminal_that_cannot_redraw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal, slave = os.openpty()
    process = start("animate", CAT, *QUICK, folder=tmp_path, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    screen = screen_of(terminal)
    assert process.wait() == 0
    assert b"\x1b" not in screen
    assert screen.count(b"loading") == 1


def screen_of(terminal: int) -> bytes:
    """All that is written to a terminal."""
    screen = b""
    try:
        while chunk := os.read(terminal, 65536):
            screen += chunk
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    os.close(terminal)
    return screen


@pytest.mark.slow
def test_bars_on_a_terminal(tmp_path: Path) -> None:
    terminal, slave = os.openpty()
    process = start("animate", CAT, *MODEL, "--steps", "4", folder=tmp_path, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    screen = screen_of(terminal)
    stdout, _ = process.communicate()
    assert (process.returncode, stdout) == (0, b"cat.mp4\n")
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode())
    for pattern in (r"encoding +━+", r"sampling +━+ 4/4 +0:00:\d\d", r"decoding +━+ 16/16 +0:00:\d\d"):
        assert re.search(pattern, drawn)
    assert "\x1b[?25h" in screen.decode()  # the cursor is back


@pytest.mark.slow
def test_running_out_of_memory_goes_over_to_a_smaller_plan(dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcrafter.pipeline import Pipeline

    sample = Pipeline.sample

    def scarce(self: Pipeline, *arguments: Any) -> Any:
        if self.residency.plan in given:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return sample(self, *arguments)

    monkeypatch.setattr(Pipeline, "sample", scarce)
    given = ["normal"]
    outcome = dcrafter("animate", CAT, *QUICK, "--frames", "2", "-o", "a.gif", "--memory", "normal")
    assert outcome.status == 0, outcome.stderr
    assert "not enough memory; once more with --memory low" in outcome.stderr
    outcome = dcrafter("animate", CAT, *QUICK, "-n", "3", "--frames", "2", "-o", "n/", "--memory", "normal")
    assert outcome.status == 0, outcome.stderr
    assert outcome.stderr.count("not enough memory") == 1  # the next ones begin with the plan that did
    given = ["normal", "low", "min"]
    outcome = dcrafter("animate", CAT, *QUICK, "-o", "b.gif")
    assert outcome.status == 5
    assert "--memory min, smaller --width" in outcome.stderr
    assert not Path("b.gif").exists()


def test_json_tells_time_memory_and_device(dcrafter: Run) -> None:
    outcome = dcrafter("animate", CAT, *QUICK, "--frames", "2", "--json", "-o", "a.gif")
    told = json.loads(outcome.lines[0])
    assert told.keys() == {
        "path",
        "seed",
        "settings",
        "seconds",
        "generation_seconds",
        "timings",
        "device",
        "peak_memory",
    }
    assert told["timings"].keys() == {"encoding", "loading", "sampling", "decoding"}
    assert told["generation_seconds"] == pytest.approx(sum(told["timings"].values()), abs=0.01)
    assert told["seconds"] > told["generation_seconds"]  # with imports, and the writing
    assert told["device"] == "cpu"
    assert told["peak_memory"] > 50e6


def test_the_first_interrupt_ends_behind_the_step(
    dcrafter: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dcrafter import pipeline

    denoiser, evaluated = pipeline.guided_denoiser, []

    def interrupting(*arguments: Any) -> Any:
        inner = denoiser(*arguments)

        def denoise(x: Any, t: int) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            out = inner(x, t)
            evaluated.append(t)
            return out

        return denoise

    monkeypatch.setattr(pipeline, "guided_denoiser", interrupting)
    before = signal.getsignal(signal.SIGINT)
    outcome = dcrafter("animate", CAT, *MODEL, "--steps", "5", "-o", "a.gif")
    assert outcome.status == 130
    assert "stopping after this step" in outcome.stderr
    assert len(evaluated) == 1
    assert files(tmp_path) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupt_ends_at_once(dcrafter: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dcrafter import pipeline

    denoiser, behind = pipeline.guided_denoiser, []

    def interrupting(*arguments: Any) -> Any:
        inner = denoiser(*arguments)

        def denoise(x: Any, t: int) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            behind.append(t)
            return inner(x, t)

        return denoise

    monkeypatch.setattr(pipeline, "guided_denoiser", interrupting)
    outcome = dcrafter("animate", CAT, *MODEL, "--steps", "5", "-o", "a.gif")
    assert (outcome.status, behind, files(tmp_path)) == (130, [], [])


@pytest.mark.usefixtures("uncounted")
def test_a_portrait_turns_the_model(dcrafter: Run, tmp_path: Path) -> None:
    Image.new("RGB", (40, 60)).save(tmp_path / "tall.png")
    sizes = []
    for picture, more in (("tall.png", ()), (CAT, ()), ("tall.png", ("--width", "512", "--height", "320"))):
        outcome = dcrafter("animate", picture, "-m", "512", "--device", "cpu", "--dry-run", "--json", *more)
        assert outcome.status == 0, outcome.stderr
        told = json.loads(outcome.lines[0])["settings"]
        sizes.append((told["width"], told["height"]))
    assert sizes == [(320, 512), (512, 320), (512, 320)]


def test_an_unusual_size_is_warned_of_once(dcrafter: Run) -> None:
    outcome = dcrafter("animate", CAT, CAT, *MODEL, "--width", "128", "--height", "64", "--dry-run")
    assert outcome.stderr.count("was trained at 64×64; at 128×64 it may do worse") == 1


@pytest.mark.slow
def test_a_caption_is_the_prompt_or_goes_before_it(dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def caption(image: Image.Image, name: str, *, device: Any, offline: bool) -> str:
        asked.append((image.size, name, str(device), offline))
        return "a cat on a chair"

    monkeypatch.setattr("dcrafter.captioner.caption", caption)
    arguments = ("animate", CAT, *QUICK, "--frames", "2", "--json", "--auto-prompt", "-o", "a.gif", "--overwrite")
    prompts = []
    for more in ((), ("-p", "yawning", "--captioner", "mine", "--offline")):
        outcome = dcrafter(*arguments, *more)
        assert outcome.status == 0, outcome.stderr
        prompts.append(json.loads(outcome.lines[0])["settings"]["prompt"])
        assert f"cat.png: {prompts[-1]}" in outcome.stderr
    assert prompts == ["a cat on a chair", "a cat on a chair, yawning"]
    with Image.open(CAT) as image:
        assert asked == [
            (image.size, "Salesforce/blip-image-captioning-base", "cpu", False),
            (image.size, "mine", "cpu", True),
        ]
    asked.clear()
    outcome = dcrafter(*arguments, "-p", "yawning", "--dry-run")  # must not download
    assert (json.loads(outcome.lines[0])["settings"]["prompt"], asked) == ("yawning", [])
    outcome = dcrafter("animate", "--from", "a.gif", CAT, *QUICK, "--auto-prompt", "--no-auto-prompt", "-o", "b.gif")
    assert (outcome.status, asked) == (0, [])


def test_a_preview_that_cannot_be_is_said_before_anything_is_loaded(
    dcrafter: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it would be downloaded")

    monkeypatch.setattr("dcrafter.weights.hub.fetch", never)
    outcome = dcrafter("animate", CAT, "-m", "512", "--device", "cpu", "--save-preview", "seen.bmp")
    assert outcome.status == 2
    assert "seen.bmp is neither PNG nor JPEG" in outcome.stderr


def forecast(dcrafter: Run, *arguments: str) -> list[str]:
    """The lines of a dry run that tell how long it would take."""
    outcome = dcrafter(*arguments, "--device", "cpu", "--dry-run")
    assert outcome.status == 0, outcome.stderr
    return [line for line in outcome.stderr.splitlines() if line.startswith(("about", "quicker"))][1:]


@pytest.mark.parametrize(
    ("model", "speed", "times"),
    [(MODEL, 2e7, 6.0), pytest.param(("-m", "1024"), 1e12, 6.4, marks=pytest.mark.slow)],
    ids=["small", "1024"],
)
def test_hours_are_told_before_they_begin(
    dcrafter: Run, monkeypatch: pytest.MonkeyPatch, model: tuple[str, ...], speed: float, times: float
) -> None:
    monkeypatch.setattr("dcrafter.runtime.estimate.speed", lambda *_: speed)
    monkeypatch.setattr("dcrafter.cli.forecast.LARGE", 0)  # the small model is soon counted
    time, hint = forecast(dcrafter, "animate", CAT, *model)
    assert re.fullmatch(r"about \d\.\d hours a video", time)
    assert hint == f"quicker: --fast ({times} times), a smaller model, or a smaller --width and --height"
    hours = float(time.split()[1])
    time, hint = forecast(dcrafter, "animate", CAT, *model, "--fast", "--segments", "8")
    assert float(time.split()[1]) == pytest.approx(8 * hours / times, abs=0.2)
    assert "--fast" not in hint


@pytest.mark.slow
def test_minutes_of_all_keyframes_are_told(dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcrafter.runtime.estimate.speed", lambda *_: 2e7)
    monkeypatch.setattr("dcrafter.cli.forecast.LARGE", 0)
    options = ("-m", "tiny", "--steps", "1")
    several, two = (forecast(dcrafter, "interpolate", *images, *options) for images in ([CAT] * 4, [CAT] * 2))
    minutes = [float(line[0].split()[1]) for line in (several, two)]
    assert minutes[0] == pytest.approx(3 * minutes[1], rel=0.05)
    assert len(two) == 1  # no hint: it is not hours


def test_what_a_crop_leaves_is_told_once(dcrafter: Run, tmp_path: Path) -> None:
    Image.new("RGB", (250, 450)).save(tmp_path / "me.png")
    told = "me.png: keeps the middle 56 %"
    assert dcrafter("animate", "me.png", "-m", "tiny", "-n", "2", "--dry-run").stderr.count(told) == 1
    outcome = dcrafter("animate", "me.png", "-m", "tiny", "--fit", "crop:top", "--dry-run", "--json")
    assert "me.png: keeps the top 56 %" in outcome.stderr
    assert json.loads(outcome.stdout)["settings"]["fit"] == "crop:top"
    assert "keeps" not in dcrafter("animate", "me.png", "-m", "tiny", "--fit", "pad", "--dry-run").stderr


def test_frames_that_no_machine_can_make_are_refused_at_once(dcrafter: Run) -> None:
    outcome = dcrafter("animate", CAT, "-m", "tiny", "--width", "16384", "--height", "8192", "--dry-run")
    assert outcome.status == 2
    assert "at most 16 megapixels" in outcome.stderr


@pytest.mark.slow
def test_only_the_result_waits_for_the_disk(dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(video, "_sync", synced.append)
    assert dcrafter("animate", CAT, *QUICK, "-o", "cat.apng").status == 0
    assert [path.parent for path in synced] == [Path()]
    assert dcrafter("animate", CAT, *QUICK, "-o", "-", "-f", "apng").stdout
    assert len(synced) == 1
