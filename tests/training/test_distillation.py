"""A student that takes in one step what its teacher takes in several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import default_collate
from training.micro import TRAIN, awake, recipe, run

from dcrafter.config import ScheduleConfig, Spacing
from dcrafter.sampling.ddim import ddim
from dcrafter.sampling.schedule import from_x0, sampling_steps
from dcrafter.training import denoiser
from dcrafter.training.denoiser import DenoiserStage
from dcrafter.training.distillation import DistillationStage, clean_latents, divide
from dcrafter.training.recipe import Distillation, LoRA
from dcrafter.weights.checkpoint import save_checkpoint

SCHEDULES = {
    "512": ScheduleConfig(),
    "256": ScheduleConfig(prediction="eps", zero_terminal_snr=False, rescale_base=1.0, spacing="uniform"),
}


@pytest.fixture(scope="module")
def base(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a model whose weights are all at work."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    stage = awake(DenoiserStage(recipe("detail"), videos))
    save_checkpoint(stage.model.state_dict(), stage.config, path)
    return path


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVALUATION_CLIPS", "SHOWN"):
        monkeypatch.setattr(denoiser, name, 1)


def started(base: Path, videos: Path, *, lora: LoRA | None = None, **options: int) -> DistillationStage:
    """A student of these options before its first step."""
    asked = replace(recipe("distillation"), lora=lora, distillation=Distillation(**options))
    stage = DistillationStage(asked, videos)
    stage.load_weights([base])
    return stage


@pytest.mark.parametrize("spacing", ["uniform", "uniform_trailing"])
@pytest.mark.parametrize(("steps", "finer"), [(4, 4), (3, 5), (6, 7), (1, 8), (5, 1)])
def test_the_teacher_ends_each_step_where_the_student_does(spacing: Spacing, steps: int, finer: int) -> None:
    of_student, of_teacher = (sampling_steps(ScheduleConfig(), spacing, n, True) for n in (steps, steps * finer))
    parts = divide(of_teacher, of_student)
    for step, part in zip(of_student, parts, strict=True):
        assert part[0].t == step.t
        assert part[-1].alpha_prev == step.alpha_prev


@pytest.mark.parametrize("model", SCHEDULES)
def test_a_step_from_the_clean_latents_found_leads_where_it_should(model: str) -> None:
    schedule = SCHEDULES[model]
    generator = torch.Generator().manual_seed(0)
    x_t, x_next = torch.randn(2, 2, 3, 4, 5, 5, generator=generator, dtype=torch.float64)
    for step in sampling_steps(schedule, schedule.spacing, 4, final_rescale=True):
        x0 = clean_latents(x_t, x_next, step)
        out = from_x0(schedule.prediction, x0, x_t, step.alpha)
        (stepped,) = ddim(lambda x, t: out, x_t, [step], lambda: x_t, prediction=schedule.prediction, eta=0.0)  # noqa: B023
        torch.testing.assert_close(stepped.x, x_next)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["whole", "lora"])
def test_a_student_of_as_many_steps_has_nothing_to_learn(videos: Path, lora: LoRA | None, base: Path) -> None:
    stage = started(base, videos, lora=lora, steps=3, teacher_steps=1)
    batch = default_collate(stage.held_out)
    for seed in range(3):
        assert stage(batch, torch.Generator().manual_seed(seed))["loss"].item() < 1e-8
    stage.teacher_guidance = replace(stage.guidance, scale=3.0)
    assert stage(batch, torch.Generator().manual_seed(0))["loss"].item() > 1e-7


@pytest.mark.slow
def test_a_lora_learns_and_goes_on_as_if_never_stopped(videos: Path, base: Path, tmp_path: Path) -> None:
    options: Any = {"steps": 2, "teacher_steps": 2, "lora": LoRA(rank=2)}
    stage = started(base, videos, **options)
    run(stage, tmp_path / "whole")
    run(started(base, videos, **options), tmp_path / "parts", replace(TRAIN, steps=2))
    run(started(base, videos, **options), tmp_path / "parts")
    first, second = (load_file(tmp_path / name / "lora.safetensors") for name in ("whole", "parts"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.equal(second[name]), name
    assert any(value.abs().max() > 0 for name, value in first.items() if "lora_B" in name)
    assert all(parameter.requires_grad == (".lora_" in name) for name, parameter in stage.model.named_parameters())
