"""Stills of the built-in model's data, each a function of (seed, index), so that a resume is exact."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dcrafter.tiny.captions import ANIMATION_PHRASES, PHRASES, fill, noun
from dcrafter.tiny.drawing import maybe_mirror, one_of, paste, to_planes, to_sprites, to_uint8
from dcrafter.tiny.ingredients import PHOTOGRAPHS, Ingredients, Rng
from dcrafter.tiny.motions import MOTIONS
from dcrafter.tiny.prepared import Split


class StillSampler:
    """Draws stills of one split of a prepared data set, size × size pixels."""

    def __init__(self, folder: Path, split: Split = "train", *, size: int = 128) -> None:
        self.ingredients, self.size, self.split = Ingredients(folder, split, size), size, split

    def still(self, seed: int, index: int) -> Tensor:
        """An image (H, W, 3) uint8 for the autoencoder: half of them emoji, half crops of images."""
        rng = np.random.default_rng([seed, index])
        return self.emoji_still(rng) if rng.random() < 0.5 else self.image_still(rng)

    def captioned_still(self, seed: int, index: int) -> dict[str, Any]:
        """{"image": (H, W, 3) uint8, "caption"}: mostly one emoji, in the words of any motion it may begin."""
        rng = np.random.default_rng([seed, index])
        if rng.random() < 0.85:
            row = one_of(rng, self.ingredients.emoji)
            frame = self.ingredients.emoji_frame(rng, row, animated=0.5)
            canvas = to_planes(self.ingredients.background(rng))
            sprite = to_sprites(maybe_mirror(rng, frame[None]), int(self.size * rng.uniform(0.5, 1.0)))
            paste(canvas, sprite, rng)
            image, label = to_uint8(canvas)[0], noun(row["label"])
            tags = self.ingredients.some_tags(rng, row)
        else:
            pixels, label = self.ingredients.whole_image(rng)
            image, tags = torch.from_numpy(np.array(pixels)), label
        phrases = ANIMATION_PHRASES if rng.random() < 0.5 else PHRASES[one_of(rng, tuple(MOTIONS))]
        return {"image": image, "caption": fill(one_of(rng, phrases.train), label, tags=tags)}

    def emoji_still(self, rng: Rng) -> Tensor:
        """One emoji or some over a background."""
        count = 1 if rng.random() < 0.75 else int(rng.integers(2, 5))
        rows = (one_of(rng, self.ingredients.emoji) for _ in range(count))
        frames = [self.ingredients.emoji_frame(rng, row, animated=0.7) for row in rows]
        canvas = to_planes(self.ingredients.background(rng))
        for frame in frames:
            size = int(self.size * rng.uniform(0.35, 1.05))
            paste(canvas, to_sprites(maybe_mirror(rng, frame[None]), size), rng)
        return to_uint8(canvas)[0]

    def image_still(self, rng: Rng, *, photographs: float = PHOTOGRAPHS) -> Tensor:
        """A crop of an image, with probability `photographs` surely of a photograph."""
        pixels = self.ingredients.crop(rng, photographs)
        if self.split == "train" and rng.random() < 0.5:  # so few images: vary their colors
            pixels = pixels[..., rng.permutation(3)] if rng.random() < 0.5 else pixels
            pixels = np.clip(pixels * rng.uniform(0.7, 1.25, 3) + rng.uniform(-20, 20), 0, 255).astype(np.uint8)
        return torch.from_numpy(np.array(pixels))

    def evaluation_stills(self, kind: Literal["emoji", "photographs"], count: int) -> Tensor:
        """What an autoencoder is evaluated on, always the same: (count, H, W, 3) uint8."""
        draw = self.emoji_still if kind == "emoji" else partial(self.image_still, photographs=1.0)
        return torch.stack([draw(np.random.default_rng([1, i])) for i in range(count)])
