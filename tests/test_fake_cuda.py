"""The whole full-size pipeline on CUDA tensors that hold no data.

Shapes, types and devices are real: a tensor left on the CPU, or in another type, raises.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import run
from torch._subclasses.fake_tensor import FakeTensorMode

from dcrafter.config import MODELS
from dcrafter.models.dynamicrafter import DynamiCrafter, References
from dcrafter.pipeline import Pipeline
from dcrafter.runtime.residency import Residency
from dcrafter.settings import resolve
from dcrafter.weights.checkpoint import Checkpoint

CASES = [
    pytest.param("256", torch.bfloat16, None, marks=pytest.mark.slow),
    pytest.param("512", torch.float16, None, marks=pytest.mark.slow),
    pytest.param("1024", torch.bfloat16, None, marks=pytest.mark.slow),
    ("512-interp", torch.float16, 2.0),
    ("toon", torch.bfloat16, None),
]


@pytest.mark.parametrize(("name", "dtype", "image_guidance"), CASES, ids=str)
def test_every_step_of_the_full_size_pipeline(
    name: str, dtype: torch.dtype, image_guidance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = MODELS[name]
    # Whether values are finite cannot be asked of values that are not there.
    for method in ("run_finite", "follow_finite"):
        monkeypatch.setattr(Residency, method, lambda self, compute, *components: compute())
    with FakeTensorMode():
        shapes = DynamiCrafter.on_meta(config).state_dict()
        weights = {key: torch.empty(value.shape, device="cpu") for key, value in shapes.items()}
        pipe = Pipeline(Checkpoint(Path("none"), config, weights), torch.device("cuda"), dtype)
        command = config.commands[0]
        settings = resolve(config, command, "a cat", 0, {"steps": 1, "image_guidance": image_guidance})
        keyframes = torch.empty(2 if command == "interpolate" else 1, 3, config.height, config.width)

        _, conditions = run(pipe.encode(keyframes, settings, torch.randn))
        _, latents = run(pipe.sample(conditions, settings, torch.randn))
        used = {parameter.dtype for parameter in pipe.model.unet.parameters()}
        references = References(keyframes[None], (0, 1)[: len(keyframes)])
        _, frames = run(pipe.decode(latents[:, :, :6], [0, 5], references))

    assert {value.device.type for value in vars(conditions).values() if value is not None} == {"cuda"}
    assert used == {dtype}
    assert latents.device.type == "cuda"
    assert latents.shape == (1, 4, 16, config.height // 8, config.width // 8)
    assert frames.shape == (1, 3, 2, config.height, config.width)
    assert frames.device.type == "cpu"
