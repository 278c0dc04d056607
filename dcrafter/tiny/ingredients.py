"""What clips and stills are put together from: emoji, images, backgrounds and scenes of one split of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dcrafter.tiny.captions import noun, plain_tags
from dcrafter.tiny.drawing import (
    gradient,
    one_of,
    paste,
    plain_color,
    resize,
    to_planes,
    to_sprites,
    to_uint8,
)
from dcrafter.tiny.prepared import Array, PreparedData, Row, Split

Rng = np.random.Generator

CUTOUTS = 0.6  # share of subjects that are cut-outs, where there are any
PHOTOGRAPHS = 0.75  # share of images that are surely photographs


class Ingredients:
    """Random parts of one split, for frames of size × size pixels. Raises InputError where there is no data."""

    def __init__(self, folder: Path, split: Split, size: int) -> None:
        self.data, self.split, self.size = PreparedData(folder), split, size
        self.emoji = self.data.emoji(split)
        self.animated = [row for row in self.emoji if row["animation"]]
        self.cutouts = self.data.cutouts(split)
        self.images = self.data.images(split)
        self.photographs = [row for row in self.images if row["photograph"]]

    def emoji_frame(self, rng: Rng, row: Row, animated: float) -> Array:
        """A frame (s, s, 4) of an emoji, with probability `animated` any of its animation, if it has one."""
        if row["animation"] and rng.random() < animated:
            start, count = row["animation"]
            return self.data.animations[start + int(rng.integers(count))]
        return self.data.stills[row["still"]]

    def subject(self, rng: Rng, *, face: bool = False) -> tuple[Array, str]:
        """A cut-out or an emoji (h, w, 4), and its noun; with `face` an emoji that is one, where there are any."""
        faces = [row for row in self.emoji if "face" in row["label"]] if face else []
        row = one_of(rng, faces or (self.cutouts if self.cutouts and rng.random() < CUTOUTS else self.emoji))
        pixels = self.data.cutout(row) if "offset" in row else self.data.stills[row["still"]]
        is_phrase = row["label"].startswith(("a ", "an ", "the ", "some "))
        return pixels, row["label"] if is_phrase else noun(row["label"])

    def some_tags(self, rng: Rng, row: Row) -> str:
        """Some of an emoji's tags."""
        tags = plain_tags(row["label"], row["tags"])
        return ", ".join(rng.permutation(tags)[: int(rng.integers(1, 4))]) if tags else str(row["label"])

    def some_image(self, rng: Rng, photographs: float = PHOTOGRAPHS) -> Row:
        """A photograph, more often than its share, or a drawing."""
        return one_of(rng, self.photographs if rng.random() < photographs else self.images)

    def labelled_image(self, rng: Rng, photographs: float = PHOTOGRAPHS) -> tuple[Array, str]:
        """An image (H, W, 3), perhaps mirrored, and what a caption calls it."""
        row = self.some_image(rng, photographs)
        pixels = self.data.pixels(row)
        kind = "photo" if row["photograph"] else "drawing"
        label = one_of(rng, (row["label"], row["label"], f"a {kind} of {row['label']}", "the picture"))
        return (pixels[:, ::-1] if rng.random() < 0.5 else pixels), label

    def whole_image(self, rng: Rng) -> tuple[Array, str]:
        """A square of an image as large as it goes, at the frame's size, and its label."""
        row = self.some_image(rng)
        pixels = self.data.pixels(row)
        side = min(pixels.shape[:2])
        top, left = (int(rng.integers(extent - side + 1)) for extent in pixels.shape[:2])
        return resize(pixels[top : top + side, left : left + side], self.size, self.size), row["label"]

    def crop(self, rng: Rng, photographs: float = PHOTOGRAPHS) -> Array:
        """A square of an image, from a tenth of it to all, perhaps mirrored: (size, size, 3) uint8."""
        pixels = self.data.pixels(self.some_image(rng, photographs))
        height, width = pixels.shape[:2]
        smallest = min(self.size / min(height, width), 1.0)
        side = int(min(height, width) * np.exp(rng.uniform(np.log(smallest), 0)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        square = resize(pixels[top : top + side, left : left + side], self.size, self.size)
        return square[:, ::-1] if rng.random() < 0.5 else square

    def background(self, rng: Rng) -> Array:
        """(size, size, 3) uint8: a plain color, a gradient, a blurred image or an image."""
        kind = rng.random()
        if kind < 0.3:
            return plain_color(rng, self.size)
        if kind < 0.55:
            return gradient(rng, self.size)
        pixels = self.crop(rng)
        if kind < 0.8:
            coarse = int(rng.integers(4, 24))
            pixels = resize(resize(pixels, coarse, coarse), self.size, self.size)
        return np.array(pixels)

    def scene(self, rng: Rng) -> tuple[Array, str]:
        """An image of emoji three views wide; the one the caption names is in the middle."""
        side = 3 * self.size
        canvas = to_planes(resize(self.background(rng), side, side))
        others = [one_of(rng, self.emoji) for _ in range(int(rng.integers(0, 7)))]
        for row in others:
            sprite = to_sprites(self.data.stills[row["still"]][None], int(self.size * rng.uniform(0.3, 0.9)))
            paste(canvas, sprite, rng)
        named = one_of(rng, self.emoji)
        size = int(self.size * rng.uniform(0.6, 1.2))
        paste(canvas, to_sprites(self.data.stills[named["still"]][None], size), None)
        return to_uint8(canvas)[0].numpy(), noun(named["label"])
