"""Extractors of video features: what maps a clip to one row of a set that `distributions` compares.

An extractor is opened by name: a file of I3D's weights, or a video model of transformers (hub name or folder).
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcrafter.errors import InputError, WeightsError
from dcrafter.metrics.i3d import I3D, SIZE
from dcrafter.text import error_text

Extractor = Callable[[Tensor], Tensor]
"""A clip (T, H, W, 3) uint8 → its features (D,) on the CPU."""

I3D_SUFFIXES = (".pt", ".pth", ".safetensors")


def open_extractor(name: str, device: torch.device | str = "cpu", *, offline: bool = False) -> Extractor:
    """The extractor that a name stands for.

    Args:
        name: a file of I3D (TorchScript as published for FVD, or a state dict), else a model of transformers.
        device: where it runs.
        offline: download nothing.

    Raises:
        WeightsError: the weights are missing or are another model's.
    """
    if Path(name).suffix in I3D_SUFFIXES:
        return open_i3d(Path(name), device)
    return open_transformers(name, device, offline=offline)


def open_i3d(path: Path, device: torch.device | str = "cpu") -> Extractor:
    """I3D's logits (400,), as FVD is computed from: frames scaled to 224×224 bilinearly, not cropped.

    Raises:
        WeightsError: the file is missing, or is no I3D.
    """
    try:
        with warnings.catch_warnings():  # PyTorch deprecates TorchScript, in which FVD's I3D is published
            warnings.simplefilter("ignore")
            model = _load_i3d(path).eval().to(device)
    except Exception as error:  # unpickling and TorchScript raise many kinds
        raise WeightsError(
            f"{path} is no usable I3D ({error_text(error)})",
            "Give FVD's TorchScript file, or a state dict with the keys of rgb_imagenet.pt",
        ) from error
    schema = getattr(model.forward, "schema", None)  # of TorchScript
    published = schema is not None and "return_features" in {each.name for each in schema.arguments}

    @torch.inference_mode()
    def extract(frames: Tensor) -> Tensor:
        clip = frames.to(device).permute(0, 3, 1, 2).float()  # (T, 3, H, W)
        if published:  # it scales by itself
            found = model(clip.transpose(0, 1)[None], rescale=True, resize=True, return_features=True)
        else:
            scaled = F.interpolate(clip, (SIZE, SIZE), mode="bilinear", align_corners=False)
            found = model(scaled.transpose(0, 1)[None] / 127.5 - 1)
        return found[0].float().cpu()

    return extract


def _load_i3d(path: Path) -> nn.Module:
    if path.suffix != ".safetensors" and _is_torchscript(path):
        return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    model = I3D()
    model.load_state_dict(state)
    return model


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def open_transformers(name: str, device: torch.device | str = "cpu", *, offline: bool = False) -> Extractor:
    """The last hidden states of a video model such as VideoMAE (arXiv 2203.12602), averaged over tokens: (D,).

    Frames are taken evenly, as many as the model has, and scaled and normalized as its processor says.

    Raises:
        WeightsError: the model is missing, or is no video model.
    """
    from transformers import AutoImageProcessor, AutoModel

    options: dict[str, Any] = {"local_files_only": offline or Path(name).is_dir(), "trust_remote_code": False}
    try:
        processor: Any = AutoImageProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]
        model: Any = AutoModel.from_pretrained(name, **options).eval().to(device)
        count = int(model.config.num_frames)
    except Exception as error:  # transformers raises many kinds
        raise WeightsError(
            f"{name} is no usable video model ({error_text(error)})",
            "Give a model of transformers that has num_frames, such as MCG-NJU/videomae-base, or a file of I3D",
        ) from error

    @torch.inference_mode()
    def extract(frames: Tensor) -> Tensor:
        chosen = torch.linspace(0, len(frames) - 1, count).round().long()
        inputs = processor([*frames[chosen].numpy()], return_tensors="pt").to(device)
        return model(**inputs).last_hidden_state[0].float().mean(dim=0).cpu()

    return extract


def embedding_features(frame_embeddings: Tensor) -> Tensor:
    """Features where no video model is at hand: the frames' CLIP embeddings (T, D) → (2 D,).

    Their mean, and the mean absolute difference of neighbors. A stand-in: comparable with nobody's FVD.
    """
    unit = F.normalize(frame_embeddings.float(), dim=-1)
    return torch.cat([unit.mean(dim=0), unit.diff(dim=0).abs().mean(dim=0)])


def stack_features(rows: list[Tensor]) -> Any:
    """Rows (D,) → a NumPy array (n, D).

    Raises:
        InputError: there are fewer than two rows.
    """
    if len(rows) < 2:
        raise InputError(f"a distance of distributions needs two videos or more, not {len(rows)}")
    return torch.stack(rows).numpy()
