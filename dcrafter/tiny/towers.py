"""The CLIP towers' stage: contrastive training on images and captions (arXiv 2103.00020)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcrafter.metrics.pixels import as_input
from dcrafter.models.clip import ImageEncoder, TextEncoder, clip_pixels
from dcrafter.models.tokenizer import tokenize
from dcrafter.tiny.clips import Draws
from dcrafter.tiny.prepared import SPLITS
from dcrafter.tiny.recipe import TinyRecipe
from dcrafter.tiny.stills import StillSampler
from dcrafter.training.stage import TrainingStage

EVALUATION_STILLS = 96  # each ranked among all of them by its caption
MAX_LOGIT_SCALE = math.log(100)  # as in the paper, section 2.5


class TowersStage(TrainingStage):
    """Trains both towers by the symmetric contrastive loss over a batch (figure 3 there)."""

    def __init__(self, recipe: TinyRecipe, data: Path, *, plan_only: bool = False) -> None:
        """With `plan_only` no data is looked at."""
        super().__init__()
        self.config = recipe.model_config
        torch.manual_seed(recipe.seed)
        self.text_encoder = TextEncoder(self.config.clip)
        self.image_encoder = ImageEncoder(self.config.clip)
        self.model = nn.ModuleDict({"text_encoder": self.text_encoder, "image_encoder": self.image_encoder})
        if plan_only:
            return
        train, held_out = (StillSampler(data, split, size=self.config.height) for split in SPLITS)
        items = recipe.train.steps * recipe.train.batch * recipe.train.accumulate
        self.dataset = Draws(train.captioned_still, recipe.seed, items)
        self.held_out = [held_out.captioned_still(1, i) for i in range(EVALUATION_STILLS)]

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """{"image": (n, H, W, 3) uint8, "caption": n texts}."""
        with torch.no_grad():  # as in the paper
            self.text_encoder.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        logits = self.text_encoder.logit_scale.exp() * self._similarities(batch["image"], batch["caption"])
        own = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return {"loss": loss, "found": (logits.argmax(dim=1) == own).float().mean()}

    def _similarities(self, images: Tensor, captions: list[str]) -> Tensor:
        """Cosines (images, captions)."""
        device = self.text_encoder.logit_scale.device
        pixels = clip_pixels(as_input(images.to(device)), self.config.clip.vision.image_size)
        tokens = tokenize(captions, self.config.clip.text.context_length).to(device)
        of_images = self.image_encoder.similarity_features(self.image_encoder(pixels))
        of_captions = self.text_encoder.similarity_features(tokens)
        return F.normalize(of_images.float(), dim=-1) @ F.normalize(of_captions.float(), dim=-1).T

    def evaluate(self) -> dict[str, float]:
        """Share of held-out images whose own caption is the nearest, or among the nearest five."""
        images = torch.stack([item["image"] for item in self.held_out])
        ranked = self._similarities(images, [item["caption"] for item in self.held_out]).argsort(descending=True)
        hits = ranked == torch.arange(len(ranked), device=ranked.device)[:, None]
        return {"top1": float(hits[:, 0].float().mean()), "top5": float(hits[:, :5].any(dim=1).float().mean())}

    def preview(self) -> Tensor:
        """The held-out images."""
        shown = torch.stack([item["image"] for item in self.held_out])
        columns = math.ceil(len(shown) ** 0.5)
        grid = shown.new_zeros(math.ceil(len(shown) / columns) * columns, *shown.shape[1:])
        grid[: len(shown)] = shown
        rows = [torch.cat([*row], dim=1) for row in torch.split(grid, columns)]
        return torch.cat(rows, dim=0)
