from __future__ import annotations

import itertools
import logging
import operator
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import open_golden, run
from PIL import Image
from safetensors.torch import save_file

import dcrafter
from dcrafter.conditions import Conditions, Noise, seeded_noise
from dcrafter.config import MODELS
from dcrafter.errors import InputError, NumericalError, UsageError, WeightsError
from dcrafter.events import Decoding, Done, Encoding, Loading, Step
from dcrafter.media import image as module
from dcrafter.media.image import fit_image, fit_reference, open_image, to_frames, to_tensor
from dcrafter.media.video import read_settings, read_video
from dcrafter.models import fast
from dcrafter.models.autoencoder import DecodingStep
from dcrafter.models.dynamicrafter import References
from dcrafter.pipeline import Pipeline, kept_frames
from dcrafter.runtime import estimate
from dcrafter.settings import MEMORY_PLANS, Options, resolve

QUICK: Options = {"steps": 1, "width": 64, "height": 64, "guidance": 1.0}


@pytest.fixture
def pipe(golden: Path) -> Pipeline:
    return open_golden(golden / "dc256")


def test_a_photograph_becomes_a_playable_video(pipe: Pipeline, cat: Path, tmp_path: Path) -> None:
    video = pipe.animate(cat, "cat yawning", seed=1, **QUICK)
    assert video.frames.shape == (16, 64, 64, 3)
    assert video.frames.dtype == np.uint8
    path = video.save(tmp_path / "cat.mp4")
    frames, fps = read_video(path)
    assert frames.shape == (16, 64, 64, 3)
    assert fps == 8
    settings = read_settings(path)
    assert settings == video.settings
    assert settings["prompt"] == "cat yawning"
    assert settings["seed"] == 1
    assert settings["images"] == ["cat.png"]
    assert settings["version"] == dcrafter.__version__
    assert len(settings["checkpoint"]) == 64
    assert str(cat.parent) not in str(settings)
    assert read_settings(video.save(tmp_path / "bare.mp4", metadata=False)) is None


def test_a_seed_means_a_video(pipe: Pipeline, cat: Path) -> None:
    one, again, other = (pipe.animate(cat, "cat", seed=seed, **QUICK) for seed in (1, 1, 2))
    assert torch.equal(one.latents, again.latents)
    assert np.array_equal(one.frames, again.frames)
    assert not torch.allclose(one.latents, other.latents)


def test_pictures_may_be_paths_images_or_arrays(pipe: Pipeline, cat: Path) -> None:
    image = Image.open(cat).convert("RGB")
    sources: list[Any] = [cat, str(cat), cat.read_bytes(), image, np.asarray(image)]
    first, *rest = (pipe.animate(source, "cat", **QUICK).latents for source in sources)
    assert all(torch.equal(first, latents) for latents in rest)


def test_events_come_in_the_order_of_the_work(pipe: Pipeline, cat: Path) -> None:
    settings = resolve(pipe.config, "animate", "cat", 0, QUICK | {"steps": 3})
    events = list(pipe.generate([cat], settings))
    others = [event for event in events if not isinstance(event, Loading)]
    assert [e.what for e in others if isinstance(e, Encoding)] == ["prompt", "picture", "frames"]
    assert [(e.index, e.total) for e in others if isinstance(e, Step)] == [(1, 3), (2, 3), (3, 3)]
    assert [(e.frame, e.total) for e in others if isinstance(e, Decoding)] == [(i, 16) for i in range(1, 17)]
    assert isinstance(events[-1], Done)
    loaded = list(dict.fromkeys(e.component for e in events if isinstance(e, Loading)))
    assert loaded == ["text_encoder", "image_encoder", "projector", "autoencoder", "unet"]
    finished = [e for e in events if isinstance(e, Loading) and e.done == e.total]
    assert [e.component for e in finished] == [*loaded, "autoencoder"]


def test_a_stream_is_a_video_with_its_events(pipe: Pipeline, cat: Path) -> None:
    *events, done = pipe.stream("animate", cat, "cat", seed=3, **QUICK | {"steps": 2})
    assert isinstance(done, Done)
    assert [event.index for event in events if isinstance(event, Step)] == [1, 2]
    alone = pipe.animate(cat, "cat", seed=3, **QUICK | {"steps": 2})
    assert np.array_equal(done.video.frames, alone.frames)
    assert done.video.settings == alone.settings


def test_a_stream_is_checked_before_anything_is_done(pipe: Pipeline, cat: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="animate takes one image, not 2"):
        pipe.stream("animate", [cat, cat])
    with pytest.raises(UsageError, match="interpolate takes two images or more, not 1"):
        pipe.stream("interpolate", [cat])
    with pytest.raises(UsageError, match="no option step"):
        pipe.stream("animate", cat, step=3)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="none"):
        pipe.stream("animate", tmp_path / "none.png")


def test_images_are_opened_once(pipe: Pipeline, cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    opening = module._opened
    monkeypatch.setattr(module, "_opened", lambda source, name: opened.append(name) or opening(source, name))
    with cat.open("rb") as file:  # that can be read only once
        videos = [pipe.animate(source, "cat", **QUICK) for source in (cat, file)]
    assert opened.count(str(cat)) == 1
    assert np.array_equal(videos[0].frames, videos[1].frames)


def test_one_component_at_a_time_holds_memory(pipe: Pipeline, cat: Path) -> None:
    """The image tower and its projector count as one."""
    holding = set()
    for event in pipe.generate([cat], resolve(pipe.config, "animate", "cat", 0, QUICK)):
        if not isinstance(event, Loading):
            children = pipe.model.named_children()
            holding.add(tuple(n for n, m in children if not all(weight.is_meta for weight in m.parameters())))
    assert holding - {()} == {
        ("text_encoder",),
        ("image_encoder", "projector"),
        ("autoencoder",),
        ("unet",),
    }


def test_noise_is_drawn_in_the_promised_order(pipe: Pipeline, cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def recording(seed: int) -> Callable[[tuple[int, ...]], torch.Tensor]:
        draw = seeded_noise(seed)
        return lambda shape: shapes.append(shape) or draw(shape)  # type: ignore[func-returns-value]

    monkeypatch.setattr("dcrafter.pipeline.seeded_noise", recording)
    pipe.animate(cat, "cat", **QUICK | {"steps": 2, "eta": 0.0})
    video = (1, 4, 16, 8, 8)
    assert shapes == [(1, 4, 8, 8), video, video, video]
    shapes.clear()
    pipe.config = replace(pipe.config, commands=("loop",))
    pipe.loop(cat, "cat", **QUICK)
    assert shapes == [(2, 4, 8, 8), video, video]


def test_a_component_that_overflows_is_run_once_more_in_float32(
    golden: Path, cat: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = open_golden(golden / "dc256", dtype=torch.bfloat16)
    decode = pipe.model.autoencoder.decode

    def overflowing(latents: torch.Tensor) -> torch.Tensor:
        out = decode(latents)
        in_half = pipe.model.autoencoder.quant_conv.weight.dtype != torch.float32
        return out * torch.inf if in_half else out

    monkeypatch.setattr(pipe.model.autoencoder, "decode", overflowing)
    with caplog.at_level(logging.WARNING):
        video = pipe.animate(cat, "cat", **QUICK)
    assert caplog.text.count("going on in float32") == 1
    assert video.frames.std() > 0
    assert {p.dtype for p in pipe.model.autoencoder.parameters()} == {torch.float32}


def test_sampling_that_overflows_begins_again_with_the_same_noise(
    golden: Path, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, half = (open_golden(golden / "dc256", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    settings = resolve(exact.config, "animate", "cat", 0, QUICK | {"steps": 3})
    picture = to_tensor(fit_image(open_image(cat), 64, 64))
    conditions = returned(exact.encode(picture[None], settings, seeded_noise(0)))
    denoise, evaluations = half.model.denoise, itertools.count(1)

    def overflowing(*given: torch.Tensor) -> torch.Tensor:
        in_half = half.model.unet.conv_in.weight.dtype != torch.float32
        return denoise(*given) * (torch.inf if in_half and next(evaluations) == 2 else 1)

    monkeypatch.setattr(half.model, "denoise", overflowing)
    expected = returned(exact.sample(conditions, settings, seeded_noise(1)))
    events, sampled = run(half.sample(conditions, settings, seeded_noise(1)))
    assert [event.index for event in events if isinstance(event, Step)] == [1, 1, 2, 3]
    assert sampled.equal(expected)


@pytest.mark.parametrize("part", ["encode_text", "encode_image", "encode_frames", "denoise", "autoencoder.decode"])
def test_values_that_are_not_finite_never_get_out(
    pipe: Pipeline, cat: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = operator.attrgetter(part)(pipe.model)
    owner = pipe.model.autoencoder if part.startswith("autoencoder") else pipe.model
    monkeypatch.setattr(owner, whole.__name__, lambda *args: whole(*args) * torch.nan)
    with pytest.raises(NumericalError, match="NaN"):
        pipe.animate(cat, "cat", **QUICK)


def returned(events: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def test_interpolation_and_loops(golden: Path) -> None:
    checkpoint_dir = golden / "dc512"
    pipe = Pipeline.from_pretrained(
        "512-interp",
        checkpoint=checkpoint_dir / "model.safetensors",
        model_config=checkpoint_dir / "config.json",
        device="cpu",
        dtype="float32",
    )
    first, last = (checkpoint_dir / f"interpolate_input{i}.png" for i in (0, 1))
    options = QUICK | {"width": 96}
    between = pipe.interpolate([first, last], "a smiling girl", **options)
    assert between.frames.shape == (16, 64, 96, 3)
    assert between.settings["images"] == ["interpolate_input0.png", "interpolate_input1.png"]
    loop = pipe.loop(first, "a smiling girl", **options)
    assert loop.frames.shape == (15, 64, 96, 3)
    with pytest.raises(UsageError, match="does not animate"):
        pipe.animate(first, "", **options)
    pipe.config = replace(pipe.config, keeps_ends=True)
    kept = pipe.interpolate([first, last], "a smiling girl", **options).latents
    assert kept[:, :, 1:-1].equal(between.latents[:, :, 1:-1])
    settings = resolve(pipe.config, "interpolate", "", 0, options)
    (prepared,) = returned(pipe.prepare([([first, last], settings)]))
    given = prepared.conditions.concat_latents
    assert kept[:, :, [0, -1]].equal(given[:, :, [0, -1]])
    assert not kept[:, :, [0, -1]].equal(between.latents[:, :, [0, -1]])
    joined = pipe.loop(first, "a smiling girl", **options).latents
    assert joined[:, :, 1:-1].equal(loop.latents[:, :, 1:-1])
    assert joined[:, :, 0].equal((loop.latents[:, :, 0] + loop.latents[:, :, -1]) / 2)
    assert joined[:, :, -1].equal(joined[:, :, 0])


@pytest.mark.parametrize(
    ("command", "frames", "kept"),
    [
        ("animate", 16, list(range(16))),
        ("animate", 4, [0, 5, 10, 15]),
        ("animate", 1, [0]),
        ("interpolate", 2, [0, 15]),
        ("loop", 15, list(range(15))),
        ("loop", 5, [0, 3, 6, 9, 12]),
    ],
)
def test_fewer_frames_are_taken_evenly_from_those_sampled(command: Any, frames: int, kept: list[int]) -> None:
    settings = resolve(MODELS["tiny"], command, "", 0, {"frames": frames})
    assert kept_frames(settings) == kept


def test_a_prompt_that_is_cut_is_said_to_be(pipe: Pipeline, cat: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pipe.animate(cat, "very " * 80 + "happy cat", **QUICK)
    assert "longer than the 75 tokens" in caplog.text


def test_an_unreadable_picture_is_said_before_any_weights_are_read(pipe: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        pipe.animate(tmp_path / "none.png", "cat")
    assert next(pipe.model.text_encoder.parameters()).is_meta


def test_weights_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCRAFTER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    assert dcrafter.load().config.name == "tiny"  # which comes along
    monkeypatch.setattr("dcrafter.weights.hub.EMBEDDED", tmp_path / "none")
    with pytest.raises(WeightsError, match="no model for animate"):
        dcrafter.load()
    with pytest.raises(WeightsError, match="--offline"):
        dcrafter.load("512", offline=True)
    with pytest.raises(UsageError, match="no model 42"):
        dcrafter.load("42")
    with pytest.raises(UsageError, match="does not loop"):
        dcrafter.load("512", command="loop")


@pytest.mark.parametrize(("name", "value"), [("device", "abacus"), ("dtype", "int8")])
def test_devices_and_types_that_do_not_exist(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=value):
        dcrafter.load("512", **{name: value})


def test_videos_sampled_together_are_those_sampled_singly(golden: Path, cat: Path) -> None:
    pipe = open_golden(golden / "dc256")
    settings = resolve(pipe.config, "animate", "cat", 0, {**QUICK, "guidance": 2.0, "guidance_rescale": 0.7})
    pictures = [to_tensor(fit_image(open_image(cat), 64, 64, fit)) for fit in ("crop", "stretch")]

    conditions = [returned(pipe.encode(picture[None], settings, seeded_noise(i))) for i, picture in enumerate(pictures)]
    draws = [torch.randn(2, *c.concat_latents.shape) for c in conditions]

    def noise(number: int | None) -> Noise:
        steps = iter(zip(*draws, strict=True) if number is None else ((step,) for step in draws[number]))
        return lambda _: torch.cat(next(steps))

    singly = [returned(pipe.sample(c, settings, noise(i))) for i, c in enumerate(conditions)]
    together = returned(pipe.sample(Conditions.together(conditions), settings, noise(None)))
    assert not torch.allclose(*singly, atol=1e-2)
    torch.testing.assert_close(together, torch.cat(singly), atol=1e-4, rtol=1e-4)
    assert returned(pipe.decode(together[:, :, :2])).shape == (2, 3, 2, 64, 64)


def test_memory_plans_give_the_same_video(golden: Path, cat: Path) -> None:
    latents = {}
    for plan in MEMORY_PLANS:
        pipe = open_golden(golden / "dc256")
        pipe.residency.choose_plan(resolve(pipe.config, "animate", "", 0, QUICK), plan)
        latents[plan] = pipe.animate(cat, "cat", seed=1, **QUICK).latents
    for _ in pipe.residency.ensure_loaded("unet"):  # of the plan that is left, min
        pass
    held = sum(p.numel() for p in pipe.model.unet.parameters() if not p.is_meta)
    assert held < 0.3 * sum(p.numel() for p in pipe.model.unet.parameters())
    blocks = [module for block in pipe.model.unet.blocks().values() for module in block.modules()]
    assert not any(set(vars(module)) & {*fast.REPLACED} for module in blocks)  # nor as packed ones
    for plan in ("low", "min"):
        torch.testing.assert_close(latents["normal"], latents[plan], atol=1e-5, rtol=1e-5)


def test_memory_is_chosen_by_what_is_free(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = resolve(pipe.config, "animate", "", 0, QUICK)
    need = estimate.memory(pipe.model, settings, pipe.dtype, "low", pipe.device)
    for free, plan in ((10**15, "normal"), (need + 1, "low"), (1, "min")):
        monkeypatch.setattr("dcrafter.runtime.residency.free_memory", lambda _, free=free: free)
        pipe.residency.choose_plan(settings)
        assert pipe.residency.plan == plan
    assert not pipe.residency.downgrade_plan()
    pipe.residency.choose_plan(settings, "normal")
    assert pipe.residency.downgrade_plan()
    assert pipe.residency.plan == "low"


def test_a_prompt_is_encoded_once(pipe: Pipeline, cat: Path) -> None:
    settings = resolve(pipe.config, "animate", "a cat", 0, QUICK)
    loaded = [[e.component for e in pipe.generate([cat], settings) if isinstance(e, Loading)] for _ in range(2)]
    assert "text_encoder" in loaded[0]
    assert "text_encoder" not in loaded[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options", "frames"),
    [
        ("animate", {"segments": 2, "frames": 4}, [(0,), (0, None)]),
        ("interpolate", {"frames": 4}, [(0, 3), (0, 3)]),
        ("loop", {"frames": 4}, [(0, 4)]),
    ],
)
def test_frames_are_decoded_beside_their_keyframes_at_the_output_size(
    pipe: Pipeline, cat: Path, command: Any, options: Options, frames: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.config = pipe.model.config = replace(pipe.config, commands=(command,), output_scale=2)
    given: list[References] = []
    encoded: list[torch.Tensor] = []
    decode, encode = pipe.model.decode_clips, pipe.model.encode_frames

    def recording(latents: torch.Tensor, kept: list[int], references: References) -> Iterator[DecodingStep]:
        given.append(references)
        return decode(latents, kept, references)

    monkeypatch.setattr(pipe.model, "decode_clips", recording)
    monkeypatch.setattr(pipe.model, "encode_frames", lambda x, noise: encoded.append(x) or encode(x, noise))
    options = {**QUICK, **options, "color_match": True}
    mirrored = np.asarray(open_image(cat))[:, ::-1]
    images = [cat, mirrored, cat] if command == "interpolate" else [cat]
    *_, done = pipe.generate(images, resolve(pipe.config, command, "cat", 0, options))
    assert isinstance(done, Done)
    assert done.video.frames.shape[1:] == (128, 128, 3)
    assert [references.frames for references in given] == frames
    assert {x.shape[1:] for x in encoded} == {(3, 64, 64)}
    large = [to_tensor(fit_reference(open_image(i), 128, 128)) for i in images]
    assert given[0].images[0, 0].equal(large[0])
    if command == "animate":
        last, original = given[1].images[0]
        assert original.equal(large[0])
        assert np.array_equal(to_frames(last[:, None])[0], done.video.frames[3])
        torch.testing.assert_close(encoded[1], torch.nn.functional.avg_pool2d(last[None], 2))
    if command == "interpolate":
        assert all(given[part].images[0].equal(torch.stack(large[part : part + 2])) for part in (0, 1))


@pytest.mark.slow
def test_sampling_starts_later_from_what_is_known_of_the_data(pipe: Pipeline, cat: Path, tmp_path: Path) -> None:
    def generated(**options: Any) -> torch.Tensor:
        return pipe.animate(cat, "cat", **QUICK | options).latents  # type: ignore[typeddict-item]

    channels = pipe.config.autoencoder.latent_channels
    file = tmp_path / "initial.safetensors"
    known = {"Expectation_X0": torch.zeros(1, channels, 16, 4, 4), "Tr_Cov_d": torch.tensor(1.0)}
    save_file(known, file)
    usual, early = generated(), generated(start=0.5)
    assert not early.allclose(usual)
    assert not generated(start=0.5, init_noise=file).allclose(early)
    torch.testing.assert_close(generated(init_noise=file), usual, atol=1e-4, rtol=1e-4)  # mean 0 and variance 1
    save_file({"Expectation_X0": torch.zeros(1, channels + 1, 1, 4, 4)}, file)
    with pytest.raises(InputError, match="no initial noise for this model"):
        generated(init_noise=file)
    file.write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="holds no initial noise"):
        generated(init_noise=file)
    with pytest.raises(UsageError, match="--init-noise must be a file that is here"):
        generated(init_noise=tmp_path / "none")
    with pytest.raises(UsageError, match="--steps must be at most 10 with this --start"):
        generated(start=0.01, steps=11)


def test_noise_on_the_image_is_what_the_model_sees(pipe: Pipeline, cat: Path) -> None:
    def encoded(**options: Any) -> torch.Tensor:
        settings = resolve(pipe.config, "animate", "cat", 0, QUICK | options)  # type: ignore[arg-type]
        (prepared,) = returned(pipe.prepare([([cat], settings)]))
        return prepared.conditions.concat_latents  # type: ignore[no-any-return]

    noise = encoded(image_noise=0.5) - encoded()
    assert noise[:, :, :1].expand_as(noise).equal(noise)  # the same in every frame
    assert noise.std().item() == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("frames", [8, 24])
def test_other_lengths_are_sampled_at_once(pipe: Pipeline, cat: Path, frames: int) -> None:
    video = pipe.animate(cat, "cat", **QUICK, window=frames)
    assert (len(video.frames), video.latents.shape[2]) == (frames, frames)
    assert video.settings["window"] == frames


@pytest.mark.slow
def test_a_long_video_is_sampled_in_windows(pipe: Pipeline, cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    denoise = pipe.model.denoise

    def recording(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((x.shape[2], rest[2].shape[1], rest[3].shape[2]))
        return denoise(x, *rest)

    monkeypatch.setattr(pipe.model, "denoise", recording)
    video = pipe.animate(cat, "cat", **QUICK, frames=40)
    queries = pipe.config.projector.queries_per_frame * pipe.config.projector.frames
    assert seen == [(16, queries, 16)] * 3  # frames, tokens of the image, frames that show it
    assert video.frames.shape == (40, 64, 64, 3)
    assert [event.total for event in pipe.stream("animate", cat, **QUICK, frames=40) if isinstance(event, Step)] == [1]


@pytest.mark.slow
def test_the_built_in_model_makes_any_length(cat: Path) -> None:
    """Its decoder, which looks for motion over all frames, and its joins too."""
    pipe = Pipeline.from_pretrained("tiny", device="cpu")
    assert pipe.animate(cat, "zoom in", steps=2, frames=20).frames.shape == (20, 256, 256, 3)
    loop = pipe.loop(cat, steps=2, frames=23)
    assert (len(loop.frames), loop.latents.shape[2]) == (23, 24)
    assert loop.latents[:, :, 0].equal(loop.latents[:, :, -1])
    assert len(pipe.interpolate([cat, cat], steps=2, window=10).frames) == 10


def test_what_a_mask_leaves_black_stays(pipe: Pipeline, cat: Path, tmp_path: Path) -> None:
    """The left half of the latents is the image's in all frames; the right half is not."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    mask.save(tmp_path / "mask.png")
    video = pipe.animate(cat, "cat", **QUICK | {"steps": 3}, mask=tmp_path / "mask.png", final_rescale=True, eta=0.0)
    settings = resolve(pipe.config, "animate", "cat", 0, QUICK)
    (prepared,) = returned(pipe.prepare([([cat], settings)]))
    apart = (video.latents - prepared.conditions.concat_latents).abs()
    assert apart[..., :4].max() < 0.15  # the noise of ᾱ_0
    assert apart[..., 4:].mean() > 0.3
    assert video.settings["mask"] == "mask.png"


def test_interpolations_may_mix_the_contexts_of_both_images(golden: Path) -> None:
    folder = golden / "dc512"
    pipe = open_golden(folder)
    pipe.config = replace(pipe.config, commands=("interpolate",))
    first, last = (folder / f"interpolate_input{i}.png" for i in (0, 1))

    def context(images: list[Path], **options: Any) -> torch.Tensor:
        settings = resolve(pipe.config, "interpolate", "", 0, QUICK | options)  # type: ignore[arg-type]
        (prepared,) = returned(pipe.prepare([(images, settings)]))  # type: ignore[list-item]
        return prepared.conditions.image  # type: ignore[no-any-return]

    mixed = context([first, last], first_image_weight=0.25)
    torch.testing.assert_close(mixed, 0.25 * context([first, last]) + 0.75 * context([last, first]), atol=1e-5, rtol=0)


def test_a_video_as_large_as_its_image(pipe: Pipeline) -> None:
    picture = Image.new("RGB", (90, 50), "red")
    options: Options = {"steps": 1, "guidance": 1.0, "size": "as-input", "frames": 2}
    pipe.config = replace(pipe.config, width=64, height=64)
    video = pipe.animate(picture, "", **options)
    assert video.frames.shape == (2, 50, 90, 3)
    assert (video.settings["width"], video.settings["height"], video.settings["size"]) == (80, 48, "as-input")


@pytest.mark.slow
def test_kept_outputs_save_evaluations(pipe: Pipeline, cat: Path) -> None:
    counted: list[str] = []
    for name, layer in {"whole": pipe.model.unet.middle, "any": pipe.model.unet.conv_in}.items():
        layer.register_forward_pre_hook(lambda *_, name=name: counted.append(name))

    def evaluated(**options: Any) -> tuple[int, int, float]:
        counted.clear()
        asked = QUICK | {"steps": 4, "guidance": 2.0, "window": 4} | options
        settings = pipe.animate(cat, "cat", **asked).settings  # type: ignore[arg-type]
        assert settings["guidance_interval"] == options.get("guidance_interval", "0-1")
        estimated = estimate.evaluations(pipe.config, resolve(pipe.config, "animate", "cat", 0, asked))  # type: ignore[arg-type]
        return counted.count("any"), counted.count("whole"), estimated

    assert evaluated() == (8, 8, 8)
    assert evaluated(guidance_every=2) == (6, 6, 6)
    assert evaluated(guidance_interval="0.7-1") == (5, 5, 5)
    calls, whole, estimated = evaluated(deep_every=2)
    assert (calls, whole) == (8, 4)
    assert 4 < estimated < 6
    assert evaluated(deep_every=3, guidance_every=2)[:2] == (6, 3)  # deep: both in step 1, one in step 4
    assert evaluated(image_guidance=1.5, guidance_every=4)[0] == 6


def test_deep_features_of_a_failed_evaluation_are_not_kept(golden: Path, cat: Path) -> None:
    pipe = open_golden(golden / "dc256")
    pipe.dtype = pipe.residency.dtype = torch.float16
    broken: list[torch.Tensor] = []

    def overflow(module: torch.nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        if out.dtype == torch.float32:
            return out
        broken.append(out)
        return out * torch.inf

    pipe.model.unet.middle.register_forward_hook(overflow)
    options = QUICK | {"steps": 2, "deep_every": 2}
    latents = pipe.animate(cat, "cat", **options).latents  # type: ignore[arg-type]
    assert len(broken) == 1
    assert latents.isfinite().all()
