"""What metrics are given of a clip: each thing computed once, by a model's CLIP towers and other extractors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dcrafter.errors import WeightsError
from dcrafter.generators import drain
from dcrafter.metrics.features import Extractor, embedding_features, open_extractor
from dcrafter.metrics.perceptual import Distance, open_distance
from dcrafter.runtime.devices import choose_device
from dcrafter.training.alignment import Towers
from dcrafter.weights.cache import cache_dir, writing_to

CLIP = "clip"  # the model's own image tower, in place of another extractor
I3D_FILE = ("flateon/FVD-I3D-torchscript", "i3d_torchscript.pt", "1c2d61711c52571ad617a1063e6fa691b212e184")
I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"


@dataclass(frozen=True)
class Extraction:
    """Which extractors are used. Each is opened when something first needs it."""

    model: str = "auto"
    checkpoint: Path | None = None
    features: str = CLIP  # or i3d, a file of I3D, or a video model of transformers
    perceptual: str = CLIP  # or a name in `DISTANCES`
    perceptual_weights: Path | None = None
    device: str = "auto"
    offline: bool = False

    @cached_property
    def towers(self) -> Towers:
        return Towers.of_model(self.model, checkpoint=self.checkpoint, device=self.device, offline=self.offline)

    @cached_property
    def extractor(self) -> Extractor:
        name = str(fetch_i3d(offline=self.offline)) if self.features == "i3d" else self.features
        return open_extractor(name, self._device, offline=self.offline)

    @cached_property
    def distance(self) -> Distance:
        return open_distance(self.perceptual, self.perceptual_weights, self._device)

    @cached_property
    def _device(self) -> torch.device:
        return choose_device(self.device)

    def label(self, inputs: Collection[str]) -> str:
        """The extractor behind a metric's inputs, for tables: figures of different ones must not be compared."""
        by_input = {"features": self.features, "image_distances": self.perceptual, "frame_embeddings": CLIP}
        name = next((by_input[input] for input in inputs if input in by_input), "")
        return f"CLIP of {self.towers.pipe.config.name}" if name == CLIP else Path(name).name

    def __call__(self, wanted: Collection[str], frames: Tensor, image: Tensor | None, caption: str) -> dict[str, Any]:
        """The inputs of metrics for a clip.

        Args:
            wanted: names of inputs, as `metrics` lists them.
            frames: (T, H, W, 3) uint8.
            image: (H, W, 3) uint8 that the video was made from, if it is known.
            caption: its caption; "" where there is none.

        Returns:
            Those that can be had: without an image or a caption, what needs one is left out.
        """
        found: dict[str, Any] = {"frames": frames}
        by_towers = {"features": self.features, "image_distances": self.perceptual, "frame_embeddings": CLIP}
        if any(by_towers.get(name) == CLIP for name in wanted):
            found["frame_embeddings"] = self.towers.embed_frames(frames)
        if "features" in wanted:
            own = self.features == CLIP
            found["features"] = embedding_features(found["frame_embeddings"]) if own else self.extractor(frames)
        if image is not None:
            found["image"] = image
            if "image_distances" in wanted:
                found["image_distances"] = self._distances(image, frames, found)
        if caption:
            found["caption"] = caption
            if "text_embedding" in wanted:
                found["text_embedding"] = self.towers.embed_text(caption)
        return found

    def _distances(self, image: Tensor, frames: Tensor, found: Mapping[str, Any]) -> Tensor:
        if self.perceptual != CLIP:
            return self.distance(image, frames)
        return 1 - F.cosine_similarity(self.towers.embed_frames(image[None]), found["frame_embeddings"], dim=-1)


def fetch_i3d(*, offline: bool = False) -> Path:
    """The I3D that FVD is published with, as TorchScript: downloaded once, and its SHA-256 compared.

    Raises:
        WeightsError: it is not here and cannot be had.
    """
    path = cache_dir() / I3D_FILE[1]
    if path.is_file():
        return path
    if offline:
        raise WeightsError("FVD's I3D is not on this machine", f"Leave out --offline once, or put it at {path}")
    from dcrafter.weights.download import download, look_up

    repository, file, revision = I3D_FILE
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        drain(download(replace(look_up(repository, file, revision=revision), sha256=I3D_SHA256), part))
        part.replace(path)
    return path
