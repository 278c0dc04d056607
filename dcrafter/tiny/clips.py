"""Clips of the built-in model's data, each a function of (seed, index), so that a resume is exact.

Three kinds: an emoji's own animation over some background; an image, or a scene of emoji, under a named motion; and a
subject, an emoji or a cut-out, that moves or whose parts move over a photograph that does not. An animation of 24
frames a second taken at stride s has fps 24/s (24, 12, 8 or 6); motions are given one of those too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dcrafter.tiny.captions import ANIMATION_PHRASES, LOCAL_PHRASES, PHRASES, fill, noun, takes_pace
from dcrafter.tiny.drawing import (
    composite,
    lit,
    maybe_mirror,
    one_of,
    paste,
    resize,
    to_planes,
    to_sprite,
    to_sprites,
    to_uint8,
)
from dcrafter.tiny.ingredients import Ingredients, Rng
from dcrafter.tiny.motions import (
    DIRECTED,
    FACE_MOTIONS,
    LOCAL_MOTIONS,
    MOTIONS,
    PACES,
    PANS_AND_TURNS,
    UNMOVED,
    Timing,
    Trajectory,
    sample,
    sampling_grid,
    toward_middle,
)
from dcrafter.tiny.prepared import Array, Split
from dcrafter.tiny.recipe import Clips
from dcrafter.training.videos import swing

EMOJI_FPS = 24
STRIDES = (1, 2, 3, 4)
TEXELS = 1.2  # source pixels for one of the view, at the middle of a clip: bilinear sampling stays sharp
LOCAL = 0.75  # share of moving subjects whose motion is one of `LOCAL_MOTIONS`
FACES = 0.25  # share of moving subjects that surely have a face
PART_MOTIONS = tuple(LOCAL_MOTIONS)
UNDIRECTED = tuple(name for name in MOTIONS if name not in DIRECTED)
ONE_WAY = ("left", "right", "clock", "arrow", "button", "flag", "letter", "input", "symbol", "mark")
"""Words in labels of emoji that would be wrong mirrored."""


@dataclass(frozen=True)
class PromptedMotion:
    """A motion, when its frames are, and the words for it."""

    name: str
    template: str
    word: str | None  # for its pace
    pace: float
    stride: int
    seconds: Array  # (T,)
    trajectory: Trajectory

    def caption(self, label: str, rng: Rng) -> str:
        return fill(self.template, label, self.word, rng=rng)


def motion_of_view(clips: Clips, rng: Rng) -> str:
    """The name of a motion of an image as a whole, as often as the shares say."""
    if clips.local and rng.random() < clips.local:
        return one_of(rng, PART_MOTIONS)  # users' subjects fill the view; its middle is taken for a face's
    if rng.random() >= clips.directed:
        return one_of(rng, tuple(MOTIONS))
    return one_of(rng, PANS_AND_TURNS if clips.panned and rng.random() < clips.panned else DIRECTED)


def own_motions(label: str) -> tuple[str, ...]:
    """Names of the local motions that a subject can have: those of a face where it is one."""
    return tuple(name for name in LOCAL_MOTIONS if name not in FACE_MOTIONS or "face" in label)


def film(
    rng: Rng, image: Array, grid: Array, *, centered: bool, zoom: float = 0.0, light: Array | None = None
) -> Tensor:
    """The image (H, W, 3) as a moving camera sees it, no border ever in view: (T, size, size, 3) uint8.

    `grid` is a `sampling_grid`; `centered` keeps the unmoved view's middle at the image's, else it is anywhere.
    """
    size = grid.shape[1]
    margin = 2 / size  # half a texel of the source, and some
    low, high = (np.array([reach(grid[..., 0]), reach(grid[..., 1])]) for reach in (np.min, np.max))
    low, high = low - margin, high + margin
    if centered:
        high = np.maximum(high, -low)
        low = -high
    box = (high - low) / 2  # in views
    most = min(image.shape[1] / box[0], image.shape[0] / box[1])
    view = most * rng.uniform(0.6, 1.0) if centered else np.exp(rng.uniform(np.log(0.3), 0)) * most
    width, height = (max(int(view * extent), 2) for extent in box)
    left, top = (int(rng.uniform() * (room - taken)) if not centered else (room - taken) // 2
                 for room, taken in ((image.shape[1], width), (image.shape[0], height)))  # fmt: skip
    texels = size * TEXELS * np.exp(zoom)
    crop = resize(image[top : top + height, left : left + width], *(max(int(e * texels), 2) for e in box))
    source = to_planes(crop)[0]
    scale = 2 / (high - low)
    spanned = torch.from_numpy(grid) * torch.from_numpy(scale) - torch.from_numpy(low * scale + 1)
    return to_uint8(lit(sample(source, spanned), light))


class ClipSampler:
    """Draws clips of one split of a prepared data set."""

    def __init__(
        self, folder: Path, split: Split = "train", *, size: int = 128, frames: int = 16, clips: Clips | None = None
    ) -> None:
        """Open the data.

        Args:
            folder: what `dcrafter.tiny.prepare` made.
            split: which of its emoji and images.
            size: pixels a side of a frame.
            frames: of a clip.
            clips: the shares of kinds of clip.

        Raises:
            InputError: there is no prepared data set.
        """
        self.ingredients = Ingredients(folder, split, size)
        self.size, self.frames, self.clips = size, frames, clips or Clips()

    def clip(
        self, seed: int, index: int, *, motion: str | None = None, new_words: bool = False, loop: bool = False
    ) -> dict[str, Any]:
        """A clip with its caption.

        Args:
            seed: of the run.
            index: of the clip.
            motion: one of `MOTIONS`, of a subject one of `LOCAL_MOTIONS`, or None for a clip of any kind.
            new_words: caption it in the phrases kept from training.
            loop: go half as far and come back.

        Returns:
            {"frames": (T, H, W, 3) uint8, "caption", "fps", "stride", "kind": "animation", "subject", "picture" or
            "scene", "motion" (None for an animation), "pace": the motion's rate in units of the usual one}.
        """
        rng = np.random.default_rng([seed, index])
        way = swing(self.frames) / 2 if loop else np.linspace(0, 1, self.frames)
        kind = rng.random()
        if motion is None and kind < self.clips.animations:
            return self._animation(rng, new_words, way)
        if motion in LOCAL_MOTIONS or (motion is None and kind < self.clips.animations + self.clips.cutouts):
            return self._subject(rng, motion, new_words, way)
        scene = kind > 1 - self.clips.scenes
        return self._moved(rng, motion or motion_of_view(self.clips, rng), new_words, way, scene=scene)

    def prompted_view(self, seed: int, index: int, motion: str) -> tuple[Tensor, str]:
        """A view of a photograph (H, W, 3) uint8, the same whatever `motion` is, and a caption that asks for that."""
        rng = np.random.default_rng([seed, index])
        image, label = self.ingredients.labelled_image(rng, photographs=1.0)
        grid = sampling_grid(UNMOVED, np.zeros(1), self.size)
        view = film(rng, image, grid, centered=False)[0]
        return view, self._prompted_motion(rng, motion).caption(label, rng)

    def known_view(self, seed: int, index: int, motion: str) -> tuple[Tensor, Tensor]:
        """A photograph under a directed motion.

        Returns:
            Frames (T, H, W, 3) uint8, and where they show what the first one does not: (T, H, W) bool.
        """
        rng = np.random.default_rng([seed, index])
        image, _ = self.ingredients.labelled_image(rng, photographs=1.0)
        moved = self._prompted_motion(rng, motion)
        grid = sampling_grid(moved.trajectory, moved.seconds, self.size)
        frames = film(rng, image, grid, centered=False, zoom=float(np.mean(moved.trajectory.zoom)))
        return frames, torch.from_numpy(np.abs(grid).max(-1) > 1)

    def later_frames(self, seed: int, index: int) -> dict[str, Any]:
        """An image and, of each of some clips of it that go different ways, a single later frame.

        What moves is the view, or the parts of a whole image or of a subject over a photograph.

        Returns:
            {"frames": (1 + n, H, W, 3) uint8, the image first; "captions": n of them, "fps": (n,), "places": (n,),
            which frame each is, 1…}.
        """
        rng = np.random.default_rng([seed, index])
        subject = self.clips.cutouts and rng.random() < self.clips.cutouts
        scene = not subject and rng.random() < self.clips.scenes
        if subject:
            image, label = self._some_subject(rng)
            choices = own_motions(label)
        else:
            image, label = self.ingredients.scene(rng) if scene else self.ingredients.labelled_image(rng)
            choices = PART_MOTIONS if self.clips.local and rng.random() < self.clips.local else DIRECTED
        names = rng.permutation(choices)[: self.clips.later_frames]
        places = rng.integers(1, self.frames, len(names))
        motions = [
            self._prompted_motion(rng, str(name), way=np.array([0, place / (self.frames - 1), 1]))
            for name, place in zip(names, places, strict=True)
        ]
        if subject:
            stage = self._stage(rng, image)
            moved = [stage(motion) for motion in motions]
            frames = torch.cat([moved[0][:1], *(three[1:2] for three in moved)])
        else:
            grids = [sampling_grid(motion.trajectory, motion.seconds, self.size) for motion in motions]
            lights = [motion.trajectory.light for motion in motions]
            light = np.stack([np.zeros(3), *(np.zeros(3) if each is None else each[1] for each in lights)])
            grid = np.stack([grids[0][0], *(each[1] for each in grids)])
            frames = film(rng, image, grid, centered=scene, light=light)
        return {
            "frames": frames, "captions": [motion.caption(label, rng) for motion in motions],
            "fps": torch.tensor([EMOJI_FPS // motion.stride for motion in motions]), "places": torch.tensor(places),
        }  # fmt: skip

    def _animation(self, rng: Rng, new_words: bool, way: Array) -> dict[str, Any]:
        """An emoji's own animation. `way` (T,) says how much of the clip's time is over in each frame."""
        row = one_of(rng, self.ingredients.animated)
        start, count = row["animation"]
        stride = one_of(rng, STRIDES)
        span = stride * (self.frames - 1) + 1
        first = int(rng.integers(max(count - span, 0) + 1)) if count >= span else int(rng.integers(count))
        chosen = start + (first + np.rint((span - 1) * way).astype(int)) % count
        frames = self.ingredients.data.animations[chosen]
        if not any(word in row["label"] for word in ONE_WAY):
            frames = maybe_mirror(rng, frames)
        canvas = to_planes(self.ingredients.background(rng)).repeat(self.frames, 1, 1, 1)
        paste(canvas, to_sprites(frames, int(self.size * rng.uniform(0.5, 1.0))), rng)
        template = one_of(rng, ANIMATION_PHRASES.held_out if new_words else ANIMATION_PHRASES.train)
        caption = fill(template, noun(row["label"]), tags=self.ingredients.some_tags(rng, row))
        return {
            "frames": to_uint8(canvas), "caption": caption, "fps": EMOJI_FPS // stride, "stride": stride,
            "kind": "animation", "motion": None, "pace": 1.0,
        }  # fmt: skip

    def _subject(self, rng: Rng, name: str | None, new_words: bool, way: Array) -> dict[str, Any]:
        """A cut-out or an emoji that moves, as a whole or in its parts, over a photograph that does not."""
        pixels, label = self._some_subject(rng, name)
        name = name or one_of(rng, own_motions(label) if rng.random() < LOCAL else UNDIRECTED)
        motion = self._prompted_motion(rng, name, new_words, way)
        return self._clip(rng, motion, self._stage(rng, pixels)(motion), label, "subject")

    def _some_subject(self, rng: Rng, name: str | None = None) -> tuple[Array, str]:
        """A subject that can have a motion, or any, and its noun."""
        face = rng.random() < FACES if name is None else name in FACE_MOTIONS
        return self.ingredients.subject(rng, face=face)

    def _stage(self, rng: Rng, pixels: Array) -> Callable[[PromptedMotion], Tensor]:
        """A subject somewhere over a photograph: what shows its frames (T, size, size, 3) uint8 under a motion."""
        extent = rng.uniform(0.35, 0.75) * np.array(pixels.shape[1::-1]) / max(pixels.shape[:2])  # of the view
        place = rng.uniform(-1, 1, 2) * (1 - extent) * 0.8
        sprite = to_sprite(pixels, *(max(int(self.size * side * TEXELS), 2) for side in extent))
        background = to_planes(self.ingredients.crop(rng, photographs=1.0))

        def shown(motion: PromptedMotion) -> Tensor:
            grid = sampling_grid(motion.trajectory, motion.seconds, self.size, place, extent)
            moving = lit(sample(sprite, torch.from_numpy(grid)), motion.trajectory.light)
            return to_uint8(composite(moving, background))

        return shown

    def _clip(self, rng: Rng, motion: PromptedMotion, frames: Tensor, label: str, kind: str) -> dict[str, Any]:
        return {
            "frames": frames, "caption": motion.caption(label, rng), "fps": EMOJI_FPS // motion.stride,
            "stride": motion.stride, "kind": kind, "motion": motion.name, "pace": motion.pace,
        }  # fmt: skip

    def _moved(self, rng: Rng, name: str, new_words: bool, way: Array, *, scene: bool) -> dict[str, Any]:
        """An image or a scene of emoji under a named motion."""
        motion = self._prompted_motion(rng, name, new_words, way)
        if scene and name in UNDIRECTED and rng.random() < 0.6:  # whose words mean the whole view
            frames, label = self._moving_emoji(rng, motion.trajectory, motion.seconds)
        else:
            image, label = self.ingredients.scene(rng) if scene else self.ingredients.labelled_image(rng)
            grid = sampling_grid(motion.trajectory, motion.seconds, self.size)
            zoom, light = float(np.mean(motion.trajectory.zoom)), motion.trajectory.light
            frames = film(rng, image, grid, centered=scene, zoom=zoom, light=light)
        return self._clip(rng, motion, frames, label, "scene" if scene else "picture")

    def _prompted_motion(
        self, rng: Rng, name: str, new_words: bool = False, way: Array | None = None
    ) -> PromptedMotion:
        """A motion and its words. `way` (T,) says how much of the clip's time is over in each frame."""
        phrases = LOCAL_PHRASES[name] if name in LOCAL_MOTIONS else PHRASES[name]
        template = one_of(rng, phrases.held_out if new_words else phrases.train)
        word = one_of(rng, (None, "slow", "fast")) if takes_pace(template) and rng.random() < 0.6 else None
        least, most = PACES[word] if takes_pace(template) else (PACES["slow"][0], PACES["fast"][1])
        pace = self.clips.speed * toward_middle(float(rng.uniform(least, most)), least, most, self.clips.spread)
        stride = one_of(rng, STRIDES)
        duration = (self.frames - 1) * stride / EMOJI_FPS
        seconds = duration * (np.linspace(0, 1, self.frames) if way is None else way)
        trajectory = (LOCAL_MOTIONS | MOTIONS)[name](Timing(seconds, pace, self.clips.spread, rng))
        return PromptedMotion(name, template, word, pace, stride, seconds, trajectory)

    def _moving_emoji(self, rng: Rng, trajectory: Trajectory, seconds: Array) -> tuple[Tensor, str]:
        """One emoji that moves about its own middle, over a background that does not; and its noun."""
        row = one_of(rng, self.ingredients.emoji)
        extent = rng.uniform(0.45, 0.8)  # of the view
        place = rng.uniform(-1, 1, 2) * (1 - extent) * 0.8
        still = self.ingredients.data.stills[row["still"]]
        sprite = to_sprites(still[None], int(self.size * extent * TEXELS))[0]
        grid = sampling_grid(trajectory, seconds, self.size, place) / np.float32(extent)
        background = to_planes(self.ingredients.background(rng))
        moving = lit(sample(sprite, torch.from_numpy(grid)), trajectory.light)
        return to_uint8(composite(moving, background)), noun(row["label"])


class Draws(Dataset[Any]):
    """Draws as a map-style data set, such as `Draws(sampler.clip, seed, length)`; item i is always the same."""

    def __init__(self, draw: Callable[[int, int], Any], seed: int, length: int) -> None:
        self.draw, self.seed, self.length = draw, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.draw(self.seed, index)
