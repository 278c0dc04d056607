"""Perceptual distances of images, by optional packages: DreamSim (arXiv 2306.09344) and LPIPS (arXiv 1801.03924)."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dcrafter.errors import UsageError, WeightsError
from dcrafter.install import install_hint
from dcrafter.text import error_text

Distance = Callable[[Tensor, Tensor], Tensor]
"""An image (H, W, 3) and frames (T, H, W, 3), uint8 → the distance of each frame from the image (T,)."""


def open_distance(name: str, weights: Path | None = None, device: torch.device | str = "cpu") -> Distance:
    """The distance of a name in `DISTANCES`.

    Args:
        name: dreamsim or lpips.
        weights: the folder of DreamSim's files, or a state dict of LPIPS; None: those that the package downloads.
        device: where it runs.

    Raises:
        UsageError: the package is not installed.
        WeightsError: the weights cannot be loaded.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # both packages print and warn
            warnings.simplefilter("ignore")
            return DISTANCES[name](weights, device)
    except ModuleNotFoundError as error:
        raise UsageError(f"{name} is not installed", f"{install_hint(name)}, or choose another distance") from error
    except Exception as error:  # of downloads, archives and unpickling
        raise WeightsError(
            f"the weights of {name} cannot be loaded ({error_text(error)})", "Give them with --perceptual-weights"
        ) from error


def _dreamsim(weights: Path | None, device: torch.device | str) -> Distance:
    """One minus the cosine of embeddings of the ensemble, of images scaled to 224×224."""
    from dreamsim import dreamsim

    folder = weights or Path(torch.hub.get_dir()) / "dreamsim"
    folder.parent.mkdir(parents=True, exist_ok=True)
    kind = _dreamsim_kind(folder) if weights else "ensemble"
    model, preprocess = dreamsim(device=device, cache_dir=str(folder), dreamsim_type=kind)

    @torch.inference_mode()
    def distance(image: Tensor, frames: Tensor) -> Tensor:
        pixels = torch.cat([preprocess(Image.fromarray(each.numpy())) for each in (image, *frames)]).to(device)
        return model(pixels[:1].expand_as(pixels[1:]), pixels[1:]).float().cpu()

    return distance


def _dreamsim_kind(folder: Path) -> str:
    """Which of DreamSim's models a folder holds, by its adapter; the ensemble is the paper's."""
    adapters = sorted(path.name for path in folder.glob("*_lora"))
    if not adapters:
        raise FileNotFoundError(f"no folder in {folder} ends in _lora")
    return "ensemble" if "ensemble_lora" in adapters else adapters[0].removesuffix("_single_lora")


def _lpips(weights: Path | None, device: torch.device | str) -> Distance:
    """LPIPS 0.1 over AlexNet."""
    from lpips import LPIPS

    model = LPIPS(net="alex", verbose=False, pnet_rand=weights is not None, pretrained=weights is None)
    if weights is not None:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model = model.eval().to(device)

    @torch.inference_mode()
    def distance(image: Tensor, frames: Tensor) -> Tensor:
        pixels = torch.cat([image[None], frames]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return model(pixels[:1].expand_as(pixels[1:]), pixels[1:]).flatten().float().cpu()

    return distance


DISTANCES: dict[str, Callable[[Path | None, torch.device | str], Distance]] = {"dreamsim": _dreamsim, "lpips": _lpips}
