from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dcrafter.config import MODELS
from dcrafter.models.dynamicrafter import DynamiCrafter
from dcrafter.runtime import estimate
from dcrafter.settings import resolve


@pytest.mark.slow
def test_the_published_models_take_what_was_measured() -> None:
    config = MODELS["256"]
    model = DynamiCrafter.on_meta(config)
    settings = resolve(config, "animate", "", 0, {})
    # Above what the process holds without a model, in bfloat16: tests/benchmarks/memory_plans.py
    for plan, peak in {"normal": 3.40e9, "low": 2.03e9, "min": 0.86e9}.items():
        need = estimate.memory(model, settings, torch.bfloat16, plan, torch.device("cpu"))
        assert need == pytest.approx(peak, rel=0.15)
    # 4.7 TFLOP: python -m tests.benchmarks --full
    assert estimate.operations(config, settings.width, settings.height, 16) == pytest.approx(4.7e12, rel=0.1)


def test_as_many_images_are_decoded_together_as_sampling_left_room_for() -> None:
    model = DynamiCrafter.on_meta(MODELS["512"])
    fitting = [estimate.images_at_once(model, 8 * 8 * side) for side in (1, 144, 1000)]
    assert fitting[0] == estimate.MAX_IMAGES > fitting[1] > fitting[2] >= 1


@pytest.mark.slow
def test_time_counts_branches_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MODELS["tiny"]
    model = DynamiCrafter.on_meta(config)
    monkeypatch.setattr(estimate, "speed", lambda *_: 1e9)
    once = resolve(config, "animate", "", 0, {"guidance": 1.0, "steps": 1})

    def seconds(**changes: object) -> float:
        changed = replace(once, **changes)  # type: ignore[arg-type]
        return estimate.sampling_seconds(model, changed, torch.device("cpu"), torch.float32)

    assert seconds(guidance=2.0) == pytest.approx(2 * seconds())
    assert seconds(guidance=2.0, image_guidance=1.5) == pytest.approx(3 * seconds())
    assert seconds(steps=10) == pytest.approx(10 * seconds())
    assert seconds(width=256) > 1.9 * seconds()


@pytest.mark.parametrize(
    ("name", "videos", "steps", "cores", "gigabytes", "expected"),
    [
        ("tiny", 9, 6, 2, 8, 2),
        ("tiny", 7, 6, 2, 8, 1),  # as fast in one
        ("tiny", 9, 6, 1, 8, 1),
        ("tiny", 8, 15, 16, 64, 4),  # each has enough to do
        ("tiny", 3, 1000, 16, 64, 3),  # no more than there are videos
        ("tiny", 64, 15, 16, 3, 4),  # nor than fit into memory
        ("tiny", 64, 15, 16, 0.5, 1),
        ("tiny", 8, 1, 2, 8, 1),  # done before another process has started
        ("512", 8, 50, 16, 512, 1),  # threads share an evaluation well
    ],
)
def test_small_models_run_in_a_process_for_each_core(
    name: str, videos: int, steps: int, cores: int, gigabytes: float, expected: int
) -> None:
    config = MODELS[name]
    settings = [resolve(config, "animate", "", 0, {"steps": steps})] * videos
    model = DynamiCrafter.on_meta(config)
    assert estimate.processes(model, settings, torch.float32, cores, int(gigabytes * 1e9)) == expected


def test_a_device_has_a_speed() -> None:
    assert 1e8 < estimate.speed(torch.device("cpu"), torch.float32) < 1e14
