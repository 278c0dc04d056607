"""The whole pipeline on CUDA tensors that hold no data.

Shapes, types and devices are real: a tensor left on the CPU, or in another type, raises, and so does a value that the
CPU asks for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import open_golden, run
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dcrafter.config import MODELS, ModelConfig
from dcrafter.models import layers
from dcrafter.models.dynamicrafter import DynamiCrafter, References
from dcrafter.pipeline import Pipeline
from dcrafter.runtime import estimate
from dcrafter.runtime.residency import Residency
from dcrafter.settings import resolve
from dcrafter.weights.checkpoint import Checkpoint

pytestmark = pytest.mark.slow

CASES = [
    ("256", torch.bfloat16, None),
    ("512", torch.float16, None),
    ("1024", torch.bfloat16, None),
    ("512-interp", torch.float16, 2.0),
    ("toon", torch.bfloat16, None),
    ("toon", torch.float16, 2.0),
]


@pytest.fixture(autouse=True)
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a driver there is no pinned memory; whether values are finite cannot be asked where there are none."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr("dcrafter.runtime.residency.begin_download", lambda value: lambda: True)
    monkeypatch.setattr(Residency, "run_finite", lambda self, compute, *components: compute())
    with FakeTensorMode():
        yield


def open_empty(config: ModelConfig, dtype: torch.dtype) -> Pipeline:
    shapes = DynamiCrafter.on_meta(config).state_dict()
    weights = {key: torch.empty(value.shape, device="cpu") for key, value in shapes.items()}
    return Pipeline(Checkpoint(Path("none"), config, weights), torch.device("cuda"), dtype)


@pytest.mark.parametrize(("name", "dtype", "image_guidance"), CASES, ids=str)
def test_every_step_of_the_full_size_pipeline(
    name: str, dtype: torch.dtype, image_guidance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = MODELS[name]
    pipe = open_empty(config, dtype)
    command = config.commands[0]
    settings = resolve(config, command, "a cat", 0, {"steps": 1, "image_guidance": image_guidance})
    keyframes = torch.empty(2 if command == "interpolate" else 1, 3, config.height, config.width)
    attended: list[tuple[Tensor, ...]] = []
    attend = layers.F.scaled_dot_product_attention

    def record(*qkv: Tensor, **options: Any) -> Tensor:
        attended.append(qkv)
        return attend(*qkv, **options)

    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", record)

    _, conditions = run(pipe.encode(keyframes, settings, torch.randn))
    attended.clear()
    _, latents = run(pipe.sample(conditions, settings, torch.randn))
    assert all(has_fused_kernel(*qkv) for qkv in attended)
    used = {parameter.dtype for parameter in pipe.model.unet.parameters()}
    kernels = [layer.weight for layer in pipe.model.unet.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    references = References(keyframes[None], (0, 1)[: len(keyframes)])
    _, frames = run(pipe.decode(latents[:, :, :6], [0, 5], references))

    assert attended
    assert {value.device.type for value in vars(conditions).values() if value is not None} == {"cuda"}
    assert used == {dtype}
    assert latents.device.type == "cuda"
    assert latents.shape == (1, 4, 16, config.height // 8, config.width // 8)
    assert frames.shape == (1, 3, 2, config.height, config.width)
    assert frames.device.type == "cpu"


def has_fused_kernel(*qkv: Tensor) -> bool:
    """What FlashAttention asks for: half precision, up to 256 channels a head in eights, one behind the other."""
    return all(
        x.dtype in (torch.float16, torch.bfloat16) and x.shape[-1] <= 256 and x.shape[-1] % 8 == 0 and x.stride(-1) == 1
        for x in qkv
    )


class Waits(TorchDispatchMode):
    """Records the operators for which the CPU and the GPU wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves([args, kwargs, out]) if isinstance(leaf, Tensor)}
        non_blocking = any(value is True for value in (*args[2:], (kwargs or {}).get("non_blocking")))
        if len(devices) > 1 and not non_blocking:
            self.seen.append(str(func))
        return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"frames": 24},
        {"sampler": "dpm++", "image_guidance": 2.0, "last_guidance": 3.0, "guidance_every": 2, "deep_every": 2},
    ],
)
def test_sampling_never_waits_for_the_gpu(golden: Path, options: Any) -> None:
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        config = open_golden(golden / "dc512").config
    config = replace(config, unet=replace(config.unet, channel_mult=(1, 2), attention_resolutions=(1, 2)))
    pipe = open_empty(config, torch.float16)
    settings = resolve(config, "animate", "a cat", 0, {"steps": 3, "width": 64, "height": 64, **options})
    _, conditions = run(pipe.encode(torch.empty(1, 3, 64, 64), settings, torch.randn))
    run(pipe.residency.ensure_unet_loaded())
    with Waits() as waits:
        events, _ = run(pipe.sample(conditions, settings, torch.randn))
        assert not waits.seen
        events[-1].x0.to("cpu")
    assert len(waits.seen) == 1
    assert len(events) == 3


class LiveBytes(TorchDispatchMode):
    """Bytes of CUDA tensors that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device.type == "cuda":
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


class AtOnce:
    """An executor without a thread, in which fake tensors would not be fake: what it is given is done at once."""

    def __init__(self, threads: int) -> None:
        pass

    def submit(self, function: Callable[..., None], *args: Any) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(function(*args))
        return done

    def shutdown(self) -> None:
        pass


PLANS = [  # and the most GiB that each may take
    ("512", "normal", 4.8),
    ("512", "low", 2.8),
    ("512", "min", 1.5),
    ("1024", "normal", 6.0),
    ("1024", "low", 3.5),
    ("1024", "min", 2.2),
]


@pytest.mark.parametrize(("name", "plan", "limit"), PLANS)
def test_memory_plans_take_what_is_estimated(
    name: str, plan: str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcrafter.runtime.streaming.ThreadPoolExecutor", AtOnce)
    config, dtype = MODELS[name], torch.float16
    pipe = open_empty(config, dtype)
    settings = resolve(config, "animate", "a cat", 0, {"steps": 1, "guidance": 1.0})
    pipe.residency.choose_plan(settings, plan)
    keyframes = torch.empty(1, 3, config.height, config.width)
    with LiveBytes() as live:
        _, conditions = run(pipe.encode(keyframes, settings, torch.randn))
        _, latents = run(pipe.sample(conditions, settings, torch.randn))
        run(pipe.decode(latents[:, :, :2], [0, 1]))
    assert live.peak < limit * 2**30
    assert estimate.memory(pipe.model, settings, dtype, plan, pipe.device) == pytest.approx(live.peak, rel=0.15)
