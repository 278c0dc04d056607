from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dcrafter
from dcrafter.cli import diagnose as module
from dcrafter.cli.diagnose import SECTIONS, diagnose
from dcrafter.models import layers


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user named ann, no GPU, and a cache with two files."""
    home = tmp_path / "ann"
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "ann")
    monkeypatch.setenv("DCRAFTER_CACHE_DIR", str(home / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module, "NVIDIA_DRIVER", tmp_path / "no driver")
    (home / "cache" / "downloads").mkdir(parents=True)
    (home / "cache" / "512.safetensors").write_bytes(bytes(1_200_000))
    (home / "cache" / "downloads" / "model.ckpt").write_bytes(bytes(100))
    return home


def sections(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """What is printed, by title."""
    diagnose()
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) < 200
    found: dict[str, list[str]] = {}
    title = ""
    for line in out.splitlines():
        if line.startswith("  "):
            found[title].append(line.removeprefix("  "))
        else:
            title = line
            found[title] = []
    assert list(found) == list(SECTIONS)
    return found


def only(monkeypatch: pytest.MonkeyPatch, title: str) -> None:
    monkeypatch.setattr(module, "SECTIONS", {name: SECTIONS[name] if name == title else list for name in SECTIONS})


def test_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    said = sections(capsys)
    versions = dict(line.split(maxsplit=1) for line in said["Versions"])
    assert versions["dcrafter"] == dcrafter.__version__
    assert versions["python"] == sys.version.split()[0]
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert [name for name, number in versions.items() if "missing" in number] == []
    assert said["Torch"][0].startswith(torch.__version__)
    assert said["Torch"][1].startswith("cpu: ")
    assert said["Torch"][2].startswith("No GPU is used: ")
    assert "available of" in said["Memory"][0]
    assert said["Cache"] == ["~/cache", "    512.safetensors 1.2 MB", "    downloads/model.ckpt 0.0 MB"]
    right = "attention ok, convolution ok, UNet block ok"
    assert said["Self-test"] == [f"cpu {dtype}: {right}" for dtype in ("float32", "float16", "bfloat16")]


def test_a_missing_package_is_said_to_be(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only(monkeypatch, "Versions")
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package"))
    assert sections(capsys)["Versions"][-1] == "no-such-package  is missing"


@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        (
            None,
            "uv pip install --reinstall torch torchvision --torch-backend=auto",
        ),
        ("12.8", "its driver does not work with CUDA 12.8"),
    ],
)
@pytest.mark.parametrize("by", ["program", "driver"])
def test_a_gpu_that_torch_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    cuda: str | None, said: str, by: str,
) -> None:  # fmt: skip
    only(monkeypatch, "Torch")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    assert not any("has an NVIDIA GPU" in line for line in sections(capsys)["Torch"])
    if by == "program":
        monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    else:
        (tmp_path / "no driver").mkdir()
    page = "\n".join(sections(capsys)["Torch"])
    assert "NVIDIA GPU" in page
    assert said in page


def test_a_gpu_with_its_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only(monkeypatch, "Torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20_000_000_000, 24_000_000_000))
    assert sections(capsys)["Torch"][2] == "cuda:0: GeForce, 20.0 GB of 24.0 GB free"


def test_paths_that_are_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only(monkeypatch, "Self-test")
    true = layers.attention

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        if q.dtype == torch.float16:
            raise RuntimeError("no kernel\nfor Half")
        out = true(q, k, v, heads)
        return out * torch.nan if q.dtype == torch.bfloat16 else out if q.dtype == torch.float64 else 1.01 * out

    monkeypatch.setattr(layers, "attention", attention)
    single, half, brain = sections(capsys)["Self-test"]
    assert single.startswith("cpu float32: attention WRONG (off by 0.01, 0.003 is allowed), convolution ok, UNet block")
    assert half.startswith(
        "cpu float16: attention FAILED (unexpected RuntimeError: no kernel for Half), convolution ok, "
    )
    assert half.endswith("UNet block FAILED (unexpected RuntimeError: no kernel for Half)")
    assert "attention WRONG (off by nan" in brain


def test_what_fails_does_not_end_the_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # its import fails
    said = sections(capsys)
    assert said["Torch"] == ["unexpected ModuleNotFoundError: import of torch halted; None in sys.modules"]
    assert said["Self-test"] == said["Torch"]
    assert "available of" in said["Memory"][0]
    assert said["Cache"][0] == "~/cache"


def test_nobody_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only(monkeypatch, "Cache")
    for folder, shown in {
        home / "x": "~/x: not there",
        home: "~",
        Path(f"{home}a", "x"): f"{home}a/x: not there",
        Path("/scratch/ann/x"): "/scratch/USER/x: not there",
        Path("/scratch/anna/ann"): "/scratch/anna/USER: not there",
    }.items():
        monkeypatch.setenv("DCRAFTER_CACHE_DIR", str(folder))
        assert sections(capsys)["Cache"][0] == shown


def test_a_limit_of_memory_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only(monkeypatch, "Memory")
    monkeypatch.setattr(module, "memory_limit", lambda: 2_000_000_000)
    assert sections(capsys)["Memory"][1] == "limited to 2.0 GB (cgroup)"
