from __future__ import annotations

import json
import socket
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import Dataset, default_collate
from training.micro import TRAIN, awake, one_of_two, recipe, run

from dcrafter.config import ScheduleConfig
from dcrafter.errors import InputError
from dcrafter.models.clip import clip_pixels
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.sampling.schedule import sampling_steps, to_eps_and_x0
from dcrafter.training import denoiser, memory
from dcrafter.training.denoiser import DenoiserStage, distance_to_given
from dcrafter.training.inputs import ConditioningDraw, InputEncoder, Inputs
from dcrafter.training.parts import STAGES, initialize, parameter_groups
from dcrafter.training.process import Process
from dcrafter.training.recipe import Conditioning, Recipe
from dcrafter.weights.checkpoint import open_checkpoint, save_checkpoint


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser, "EVALUATION_CLIPS", 2)
    monkeypatch.setattr(denoiser, "SHOWN", 2)
    monkeypatch.setattr(denoiser, "STEPS", 2)


def kind(name: str) -> str:
    """What a parameter of the model is, told from its name alone."""
    component, _, rest = name.partition(".")
    if component != "unet":
        return component
    if "temporal" in rest or rest.startswith("init_attn."):
        return "temporal"
    if "to_k_ip" in rest or "to_v_ip" in rest or rest.endswith(".alpha"):
        return "image attention"
    return "embeddings" if rest.startswith(("time_embed.", "fs_embed.")) else "spatial"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "options", "expected"),
    [
        ("text-to-video", {}, {"temporal", "spatial", "embeddings"}),
        ("context", {}, {"projector", "image attention"}),
        ("adaptation", {}, {"projector", "spatial", "image attention"}),
        ("detail", {}, {"projector", "spatial", "image attention"}),
        ("detail", {"train": "everything"}, {"projector", "spatial", "image attention", "temporal", "embeddings"}),
        ("detail", {"context": False}, {"spatial"}),
        ("detail", {"detail": False}, {"projector", "spatial", "image attention"}),
        ("detail", {"text_encoder": True}, {"projector", "spatial", "image attention", "text_encoder"}),
    ],
)
def test_each_stage_changes_exactly_its_parameters(
    videos: Path, tmp_path: Path, stage: str, options: dict[str, Any], expected: set[str]
) -> None:
    built = awake(DenoiserStage(recipe(stage, single_frames=0.0, **options), videos))
    before = {name: value.clone() for name, value in built.model.named_parameters()}
    run(built, tmp_path)
    changed = {name for name, value in built.model.named_parameters() if not torch.equal(value, before[name])}
    assert {kind(name) for name in changed} == expected
    # λ's every one too: no parameter of a group is left behind but what comes after the layer that text is read from.
    unread = ("text_encoder.transformer.resblocks.1.", "text_encoder.logit_scale", "text_encoder.text_projection")
    of_kind = {name for name in before if kind(name) in expected and not name.startswith(unread)}
    assert changed == of_kind


def test_lambda_stays_where_it_is_not_learned(videos: Path) -> None:
    names = DenoiserStage(recipe("detail", learn_scale=False), videos).trained()
    assert not any(name.endswith("alpha") for name in names)
    assert any(name.endswith("to_k_ip.weight") for name in names)


def test_the_groups_cover_the_unet(videos: Path) -> None:
    unet = DenoiserStage(recipe("detail"), videos).unet
    groups = parameter_groups(unet)
    assert groups == {name: kind(f"unet.{name}") for name, _ in unet.named_parameters()}


class Four(Dataset[Any]):
    def __init__(self, items: Dataset[Any]) -> None:
        self.items = [items[i] for i in range(4)]

    def __getitem__(self, index: int) -> Any:
        return self.items[index % 4]


@pytest.mark.slow
def test_the_loss_falls_on_four_clips(videos: Path, tmp_path: Path) -> None:
    train = replace(TRAIN, steps=60, batch=4, learning_rate=1e-2, evaluate_every=1000)
    stage = DenoiserStage(recipe("detail", train, train="everything", first_frame=1.0), videos)
    stage.dataset = Four(stage.dataset)
    with torch.no_grad():  # latents with little noise of their own
        stage.model.autoencoder.quant_conv.bias[stage.config.autoencoder.latent_channels :] = -6.0

    def loss() -> float:
        batch = default_collate([stage.dataset[i] for i in range(4)])
        with torch.no_grad():
            return sum(float(stage(batch, torch.Generator().manual_seed(i))["loss"]) for i in range(4)) / 4

    before = loss()
    run(stage, tmp_path, train)
    assert loss() < 0.6 * before


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_and_a_resume_give_the_weights_of_no_kill(videos: Path, tmp_path: Path, stage: str) -> None:
    options = {"single_frames": 0.5, "interpolation": 0.5, "loops": 0.5}
    whole = run(DenoiserStage(recipe(stage, **options), videos), tmp_path / "whole")
    half = replace(TRAIN, steps=2, warmup=1)
    run(DenoiserStage(recipe(stage, half, **options), videos), tmp_path / "parts", half)
    resumed = run(DenoiserStage(recipe(stage, **options), videos), tmp_path / "parts")
    assert resumed.step == 4
    for name, value in whole.stage.model.state_dict().items():
        assert torch.equal(value, resumed.stage.model.state_dict()[name]), name
    for name, value in whole.average.values.items():
        assert torch.equal(value, resumed.average.values[name]), name


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_and_pictures(videos: Path, stage: str) -> None:
    built = DenoiserStage(recipe(stage), videos)
    with torch.no_grad():
        metrics = built.evaluate()
    of_motion = {"frame_difference", "frame_difference_of_data"} if stage != "context" else set()
    assert metrics.keys() == {"held_out_loss", "psnr_first_frame"} | of_motion
    assert 0.1 < metrics["held_out_loss"] < 2
    columns = 1 if stage == "context" else 8
    assert built.preview().shape == (4 * 32, columns * 32, 3)


def test_the_image_changes_nothing_before_it_is_trained(videos: Path) -> None:
    stage = DenoiserStage(recipe("detail"), videos)
    batch = default_collate([stage.dataset[i] for i in range(2)])
    awake(stage)
    initialize(stage.unet)
    nn.init.normal_(stage.unet.conv_out.weight)
    inputs = stage.inputs(batch, ConditioningDraw.plain(2), torch.Generator().manual_seed(0))
    assert inputs.concat_latents.abs().max() > 0
    t = torch.tensor([500, 20])
    out = inputs.denoise(stage.unet, inputs.latents, t)
    without = replace(inputs, image=-inputs.image, concat_latents=torch.zeros_like(inputs.concat_latents))
    assert out.abs().max() > 0
    torch.testing.assert_close(without.denoise(stage.unet, inputs.latents, t), out)


def drawn(**values: list[Any]) -> ConditioningDraw:
    return replace(ConditioningDraw.plain(2), **{name: torch.tensor(value) for name, value in values.items()})


def test_what_is_concatenated(videos: Path) -> None:
    stage = DenoiserStage(recipe("detail"), videos)
    batch = default_collate([stage.dataset[i] for i in range(2)])

    def of(given: ConditioningDraw) -> Any:
        return stage.inputs(batch, given, torch.Generator().manual_seed(0))

    anywhere = of(drawn(condition=[0, 7]))
    for i, frame in enumerate((0, 7)):
        expected = anywhere.latents[i, :, frame][:, None].expand(-1, 16, -1, -1)
        assert torch.equal(anywhere.concat_latents[i], expected)
    ends = of(drawn(ends=[True, False]))
    assert torch.equal(ends.concat_latents[0, :, [0, 15]], ends.latents[0, :, [0, 15]])
    assert ends.concat_latents[0, :, 1:15].abs().max() == 0
    assert not torch.equal(ends.latents[0, :, 0], ends.latents[0, :, 15])
    batch["loop"][0] = True
    loop = of(drawn(ends=[True, False]))
    assert torch.equal(loop.latents[0, :, 0], loop.latents[0, :, 15])
    assert torch.equal(loop.concat_latents[0, :, 0], loop.concat_latents[0, :, 15])
    assert torch.equal(loop.latents[:, :, :15], ends.latents[:, :, :15])
    batch["loop"][0] = False
    for unguided in (recipe("adaptation"), recipe("detail", detail=False)):
        inputs = DenoiserStage(unguided, videos).inputs(batch, ConditioningDraw.plain(2), torch.Generator())
        assert inputs.concat_latents.abs().max() == 0


def test_what_is_dropped(videos: Path) -> None:
    stage = DenoiserStage(recipe("detail"), videos)
    batch = default_collate([stage.dataset[i] for i in range(2)])
    empty = {**batch, "caption": ["", ""], "frames": torch.full_like(batch["frames"], 127)}

    def of(batch: Any, given: ConditioningDraw) -> Any:
        return stage.inputs(batch, given, torch.Generator().manual_seed(0))

    given = of(batch, drawn(text=[False, True], image=[True, False]))
    whole, nothing = of(batch, ConditioningDraw.plain(2)), of(empty, ConditioningDraw.plain(2))
    assert torch.equal(given.text[0], nothing.text[0])
    assert torch.equal(given.text[1], whole.text[1])
    assert torch.equal(given.image[0], whole.image[0])
    torch.testing.assert_close(given.image[1], nothing.image[1], atol=2e-2, rtol=0)  # mid-grey is 127.5
    assert torch.equal(given.concat_latents, whole.concat_latents)  # never dropped


def test_the_shares_of_what_is_drawn() -> None:
    options = Conditioning(first_frame=0.8, interpolation=0.4, loops=0.5)
    loops = torch.arange(20_000) % 5 == 0  # 0.4 · 0.5
    given = ConditioningDraw.random(loops, 16, options, torch.Generator().manual_seed(1))

    def share(values: Tensor) -> float:
        return float(values.float().mean())

    no_text, no_image = ~given.text, ~given.image
    assert share(no_text & given.image) == pytest.approx(0.05, abs=0.01)
    assert share(no_image & given.text) == pytest.approx(0.05, abs=0.01)
    assert share(no_text & no_image) == pytest.approx(0.05, abs=0.01)
    assert share(given.ends) == pytest.approx(0.4, abs=0.02)
    assert given.ends[loops].all()
    assert given.condition[given.ends].eq(0).all()
    others = given.condition[~given.ends]
    assert share(others == 0) == pytest.approx(0.8 + 0.2 / 16, abs=0.02)
    assert set(others.tolist()) == set(range(16))


@pytest.mark.slow
def test_loops_among_the_clips(videos: Path) -> None:
    options = recipe("detail", interpolation=0.8, loops=0.5)
    stage = DenoiserStage(options, videos, plan_only=True)
    drawn, held_out = (
        [items[i] for i in range(60)]
        for items in (stage.draws(options, videos, 60), stage.draws(options, videos, 60, held_out=True))
    )
    assert 12 <= sum(item["loop"] for item in drawn) <= 36
    assert all(torch.equal(item["frames"][0], item["frames"][-1]) for item in drawn if item["loop"])
    assert not any(item["loop"] for item in held_out)


def test_the_share_of_clips_at_the_last_timestep(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = DenoiserStage(recipe("detail", noisiest=1.0), videos)
    batch = default_collate([stage.dataset[i] for i in range(2)])
    seen: list[list[int]] = []
    noised = stage.process.noised
    monkeypatch.setattr(stage.process, "noised", lambda x0, t, eps: (seen.append(t.tolist()), noised(x0, t, eps))[1])
    stage(batch, torch.Generator().manual_seed(0))
    stage.eval()  # all timesteps alike, so that runs can be compared
    stage(batch, torch.Generator().manual_seed(0))
    assert seen[0] == [999, 999]
    assert max(seen[1]) < 999


def test_frames_near_what_is_given_and_later_ones_weigh_more(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = DenoiserStage(recipe("detail", first_frame=1.0, given=3.0, later=2.0), videos)  # it predicts zero yet
    batch = default_collate([stage.dataset[i] for i in range(2)])
    targets: list[Tensor] = []
    noised = stage.process.noised
    monkeypatch.setattr(stage.process, "noised", lambda *given: targets.append(noised(*given)[1]) or noised(*given))
    weighed = stage(batch, torch.Generator().manual_seed(0))["loss"]
    squares = targets[0].square()
    weights = (1 + 2 * 0.5 ** torch.arange(16)) * torch.linspace(1, 2, 16)
    expected = (squares.mean(dim=(0, 1, 3, 4)) * weights).sum() / weights.sum()
    torch.testing.assert_close(weighed, expected)
    stage.eval()  # all frames alike, so that runs can be compared
    torch.testing.assert_close(stage(batch, torch.Generator().manual_seed(0))["loss"], squares.mean())


def test_how_far_frames_are_from_given_ones() -> None:
    given = torch.tensor([[True, False, False, False, True], [False, True, False, False, False], [False] * 5])
    assert distance_to_given(given).tolist() == [[0, 1, 2, 1, 0], [1, 0, 1, 2, 3], [float("inf")] * 5]


def test_what_a_context_scale_means(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = DenoiserStage(recipe("detail", scales=1.0, interpolation=0.5), videos)
    batch = default_collate([stage.dataset[i] for i in range(2)])
    seen: list[Inputs] = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        given = ConditioningDraw.random(batch["loop"], 16, stage.options, torch.Generator().manual_seed(seed))
        with monkeypatch.context() as patch:
            patch.setattr(stage, "_loss", lambda inputs, generator: seen.append(inputs))
            stage(batch, generator)
        scales = {layer.context_scale for layer in stage.unet.dual_attentions()}
        assert len(scales) == 1
        scale = scales.pop()
        assert 0.5 <= scale <= 2
        assert scale != 1
        torch.testing.assert_close(seen[-1].fs, torch.where(given.ends, batch["fs"], batch["fs"] / scale))
    with torch.no_grad():
        stage.evaluate()
    assert {layer.context_scale for layer in stage.unet.dual_attentions()} == {1.0}


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_sampler_undoes_the_process(prediction: Any) -> None:
    config = ScheduleConfig(prediction=prediction, zero_terminal_snr=prediction == "v", rescale_base=0.7)
    process = Process(config)
    x0, eps = torch.randn(2, 1, 4, 2, 8, 8).unbind()
    for step in sampling_steps(config, "uniform_trailing", 10)[1:]:
        t = torch.tensor([step.t])
        x_t, target = process.noised(x0, t, eps)
        found_eps, found = to_eps_and_x0(prediction, target, x_t, step.alpha)
        torch.testing.assert_close(found_eps, eps, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found, process.rescale[step.t].float() * x0, atol=1e-3, rtol=1e-3)
    if prediction == "v":
        x_t, target = process.noised(x0, torch.tensor([999]), eps)
        torch.testing.assert_close(x_t, eps)  # nothing is left of the signal
        torch.testing.assert_close(target, -0.7 * x0)


def test_recomputed_activations_give_the_same_gradients(videos: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        stage = awake(DenoiserStage(recipe("detail", checkpointing=checkpointing), videos))
        batch = default_collate([stage.dataset[i] for i in range(2)])
        stage(batch, torch.Generator().manual_seed(0))["loss"].backward()
        gradients.append({name: value.grad for name, value in stage.trained().items()})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    for name, value in plain.items():
        assert value is not None
        torch.testing.assert_close(recomputed[name], value, msg=name)


def test_what_an_earlier_run_must_have_trained(videos: Path) -> None:
    for stage, needed in (
        ("text-to-video", "a trained text_encoder and autoencoder\\."),
        ("context", "a trained text_encoder and autoencoder and unet and image_encoder\\."),
        ("detail", "a trained text_encoder and autoencoder and unet and image_encoder and projector\\."),
    ):
        with pytest.raises(InputError, match=needed):
            DenoiserStage(recipe(stage), videos).load_weights([])


def test_what_a_recipe_leaves_out_its_model_does_without(videos: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    began = awake(DenoiserStage(recipe("detail"), videos))
    for layer in began.unet.dual_attentions():
        nn.init.ones_(layer.alpha)
    save_checkpoint(began.model.state_dict(), began.config, start)

    def silenced(**options: Any) -> set[str]:
        stage = DenoiserStage(recipe("detail", **options), videos)
        stage.load_weights([start])
        layers = stage.unet.dual_attentions()
        guidance = stage.unet.conv_in.weight[:, stage.config.autoencoder.latent_channels :]
        found = {
            "context": not any(layer.to_v_ip.weight.any() for layer in layers),
            "scale": not any(layer.alpha.any() for layer in layers),  # λ is 1
            "detail": not guidance.any(),
        }
        return {name for name, silent in found.items() if silent}

    assert silenced() == set()
    assert silenced(context=False) == {"context"}
    assert silenced(learn_scale=False) == {"scale"}
    assert silenced(detail=False) == {"detail"}


@pytest.mark.slow
def test_the_class_token_alone_is_a_field_of_the_model(videos: Path, tmp_path: Path) -> None:
    whole = recipe("detail")
    classes = replace(whole, config={**whole.config, "projector": {**whole.config["projector"], "tokens": "class"}})
    run(awake(DenoiserStage(classes, videos)), tmp_path)
    exported = open_checkpoint(tmp_path / "weights.safetensors")
    assert exported.config.projector.tokens == "class"
    model = DynamiCrafter(exported.config)
    model.load_state_dict({name: value.float() for name, value in exported.tensors.items()})
    pixels = torch.rand(1, 3, 32, 32)
    seen = model.image_encoder(clip_pixels(pixels, 32))
    torch.testing.assert_close(model.encode_image(pixels), model.projector(seen[:, :1]))


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_on_the_cpu_meets_a_model_elsewhere(videos: Path, stage: str) -> None:
    built = DenoiserStage(recipe(stage, interpolation=0.5, loops=0.5, scales=0.5), videos)
    batch = default_collate([built.dataset[i] for i in range(2)])
    built.to("meta")  # any other device: what stays behind on the CPU is an error
    assert built(batch, torch.Generator().manual_seed(0))["loss"].device.type == "meta"


def test_draws_stay_on_the_cpu_where_the_batch_is_moved(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`DistributedDataParallel` moves a batch's tensors to its GPU before the stage sees them."""
    stage = DenoiserStage(recipe("context", interpolation=1), videos)
    batch = default_collate([stage.dataset[i] for i in range(2)])
    seen = []
    monkeypatch.setattr(stage, "inputs", lambda _, drawn, *__, **___: seen.append(drawn))
    monkeypatch.setattr(stage, "_loss", lambda *_: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_gpu = {name: torch.empty_like(value, device="cuda") if isinstance(value, torch.Tensor) else value
                  for name, value in batch.items()}  # fmt: skip
        stage(on_gpu, torch.Generator().manual_seed(0))
    assert {getattr(seen[0], field.name).device.type for field in fields(seen[0])} == {"cpu"}


def test_a_model_that_only_interpolates_is_judged_by_that(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = DenoiserStage(recipe("detail", interpolation=1), videos)
    seen = []
    encode = InputEncoder.__call__
    monkeypatch.setattr(InputEncoder, "__call__", lambda *given, **how: seen.append(encode(*given, **how)) or seen[-1])
    with torch.no_grad():
        assert "psnr_last_frame" in stage.evaluate()
    for each in seen:
        assert each.concat_latents[:, :, 1:-1].abs().max() == 0
        assert not each.concat_latents[:, :, 0].equal(each.concat_latents[:, :, -1])


def test_a_video_that_fails_is_named_once(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = DenoiserStage(recipe("context"), videos)
    batch = default_collate([stage.dataset[i] for i in range(2)])
    for skipped in (["a.mp4: cut off\nb.mp4: empty", ""], ["", "b.mp4: empty"], ["c.mp4: empty", ""]):
        stage(batch | {"skipped": skipped}, torch.Generator().manual_seed(0))
    assert caplog.messages == [
        "skipped a.mp4: cut off (1 so far)", "skipped b.mp4: empty (2 so far)", "skipped c.mp4: empty (3 so far)"
    ]  # fmt: skip


def test_what_trains_in_words(videos: Path) -> None:
    parts = DenoiserStage(recipe("adaptation"), videos).trained_parts()
    assert parts == ["unet's image attention", "unet's spatial", "projector"]


@pytest.mark.slow
def test_a_plan_tells_what_a_batch_keeps(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(batch: int, stage: str = "detail", **options: Any) -> int:
        planned = DenoiserStage(recipe(stage, **options), videos, plan_only=True)
        assert all(value.is_meta for value in planned.model.parameters())
        return planned.activations(batch, torch.float32)

    assert kept(4) == pytest.approx(2 * kept(2), rel=0.05)
    again = kept(2, checkpointing=True)
    assert again < 0.5 * kept(2)
    planned = DenoiserStage(recipe("detail", checkpointing=True), videos, plan_only=True)
    monkeypatch.setattr(memory, "unet_stages", lambda _: [])
    assert planned.activations(2, torch.float32) == kept(2)  # with no stage recomputed all is kept
    assert kept(2, "context") < 0.2 * kept(2)  # a sixteenth of the frames


@pytest.mark.slow
@pytest.mark.parametrize(("model", "directory"), [("256", "dc256"), ("512", "dc512")])
def test_a_published_checkpoint_is_trained_further(
    videos: Path, golden: Path, tmp_path: Path, model: str, directory: str
) -> None:
    weights = next(path for path in sorted((golden / directory).glob("model.*")))
    small = open_checkpoint(weights, model_config=golden / directory / "config.json").config
    further = Recipe("detail", model, "", replace(TRAIN, steps=1, evaluate_every=9), config=small.to_dict())
    stage = DenoiserStage(further, videos)
    assert stage.process.config.prediction == ("eps" if model == "256" else "v")
    stage.load_weights([weights])
    found = open_checkpoint(weights).tensors
    state = stage.model.state_dict()
    assert all(torch.equal(state[name], found[name].float()) for name in state)
    batch = stage.dataset[0]
    assert batch["fs"] in ((1, 2) if model == "256" else (8, 4))  # strides of 8 frames a second
    run(stage, tmp_path, further.train)
    made = open_checkpoint(tmp_path / "weights.safetensors")
    made.check(stage.model)
    name = "unet.middle.stage.res.conv1.weight"
    assert not torch.equal(made.tensors[name], found[name].half())
    name = "unet.middle.stage.temporal.proj_in.weight"
    assert torch.equal(made.tensors[name], found[name].half())


def test_dropout_is_where_the_released_code_has_it_and_only_in_training(videos: Path) -> None:
    plain, dropping = (awake(DenoiserStage(recipe("detail", dropout=share), videos)) for share in (0.0, 0.5))
    batch = default_collate([plain.dataset[i] for i in range(2)])

    def loss(stage: DenoiserStage, seed: int) -> float:
        torch.manual_seed(seed)
        return float(stage(batch, torch.Generator().manual_seed(0))["loss"])

    with torch.no_grad():
        assert loss(plain, 0) == loss(plain, 1)
        assert len({loss(plain, 0), loss(dropping, 0), loss(dropping, 1)}) == 3
        assert loss(dropping, 0) == loss(dropping, 0)
        plain.eval(), dropping.eval()
        assert loss(plain, 0) == loss(dropping, 1)
    hooked = {name for name, module in dropping.unet.named_modules() if module._forward_pre_hooks}
    blocks = {name.removesuffix(".conv2") for name, _ in dropping.unet.named_modules() if name.endswith(".conv2")}
    assert hooked == {f"{b}.{c}" for b in blocks for c in ("conv2", *(f"temporal_conv.convs.{i}" for i in (1, 2, 3)))}


def test_noise_on_the_image_grows_with_time(videos: Path) -> None:
    stage = DenoiserStage(recipe("detail", time_noise=100.0), videos)
    clean = torch.zeros(4000, 1, 1, 1, 1)
    grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    density = (-(grid**2) / 2).exp() / (2 * torch.pi) ** 0.5
    for t in (0, 500, 999):
        times = torch.full((len(clean),), t)
        level = float(
            stage.process.time_noise(clean, times, 100.0, torch.Generator().manual_seed(0)).square().mean().sqrt()
        )
        middle = 2 * (t / 1000) ** 5 - 1
        expected = 100 * float(((grid + middle).sigmoid() ** 2 * density).sum() * (grid[1] - grid[0])) ** 0.5
        assert level == pytest.approx(expected, rel=0.05)


def test_noise_on_the_image_is_of_training_alone(videos: Path) -> None:
    stages = [awake(DenoiserStage(recipe("detail", time_noise=noise), videos)) for noise in (0.0, 100.0)]
    batch = default_collate([stages[0].dataset[i] for i in range(2)])
    for training in (True, False):
        with torch.no_grad():
            losses = [float(s.train(training)(batch, torch.Generator().manual_seed(0))["loss"]) for s in stages]
        assert (losses[0] == losses[1]) is not training


@pytest.mark.slow
def test_a_model_shared_by_two_processes_learns_what_two_copies_do(videos: Path, tmp_path: Path) -> None:
    learned = []
    for shard in (False, True):
        out = tmp_path / str(shard)
        out.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        given = (port, videos, out, shard)
        torch.multiprocessing.start_processes(one_of_two, given, nprocs=2, start_method="spawn")
        learned.append(torch.load(out / "0.pt"))
        assert (out / "weights.safetensors").exists()
    rows = [json.loads((tmp_path / each / "log.jsonl").read_text().splitlines()[0]) for each in ("False", "True")]
    for figure in ("loss", "gradient"):
        assert rows[1][figure] == pytest.approx(rows[0][figure], rel=1e-3)
    flat = [torch.cat([value.flatten() for value in each.values()]) for each in learned]
    # Some gradients are zero but for rounding, and Adam steps by their signs: a bias before a normalization's.
    assert ((flat[0] - flat[1]).abs() < 1e-3).float().mean() > 0.99  # a step is 1e-2
    shapes = [{k: v.shape for k, v in open_checkpoint(tmp_path / each / "weights.safetensors").tensors.items()}
              for each in ("False", "True")]  # fmt: skip
    assert shapes[0] == shapes[1]
