"""Flag over --from over environment over file over the model's default."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.running import CAT, MODEL, QUICK, Run
from loopback import Reply, files, served
from PIL import Image
from safetensors.torch import load_file

from dcrafter.config import MODELS, Command
from dcrafter.media import image
from dcrafter.media.image import open_image
from dcrafter.media.video import read_settings, write_video
from dcrafter.settings import Options, resolve
from dcrafter.weights import hub


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of its own."""
    folder = tmp_path / "settings"
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: folder / name)
    return folder / "dcrafter"


def settings(dcrafter: Run, *arguments: str | Path) -> dict[str, Any]:
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run", "--json", *arguments)
    assert outcome.status == 0, outcome.stderr
    found: dict[str, Any] = json.loads(outcome.lines[0])["settings"]
    return found


@pytest.mark.slow
def test_each_wins_over_the_next(dcrafter: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(dcrafter)["steps"] == 50
    home.mkdir(parents=True)
    (home / "config.toml").write_text('steps = 40\nmotion = "high"\nprompt = "from the file"\n[loop]\nrepeat = 2\n')
    assert [settings(dcrafter)[name] for name in ("steps", "motion", "prompt")] == [40, 6, "from the file"]
    other = home / "other.toml"
    other.write_text("steps = 30\n[animate]\nguidance = 2.5\nsegments = 2\n")
    chosen = settings(dcrafter, "--config", other)
    assert [chosen[name] for name in ("steps", "guidance", "segments", "prompt")] == [30, 2.5, 2, ""]
    monkeypatch.setenv("DCRAFTER_STEPS", "20")
    assert settings(dcrafter)["steps"] == 20
    made = dcrafter("animate", CAT, *QUICK, "--seed", "8", "--frames", "2", "-o", "cat.gif")
    assert made.status == 0, made.stderr
    earlier = settings(dcrafter, "--from", "cat.gif")
    assert [earlier[name] for name in ("steps", "seed", "frames", "prompt")] == [1, 8, 2, "from the file"]
    again = settings(dcrafter, "--from", "cat.gif", "--steps", "10", "-p", "another")
    assert [again[name] for name in ("steps", "seed", "prompt")] == [10, 8, "another"]


SIZE = ("width", "height", "fit", "size")


def made_with(found: dict[str, Any], name: str = "earlier.gif") -> Path:
    """A video that says of itself that it was made of the cat with such settings."""
    about = found | {"images": [Path(CAT).name]}
    return write_video(np.zeros((1, 8, 8, 3), np.uint8), name, settings=about, overwrite=True)


def test_a_video_of_its_images_size_is_replayed(dcrafter: Run) -> None:
    first = settings(dcrafter, "--size", "as-input", "--width", "64", "--height", "32", "--seed", "8")
    assert settings(dcrafter, "--from", made_with(first)) == first  # settings() names the image
    Image.new("RGB", (100, 100)).save("square.png")
    outcome = dcrafter("animate", "square.png", *MODEL, "--dry-run", "--json", "--from", "earlier.gif")
    other = json.loads(outcome.lines[0])["settings"]
    assert (other["width"], other["height"]) == (64, 64)


@pytest.mark.slow
def test_another_size_is_not_that_of_the_earlier_video(dcrafter: Run) -> None:
    for before, now in (("as-input", "model"), ("model", "as-input")):
        earlier = made_with(settings(dcrafter, "--size", before, "--seed", "8"))
        fresh, replayed = (settings(dcrafter, "--size", now, *more) for more in ((), ("--from", earlier)))
        assert [replayed[name] for name in SIZE] == [fresh[name] for name in SIZE]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepps = 3", "unknown keys: stepps"),
        ("[animat]\nsteps = 3", "unknown keys: [animat]"),
        ("steps = = 3", "cannot be read"),
        pytest.param("steps = " + 5000 * "[", "cannot be read", id="nested"),
        pytest.param("steps = " + 5000 * "9", "cannot be read", id="huge"),
        pytest.param(f'prompt = ["{5000 * "x"}"]', "must be one value", id="long"),
        ("repeat = 3", "unknown keys: repeat"),
        ('steps = "many"', "mine.toml: --steps must be a whole number, not many"),
        ("fast = 3", "mine.toml: --fast must be true or false, not 3"),
        ('prompt = ["a", "b"]', "must be one value, not a list"),
        ("[loop]\nrepeet = 3", "unknown keys: repeet in [loop]"),
        ('noise = "x"', "unknown keys: noise"),
    ],
)
def test_files_that_mean_nothing(dcrafter: Run, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run", "--config", path)
    assert outcome.status == 2
    assert message in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_wrong_values_of_the_environment_are_said_to_be_from_there(
    dcrafter: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCRAFTER_GUIDANCE_RESCALE", "much")
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run")
    assert outcome.status == 2
    assert (
        "DCRAFTER_GUIDANCE_RESCALE in the environment: --guidance-rescale must be a number, not much" in outcome.stderr
    )


def test_what_a_file_says_of_the_format_gives_way_to_a_flag(dcrafter: Run, home: Path) -> None:
    def planned(*arguments: str) -> str:
        outcome = dcrafter("animate", CAT, *MODEL, "--dry-run", "--json", *arguments)
        assert outcome.status == 0, outcome.stderr
        path: str = json.loads(outcome.lines[0])["path"]
        return path

    home.mkdir(parents=True)
    (home / "config.toml").write_text('format = "gif"\n')
    assert [planned(), planned("-o", "x.mp4"), planned("-o", "x.bin")] == ["cat.gif", "x.mp4", "x.bin"]
    (home / "config.toml").write_text('codec = "h264"\ncrf = 70\n')
    assert planned("-o", "x.gif") == "x.gif"
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run")  # the file's own, where it has a meaning
    assert "a crf of 70 is out of range" in outcome.stderr
    (home / "config.toml").write_text('codec = "nonesuch"\n')
    assert "nonesuch" in dcrafter("animate", CAT, *MODEL, "--dry-run").stderr  # perhaps PyAV's, and not ignored
    (home / "config.toml").write_text('codec = "h264"\n')
    assert planned("-f", "webm") == "cat.webm"
    assert "webm cannot hold h264" in dcrafter("animate", CAT, *MODEL, "-f", "webm", "--codec", "h264").stderr


def test_a_missing_config_file_is_said(dcrafter: Run) -> None:
    outcome = dcrafter("animate", CAT, *MODEL, "--dry-run", "--config", "nowhere.toml")
    assert outcome.status == 2
    assert "nowhere.toml cannot be read" in outcome.stderr


@pytest.mark.slow
def test_short_forms_stand_where_they_are_said(dcrafter: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir(parents=True)
    path = home / "config.toml"
    path.write_text("steps = 40\n")

    def chosen(*arguments: str) -> tuple[str, int, float]:
        found = settings(dcrafter, *arguments)
        return found["sampler"], found["steps"], found["eta"]

    assert chosen() == ("ddim", 40, 1.0)
    assert chosen("--fast") == ("dpm++", 13, 0.0)  # a flag wins over a file
    assert chosen("--fast", "--steps", "20") == ("dpm++", 20, 0.0)  # what is said outright wins over a short form
    kept = settings(dcrafter, "--fast", "--deep-every", "3")
    assert (kept["guidance_every"], kept["deep_every"]) == (2, 3)
    path.write_text("fast = true\n")
    assert chosen() == ("dpm++", 13, 0.0)
    assert chosen("--sampler", "ddim") == ("ddim", 13, 1.0)
    assert chosen("--no-fast") == ("ddim", 50, 1.0)
    monkeypatch.setenv("DCRAFTER_STEPS", "30")
    assert chosen() == ("dpm++", 30, 0.0)  # the environment wins over a file


@pytest.mark.slow
def test_what_a_file_switches_on_a_flag_switches_off(dcrafter: Run, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "config.toml").write_text("color-match = true\nno-metadata = true\n")
    assert settings(dcrafter)["color_match"]
    assert not settings(dcrafter, "--no-color-match")["color_match"]
    for more, status in (((), 2), (("--metadata",), 0)):
        assert dcrafter("animate", CAT, *QUICK, "--frames", "2", "-o", f"{status}.gif", *more).status == 0
        assert dcrafter("animate", CAT, *QUICK, "--dry-run", "--from", f"{status}.gif").status == status
    (home / "config.toml").write_text("no-fast = true\n")
    assert "unknown keys: no-fast" in dcrafter("animate", CAT, *MODEL, "--dry-run").stderr


@pytest.fixture
def earlier(tmp_path: Path) -> Callable[..., Path]:
    """Writes a video that says it was made in some way, by tiny unless told otherwise."""

    def write(
        command: Command = "animate", model: str = "tiny", images: list[str] | None = None, **options: Any
    ) -> Path:
        settled = resolve(MODELS[model], command, "a cat", 7, Options(**options)).to_dict()
        told = {**settled, "images": images or ["cat.png"], "checkpoint": "0123", "dtype": "float32", "version": "0"}
        frames = np.zeros((2, 16, 16, 3), np.uint8)
        return write_video(frames, tmp_path / "earlier.gif", fps=8, settings=told, overwrite=True)

    return write


@pytest.fixture
def again(dcrafter: Run, earlier: Callable[..., Path], uncounted: None) -> Callable[..., dict[str, Any]]:
    """What is made of the earlier video's settings."""

    def planned(command: str, *arguments: str) -> dict[str, Any]:
        outcome = dcrafter(command, CAT, "--from", "earlier.gif", *arguments, "--device", "cpu", "--dry-run", "--json")
        assert outcome.status == 0, outcome.stderr
        found: dict[str, Any] = json.loads(outcome.lines[0])["settings"]
        return found

    return planned


Again = Callable[..., dict[str, Any]]


def test_another_model_has_its_own_defaults(earlier: Callable[..., Path], again: Again) -> None:
    earlier(fps=10.0, motion="high", context_scale=0.8, negative_prompt="rain")
    same, other = again("animate"), again("animate", "-m", "512")
    tiny, model = (resolve(MODELS[name], "animate", "", 0, {"motion": "high"}) for name in ("tiny", "512"))
    for found, expected in ((same, tiny), (other, model)):
        for name in ("model", "steps", "guidance", "width", "height", "motion", "frames"):
            assert found[name] == getattr(expected, name), name
        assert [found[name] for name in ("fps", "prompt", "negative_prompt", "seed")] == [10.0, "a cat", "rain", 7]
        assert found["context_scale"] == 0.8
    earlier(steps=7, motion=17)
    assert again("animate", "-m", "512")["steps"] == 7
    assert again("animate", "-m", "512")["motion"] == 17  # FPS both
    assert again("animate", "-m", "256")["motion"] == MODELS["256"].motion.default  # a frame stride there
    earlier(model="512", width=320, height=512)  # a portrait's, turned by itself
    assert again("animate", "-m", "tiny")["width"] == 128


def test_files_of_options_are_looked_up_by_their_bare_names(
    dcrafter: Run, earlier: Callable[..., Path], again: Again, tmp_path: Path
) -> None:
    (tmp_path / "mask.png").write_bytes(Path(CAT).read_bytes())
    earlier(mask=tmp_path / "mask.png")
    assert again("animate")["mask"] == "mask.png"
    (tmp_path / "mask.png").rename(tmp_path / "other.png")
    outcome = dcrafter("animate", CAT, "--from", "earlier.gif", "--dry-run")
    assert "the file mask.png, with which earlier.gif was made, is not here. Give it with --mask" in outcome.stderr
    assert again("animate", "--mask", "other.png")["mask"] == "other.png"


def test_another_command_and_another_sampler_have_their_own_defaults(
    earlier: Callable[..., Path], again: Again
) -> None:
    earlier()
    assert (again("animate")["frames"], again("loop")["frames"]) == (16, 15)
    assert again("animate", "--fast")["eta"] == 0.0
    earlier(eta=0.5, frames=5)
    assert (again("loop")["frames"], again("animate", "--sampler", "dpm++")["eta"]) == (5, 0.5)
    earlier(model="512", sampler="dpm++", segments=2)
    found = again("animate", "-m", "1024")
    assert (found["sampler"], found["eta"], found["segments"]) == ("dpm++", 0.0, 2)
    assert again("loop", "-m", "512-interp")["sampler"] == "dpm++"


@pytest.mark.slow
def test_other_pictures_lie_as_they_lie(earlier: Callable[..., Path], again: Again) -> None:
    """CAT is as wide as high: what was turned with a portrait is not turned with it."""
    earlier(model="512", width=320, height=512)
    assert [again("animate", "-m", "512")[side] for side in ("width", "height")] == [512, 320]
    earlier(model="512", width=256, height=256)
    assert [again("animate", "-m", "512")[side] for side in ("width", "height")] == [256, 256]


def test_other_weights_of_the_same_name_are_said(dcrafter: Run, earlier: Callable[..., Path]) -> None:
    earlier(model="256", width=64, height=64, steps=1, frames=2)
    outcome = dcrafter("animate", CAT, "--from", "earlier.gif", *MODEL, "-o", "a.gif")
    assert outcome.status == 0, outcome.stderr
    assert "earlier.gif was made with other weights of the 256 model; the result will differ" in outcome.stderr
    outcome = dcrafter("animate", CAT, "--from", "a.gif", *MODEL, "-o", "b.gif")
    assert "other weights" not in outcome.stderr


def test_a_model_that_is_not_here(dcrafter: Run, earlier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "mine", replace(MODELS["tiny"], name="mine"))
    earlier(model="mine")
    monkeypatch.delitem(MODELS, "mine")
    outcome = dcrafter("animate", CAT, "--from", "earlier.gif", "--dry-run")
    assert outcome.status == 2
    assert "the model mine, with which earlier.gif was made, is not on this machine" in outcome.stderr
    assert dcrafter("animate", CAT, "--from", "earlier.gif", "-m", "tiny", "--dry-run").status == 0


@pytest.mark.slow
def test_pictures_are_found_again(dcrafter: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "cat.png").write_bytes(Path(CAT).read_bytes())
    assert dcrafter("animate", "made/cat.png", *QUICK, "--frames", "2", "-o", "made/a.gif").status == 0
    opened: list[Any] = []
    monkeypatch.setattr(image, "open_image", lambda source, **_: (opened.append(source), open_image(source))[1])
    assert dcrafter("animate", "--from", "made/a.gif", *QUICK, "-o", "b.gif").status == 0
    assert opened[0] == "made/cat.png"  # beside the result, before the one that is here
    assert dcrafter("animate", "-", *QUICK, "--frames", "2", "-o", "s.gif", stdin=Path(CAT).read_bytes()).status == 0
    assert "an image from stdin, of which s.gif was made" in dcrafter("animate", "--from", "s.gif", *QUICK).stderr


@pytest.mark.slow
def test_a_picture_from_the_web(dcrafter: Run, tmp_path: Path) -> None:
    with served(files({"/cat.png": Path(CAT).read_bytes()})) as address:
        made = dcrafter("animate", f"{address}/cat.png?token=1", *QUICK, "--save-latents", "a.safetensors")
        assert made.status == 0, made.stderr
        assert made.lines == ["cat.mp4"]
        told = read_settings(tmp_path / "cat.mp4")
        assert told is not None
        assert told["images"] == [f"{address}/cat.png"]
        again = dcrafter(
            "animate",
            f"{address}/cat.png",
            "--from",
            "cat.mp4",
            *QUICK,
            "-o",
            "b.gif",
            "--save-latents",
            "b.safetensors",
        )
        assert again.status == 0, again.stderr
        missing = dcrafter("animate", f"{address}/dog.png", *QUICK)
    assert (missing.status, missing.stderr.count("\n")) == (2, 1)
    assert "404 Not Found" in missing.stderr
    latents = [load_file(tmp_path / f"{name}.safetensors")["final_latents"] for name in "ab"]
    assert latents[0].equal(latents[1])


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../secret.png", "..", ".", "", "a/../../secret.png", r"..\secret.png", r"C:secret.png"]
)
def test_a_result_names_no_files_elsewhere(
    dcrafter: Run, earlier: Callable[..., Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.png").write_bytes(Path(CAT).read_bytes())
    folder = tmp_path / "here" / "a"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    earlier(images=[name]).rename("earlier.gif")
    outcome = dcrafter("animate", "--from", "earlier.gif", *QUICK, "--dry-run")
    assert outcome.status == 2
    assert "of which earlier.gif was made, is not here" in outcome.stderr


@pytest.mark.parametrize("name", ["a" * 5000, "nothing", "folder"])
def test_names_in_a_result_that_no_file_has(dcrafter: Run, earlier: Callable[..., Path], name: str) -> None:
    Path("folder").mkdir()
    for images, more in (([name], {}), (["cat.png"], {"mask": name}), (["cat.png"], {"lora": name})):
        told = read_settings(earlier(images=images)) or {}
        told |= {"lora": [{"name": name, "hash": "0", "scale": 1.0}]} if "lora" in more else more
        write_video(np.zeros((2, 16, 16, 3), np.uint8), "earlier.gif", settings=told, overwrite=True)
        outcome = dcrafter("animate", *([] if more == {} else [CAT]), "--from", "earlier.gif", "--dry-run")
        assert outcome.status == 2
        assert "unexpected" not in outcome.stderr


def test_a_missing_lora_is_said_in_a_dry_run_too(dcrafter: Run) -> None:
    for model in ("tiny", "512"):
        outcome = dcrafter("animate", CAT, "-m", model, "--lora", "nowhere.safetensors", "--dry-run")
        assert outcome.status == 4
        assert "nowhere.safetensors" in outcome.stderr


def test_a_message_is_not_as_long_as_the_value(dcrafter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCRAFTER_STEPS", 100_000 * "9")
    assert len(dcrafter("animate", CAT, "--dry-run").stderr) < 2000


def test_a_result_sends_no_requests(dcrafter: Run, earlier: Callable[..., Path]) -> None:
    requests: list[str] = []

    def answer(path: str, posted: bytes) -> Reply:
        requests.append(path)
        return files({"/cat.png": Path(CAT).read_bytes()})(path, posted)

    with served(answer) as address:
        earlier(images=[f"{address}/cat.png"])
        outcome = dcrafter("animate", "--from", "earlier.gif", *QUICK, "--dry-run")
        assert outcome.status == 2
        assert "is not fetched unasked. Name it before --from" in outcome.stderr
        assert requests == []
        named = dcrafter("animate", f"{address}/cat.png", "--from", "earlier.gif", *QUICK, "--dry-run")
        assert named.status == 0, named.stderr
        assert requests == ["/cat.png"]


def test_a_result_downloads_no_model(
    dcrafter: Run, earlier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "acquire", lambda *_: pytest.fail("downloads"))
    earlier(model="512")
    for dry in ((), ("--dry-run",)):
        outcome = dcrafter("animate", CAT, "--from", "earlier.gif", *dry)
        assert outcome.status == 2
        assert "the model 512, with which earlier.gif was made, is not on this machine" in outcome.stderr
        assert "dcrafter download 512" in outcome.stderr


EARLIER = ("-p", "cat", "--seed", "3", "--motion", "high", "--context-scale", "1:0.5", "--frames", "3")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "webp", "apng", "frames"])
def test_every_format_holds_what_it_was_made_with(dcrafter: Run, suffix: str) -> None:
    first = settings(dcrafter, *EARLIER)
    assert settings(dcrafter, "--from", made_with(first, f"earlier.{suffix}")) == first


def test_an_earlier_result_is_made_again(dcrafter: Run, tmp_path: Path) -> None:
    first = dcrafter("animate", CAT, *QUICK, *EARLIER, "-o", "cat.mp4", "--save-latents", "a.safetensors")
    assert first.status == 0, first.stderr
    Path("cat.png").write_bytes(Path(CAT).read_bytes())  # found by its name
    weights = QUICK[: QUICK.index("--device")]
    again = dcrafter("animate", "--from", "cat.mp4", *weights, "-o", "b.gif", "--save-latents", "b.safetensors")
    assert again.status == 0, again.stderr
    assert (tmp_path / "b.gif").exists()
    latents = [load_file(tmp_path / f"{name}.safetensors")["final_latents"] for name in "ab"]
    assert latents[0].equal(latents[1])


def test_what_no_result_can_be_made_from(dcrafter: Run, tmp_path: Path) -> None:
    outcome = dcrafter("animate", CAT, *QUICK, "--from", CAT)
    assert (outcome.status, outcome.stdout) == (2, b"")
    assert "holds no settings" in outcome.stderr
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    whole = resolve(MODELS["tiny"], "animate", "", 1, {}).to_dict()
    huge = (
        whole | {"prompt": "x" * 10_000_000},
        whole | {"prompt": "x" * 20_000},
        whole | {"images": ["cat.png"] * 2000},
        whole | {"context_scale": [1.0] * 20_000},
    )
    for odd in ({"seed": 1}, whole | {"model": ["tiny"]}, whole | {"steps": "many"}, whole | {"images": [1]}, *huge):
        write_video(frames, "odd.gif", settings=odd, overwrite=True)
        outcome = dcrafter("animate", CAT, "--from", "odd.gif", "--dry-run")
        assert outcome.status == 2
        assert "holds no settings" in outcome.stderr
    assert dcrafter("animate", CAT, *QUICK, "--frames", "2", "-o", "cat.gif").status == 0
    outcome = dcrafter("animate", *QUICK, "--from", "cat.gif")
    assert outcome.status == 2
    assert "the image cat.png, of which cat.gif was made, is not here" in outcome.stderr
