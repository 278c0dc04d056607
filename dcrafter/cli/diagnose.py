"""dcrafter --diagnose: what a bug report needs, as a page. It names no user and no home folder."""

from __future__ import annotations

import getpass
import platform
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from dcrafter import __version__
from dcrafter.cli.config_file import user_config
from dcrafter.errors import to_dcrafter_error
from dcrafter.runtime.machine import available_memory, memory_limit, total_memory
from dcrafter.text import format_size, printable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PACKAGES = ("torch", "torchvision", "transformers", "open_clip_torch", "huggingface_hub", "av", "pillow", "safetensors",
            "typer", "rich")  # fmt: skip
NVIDIA_DRIVER = Path("/proc/driver/nvidia")
WITH_CUDA = (  # uv asks the driver which build fits
    "python -m pip install uv && python -m uv pip install --reinstall torch torchvision --torch-backend=auto"
)
# How far results may be off, as a share of the largest number; what is broken is off by more. GPUs round float32
# products to ten bits (TF32).
TOLERANCES = {"float32": 3e-3, "float16": 2e-2, "bfloat16": 1e-1}


def diagnose() -> None:
    """Print the page to stdout. What cannot be found out is said to be so, and the rest goes on."""
    for title, section in SECTIONS.items():
        print(title)
        try:
            with warnings.catch_warnings():
                for line in section():
                    print(f"  {printable(_anonymous(line))}", flush=True)
        except Exception as error:
            print(f"  {_anonymous(to_dcrafter_error(error).message)}")


def _versions() -> Iterator[str]:
    yield f"{'dcrafter':16} {__version__}"
    yield f"{'python':16} {platform.python_version()}"
    yield f"{'platform':16} {platform.platform()}"
    for package in PACKAGES:
        try:
            yield f"{package:16} {version(package)}"
        except PackageNotFoundError:
            yield f"{package:16} is missing"


def _torch() -> Iterator[str]:
    import torch

    cuda, rocm = torch.version.cuda, torch.version.hip
    build = f"ROCm {rocm}" if rocm else f"CUDA {cuda}" if cuda else "CPU only"
    yield f"{torch.__version__} ({build})"
    with warnings.catch_warnings(record=True) as said:  # why a driver will not do
        warnings.simplefilter("always")
        devices = _devices()
    yield from (" ".join(str(warning.message).split()) for warning in said)
    for device in devices:
        yield f"{device}: {_describe(device)}"
    if not (shutil.which("nvidia-smi") or NVIDIA_DRIVER.exists()) or torch.cuda.is_available():
        if len(devices) == 1:
            yield "No GPU is used: this machine shows none that this torch knows, and no NVIDIA driver"
        return
    if cuda:
        yield f"This machine has an NVIDIA GPU, but its driver does not work with CUDA {cuda}: see nvidia-smi"
    elif not rocm:
        yield "This machine has an NVIDIA GPU, which this torch cannot use. In dcrafter's environment, run"
        yield f"    {WITH_CUDA}"
        yield "(https://pytorch.org/get-started has the command for other versions of CUDA)"


def _devices() -> list[torch.device]:
    import torch

    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return devices


def _describe(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"{torch.cuda.get_device_name(device)}, {format_size(free)} of {format_size(total)} free"
    if device.type == "mps":
        return f"{format_size(torch.mps.recommended_max_memory())} to be used"
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def _memory() -> Iterator[str]:
    total, limit = total_memory(), memory_limit()
    yield f"{format_size(available_memory())} available of {format_size(total)}"
    yield f"limited to {format_size(limit)} (cgroup)" if limit is not None else "not limited by a cgroup"


def _settings() -> Iterator[str]:
    """The user's file of options."""
    path = user_config()
    yield f"{path}{'' if path.is_file() else ': not there'}"


def _cache() -> Iterator[str]:
    from dcrafter.weights.cache import cache_dir

    folder = cache_dir()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    yield f"{folder}{'' if files else ': empty' if folder.is_dir() else ': not there'}"
    for path in files:
        yield f"    {path.relative_to(folder)} {format_size(path.stat().st_size)}"


def _self_test() -> Iterator[str]:
    import torch

    warnings.simplefilter("ignore")  # the section before has them
    for device in _devices():
        for name, tolerance in TOLERANCES.items():
            results = [f"{path} {_try(path, device, getattr(torch, name), tolerance)}" for path in PATHS]
            yield f"{device} {name}: {', '.join(results)}"


def _try(path: str, device: torch.device, dtype: torch.dtype, tolerance: float) -> str:
    """ok, or what is wrong with a path, by the CPU's result in float64."""
    import torch

    try:
        with torch.inference_mode(), torch.random.fork_rng([]):
            torch.manual_seed(0)
            module, inputs = PATHS[path]()
            right = deepcopy(module).double()(*(x.double() for x in inputs))
            out = module.to(device, dtype)(*(x.to(device, dtype) for x in inputs)).cpu().double()
        off = float((out - right).abs().max() / right.abs().max())
    except Exception as error:
        return f"FAILED ({to_dcrafter_error(error).message})"
    return "ok" if off <= tolerance else f"WRONG (off by {off:.1g}, {tolerance:g} is allowed)"


def _attention_path() -> tuple[nn.Module, list[Tensor]]:
    import torch
    from torch import nn

    from dcrafter.models.layers import attention

    class Heads(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, heads=4)

    return Heads(), [torch.randn(8, 96, 256), *torch.randn(2, 2, 77, 256)]  # four frames share a context


def _convolution_path() -> tuple[nn.Module, list[Tensor]]:
    import torch
    from torch import nn

    return nn.Conv2d(64, 64, 3, padding=1), [torch.randn(4, 64, 16, 24)]


def _unet_path() -> tuple[nn.Module, list[Tensor]]:
    """The denoiser's middle: residual block, temporal convolutions, spatial and temporal transformer."""
    import torch
    from torch import nn

    from dcrafter.config import UNetConfig
    from dcrafter.models.unet import Middle

    frames, config = 4, UNetConfig(model_channels=64, context_dim=64)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.middle = Middle(64, config)

        def forward(self, *inputs: Tensor) -> Tensor:
            return self.middle(*inputs, frames)

    shapes = [(frames, 64, 8, 12), (1, 256), (1, 77, 64), (1, 16, 64)]  # x, time embedding, text, image
    return Block(), [torch.randn(shape) for shape in shapes]


def _anonymous(text: str) -> str:
    """Without the home folder and, in other paths, the user's name."""
    for home in (Path.home(), Path.home().resolve()):
        if home != Path(home.anchor):
            text = re.sub(rf"{re.escape(str(home))}(?![\w.-])", "~", text)
    with suppress(Exception):  # nobody has a name in some containers
        text = re.sub(rf"(?<=[/\\]){re.escape(getpass.getuser())}(?![\w.-])", "USER", text)
    return text


PATHS: dict[str, Callable[[], tuple[nn.Module, list[Tensor]]]] = {
    "attention": _attention_path,
    "convolution": _convolution_path,
    "UNet block": _unet_path,
}
SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "Versions": _versions,
    "Torch": _torch,
    "Memory": _memory,
    "Settings": _settings,
    "Cache": _cache,
    "Self-test": _self_test,
}
