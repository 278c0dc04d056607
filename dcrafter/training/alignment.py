"""How well frames and captions go together, by a model's own CLIP towers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcrafter.generators import drain
from dcrafter.media.image import fit_image
from dcrafter.models.clip import MEAN, STD
from dcrafter.models.tokenizer import tokenize
from dcrafter.pipeline import LoadOptions, Pipeline
from dcrafter.training.videos import open_track

FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class Towers:
    """A model's CLIP towers, loaded as long as nothing else of the model is."""

    pipe: Pipeline

    @classmethod
    def of_model(
        cls, model: str, *, checkpoint: Path | None = None, device: str = "auto", offline: bool = False
    ) -> Towers:
        """Those of a model by name, or of a checkpoint, in float32. Raises WeightsError where it cannot be had."""
        options: LoadOptions = {"checkpoint": checkpoint, "device": device, "offline": offline, "dtype": "float32"}
        return cls(Pipeline.from_pretrained(model, **options))

    @torch.inference_mode()
    def embed_frames(self, frames: Tensor) -> Tensor:
        """(T, H, W, 3) uint8 → (T, D), scaled, cropped and normalized as OpenCLIP does."""
        self._load()
        size = self.pipe.config.clip.vision.image_size
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        found = []
        for some in torch.split(frames, FRAMES_AT_ONCE):
            scaled = [_scaled(frame.numpy(), size) for frame in some]
            pixels = (torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2) / 255 - mean) / std
            tower = self.pipe.model.image_encoder
            found.append(tower.similarity_features(tower(pixels.to(self.pipe.device))).float().cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def embed_text(self, caption: str) -> Tensor:
        """A caption → (D,)."""
        self._load()
        tokens = tokenize([caption], self.pipe.config.clip.text.context_length).to(self.pipe.device)
        return self.pipe.model.text_encoder.similarity_features(tokens)[0].float().cpu()

    def _load(self) -> None:
        drain(self.pipe.residency.ensure_loaded("text_encoder", "image_encoder"))


def _scaled(frame: np.ndarray, size: int) -> np.ndarray:
    """As OpenCLIP's transform: bicubic, the short side to `size`, cut to its middle."""
    return np.array(fit_image(Image.fromarray(frame), size, size, resample=Image.Resampling.BICUBIC))


def some_frames(file: Path, count: int) -> Tensor | None:
    """Frames of a video, evenly over it: (count, H, W, 3) uint8. None where it cannot be read."""
    try:
        track = open_track(file, count)
        step = (track.count - 1) // max(count - 1, 1)
        pictures = track.pictures(range(0, step * (count - 1) + 1, max(step, 1)))
    except Exception:  # decoders raise nearly anything on damaged data
        return None
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
