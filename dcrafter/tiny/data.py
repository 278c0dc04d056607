"""Clips and stills of the small model's data set, each made anew from (seed, index), so that a resume is exact.

Two kinds of clip: an emoji's own animation over some background, and a picture, or a scene of emoji, under a
procedural motion. Motions happen in seconds, frames are taken at `fps`, the model's motion condition: as in the 512
model a lower number moves more. An animation of 24 frames a second taken at stride s has fps 24/s (24, 12, 8 or 6); a
procedural motion of rate v a second moves v/fps a frame, with fps one of those numbers too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dcrafter.errors import InputError
from dcrafter.tiny.captions import ANIMATION_PHRASES, PHRASES, fill, noun, plain_tags, takes_pace
from dcrafter.tiny.recipe import Clips
from dcrafter.training.videos import swing

Split = Literal["train", "held-out"]
Rng = np.random.Generator
Array = np.ndarray

EMOJI_FPS = 24
STRIDES = (1, 2, 3, 4)
MOTIONS = tuple(PHRASES)
DIRECTED = ("zoom in", "zoom out", "pan left", "pan right", "pan up", "pan down", "rotate clockwise",
            "rotate counterclockwise")  # fmt: skip
PACES: dict[str | None, tuple[float, float]] = {"slow": (0.4, 0.65), None: (0.65, 1.4), "fast": (1.4, 2.2)}

# A view spans [-1, 1] both ways, y down. Rates a second at pace 1, and the least and most in a whole clip.
PAN_RATE, PAN_RANGE = 0.45, (0.10, 1.1)  # of a half view
ZOOM_RATE, ZOOM_RANGE = 0.28, (0.06, 0.65)  # of log scale
TURN_RATE, TURN_RANGE = 0.42, (0.08, 1.0)  # radians
DRIFT_RATE = 0.12
TEXELS = 1.2  # source pixels for one of the view, at the middle of a clip: bilinear sampling stays sharp


class Index:
    """A prepared data set: memory-mapped pixels and what is known of them. Raises InputError where there is none."""

    def __init__(self, folder: Path) -> None:
        try:
            self.about = json.loads((folder / "index.json").read_text("utf-8"))
        except OSError as error:
            advice = "Build it with `python -m dcrafter.tiny.prepare`."
            if not folder.exists():
                advice += " If it is to be videos of your own: there is no such folder."
            raise InputError(f"{folder} holds no prepared data set", advice) from error
        size = self.about["emoji_size"]
        self.stills = np.memmap(folder / "stills.u8", mode="r").reshape(-1, size, size, 4)
        self.animations = np.memmap(folder / "animations.u8", mode="r").reshape(-1, size, size, 4)
        self._pictures = np.memmap(folder / "pictures.u8", mode="r")

    def emoji(self, split: Split) -> list[dict[str, Any]]:
        return [row for row in self.about["emoji"] if row["split"] == split]

    def pictures(self, split: Split) -> list[dict[str, Any]]:
        return [row for row in self.about["pictures"] if row["split"] == split]

    def picture(self, row: dict[str, Any]) -> Array:
        """Pixels (height, width, 3)."""
        height, width, start = row["height"], row["width"], row["offset"]
        return self._pictures[start : start + height * width * 3].reshape(height, width, 3)


def one_of(rng: Rng, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


# --- motions


@dataclass(frozen=True)
class Motion:
    """Where the content is in each frame: all are (T,), in half views, log scale and radians clockwise as seen."""

    x: Array
    y: Array
    zoom: Array
    turn: Array
    ripple: tuple[float, float, float] | None = None  # amplitude in half views, waves a half view, turns a second

    def at(self, frame: int) -> Motion:
        """That frame alone; of a motion that does not ripple."""
        only = slice(frame, frame + 1)
        return Motion(self.x[only], self.y[only], self.zoom[only], self.turn[only])

    def content(self, points: Array) -> Array:
        """Where what is seen at `points` (N, 2) in each frame lies in the unmoved picture: (T, N, 2)."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        back = np.stack([cos, -sin, sin, cos], axis=-1).reshape(-1, 2, 2) * np.exp(-self.zoom)[:, None, None]
        offset = np.stack([self.x, self.y], axis=-1)[:, None] @ back
        return points @ back.astype(np.float32) - offset.astype(np.float32)


def narrowed(value: float, least: float, most: float, spread: float) -> float:
    """A value drawn between two, nearer to their geometric middle: at a spread of 0 it is that, at 1 the value."""
    middle = (least * most) ** 0.5
    return middle * (value / middle) ** spread


UNMOVED = Motion(*np.zeros((4, 1)))


def make_motion(name: str, pace: float, seconds: Array, rng: Rng, *, spread: float = 1.0) -> Motion:
    """The motion called `name`, `pace` times its usual rate, at times `seconds` (T,); at 0 nothing has moved.

    `spread` is how much two motions of a name differ: at 0 they are one, but for where a drift goes.
    """
    x, y, zoom, turn = np.zeros((4, len(seconds)))
    ripple = None
    duration = seconds.max()
    share = seconds / duration

    def amount(rate: float, limits: tuple[float, float]) -> float:
        return float(np.clip(rate * pace * duration, *limits))

    def about(least: float, most: float) -> float:
        return narrowed(float(rng.uniform(least, most)), least, most, spread)

    def wave(hertz: float) -> Array:
        return np.sin(2 * np.pi * hertz * pace * seconds)

    match name.split():
        case ["pan", "left" | "right" as to]:
            x = amount(PAN_RATE, PAN_RANGE) * share * (1 if to == "left" else -1)
        case ["pan", to]:
            y = amount(PAN_RATE, PAN_RANGE) * share * (1 if to == "up" else -1)
        case ["zoom", to]:
            zoom = amount(ZOOM_RATE, ZOOM_RANGE) * share * (1 if to == "in" else -1)
        case ["rotate", to]:
            turn = amount(TURN_RATE, TURN_RANGE) * share * (1 if to == "clockwise" else -1)
        case ["shake"]:
            size = about(0.03, 0.08)
            # So many times on the clip's way, not a second: what turns at every other frame could be any motion.
            way = np.abs(np.diff(seconds)).sum()
            x, y, turn = (times * wave(about(*often) / way) for times, often in
                          ((size, (2, 3)), (size, (2.5, 3.5)), (0.3 * size, (2, 3.5))))  # fmt: skip
        case ["sway"]:  # to the right first, that a small model need not learn the mean of both
            swayed = wave(about(0.6, 1.0))
            x, turn = about(0.08, 0.2) * swayed, about(0.06, 0.2) * swayed
        case ["pulse"]:
            zoom = about(0.08, 0.2) * wave(about(0.8, 1.4))
        case ["drift"]:
            heading = rng.uniform(0, 2 * np.pi) + rng.uniform(-1, 1) * share
            x, y = (DRIFT_RATE * pace * seconds * turned for turned in (np.cos(heading), np.sin(heading)))
            turn = rng.uniform(-0.1, 0.1) * pace * seconds
        case ["ripple"]:
            ripple = (about(0.06, 0.1), about(1.5, 3.0), about(0.6, 1.2) * pace)
        case ["still"]:
            pass
        case _:
            raise ValueError(f"no motion is called {name}")
    return Motion(x, y, zoom, turn, ripple)


def sampling_grid(motion: Motion, seconds: Array, size: int, centre: Array | None = None) -> Array:
    """Where each pixel of each frame lies in the unmoved content: (T, size, size, 2) float32 in half views.

    Content turns, grows and ripples about `centre` (2,), by default the view's; the result is relative to it.
    """
    line = (np.arange(size) + 0.5) * 2 / size - 1
    points = (np.stack(np.meshgrid(line, line), axis=-1) - (0 if centre is None else centre)).astype(np.float32)
    if motion.ripple is None:
        return motion.content(points.reshape(-1, 2)).reshape(-1, size, size, 2)
    amplitude, waves, hertz = motion.ripple
    radius = np.hypot(points[..., 0], points[..., 1])
    start, passed = 2 * np.pi * waves * radius, 2 * np.pi * hertz * seconds[:, None, None]
    shift = amplitude * (np.sin(start - passed) - np.sin(start))
    outward = points / np.maximum(radius, 1e-3)[..., None]
    return (points + shift[..., None] * outward).astype(np.float32)


def sample(source: Tensor, grid: Tensor) -> Tensor:
    """(C, h, w) float and a grid (T, H, W, 2) that spans it with [-1, 1] → (T, C, H, W), bilinear; outside is 0."""
    sources = source.expand(len(grid), *source.shape)
    return F.grid_sample(sources, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


# --- pixels


def resized(pixels: Array, width: int, height: int) -> Array:
    """(h, w, 3 or 4) uint8 → (height, width, same), antialiased."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0))


def resized_emoji(frames: Array, size: int) -> Tensor:
    """(n, s, s, 4) uint8 → (n, 4, size, size) float in [0, 1], premultiplied, antialiased."""
    x = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True).float() / 255


def planes(pixels: Array) -> Tensor:
    """(H, W, 3) uint8 → (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def over(sprite: Tensor, background: Tensor) -> Tensor:
    """A premultiplied sprite (n, 4, h, w) over (n or 1, 3, h, w)."""
    return sprite[:, :3] + background * (1 - sprite[:, 3:])


def to_bytes(frames: Tensor) -> Tensor:
    """(n, 3, H, W) in [0, 1] → (n, H, W, 3) uint8."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def gradient(rng: Rng, size: int) -> Array:
    """Two colours running into each other, straight or round: (size, size, 3) uint8."""
    line = np.linspace(-0.5, 0.5, size)
    x, y = np.meshgrid(line, line)
    angle = rng.uniform(0, 2 * np.pi)
    straight = 0.5 + x * np.cos(angle) + y * np.sin(angle)
    share = straight if rng.random() < 0.6 else 1.4 * np.hypot(x - rng.uniform(-0.3, 0.3), y - rng.uniform(-0.3, 0.3))
    first, second = rng.integers(0, 256, (2, 3))
    return (first + np.clip(share, 0, 1)[..., None] * (second - first)).astype(np.uint8)


@dataclass(frozen=True)
class Told:
    """A motion, when it is where, and the words for it."""

    template: str
    word: str | None  # of its pace
    pace: float
    stride: int
    seconds: Array  # (T,)
    motion: Motion

    def caption(self, label: str, rng: Rng) -> str:
        return fill(self.template, label, self.word, rng=rng)


_ONE_WAY = ("left", "right", "clock", "arrow", "button", "flag", "letter", "input", "symbol", "mark")


class Source:
    """Draws clips and stills of one split from a prepared data set."""

    def __init__(
        self, folder: Path, split: Split = "train", *, size: int = 128, frames: int = 16, clips: Clips | None = None
    ) -> None:
        self.index = Index(folder)
        self.size = size
        self.frames = frames
        self.split = split
        self.clips = clips or Clips()
        self.emoji = self.index.emoji(split)
        self.animated = [row for row in self.emoji if row["animation"]]
        self.pictures = self.index.pictures(split)
        self.photographs = [row for row in self.pictures if row["photograph"]]

    def clip(
        self, seed: int, index: int, *, motion: str | None = None, new_words: bool = False, loop: bool = False
    ) -> dict[str, Any]:
        """A clip with its caption.

        {"frames": (T, H, W, 3) uint8, "caption", "fps", "stride", "kind": "animation", "picture" or "scene", "motion"
        (None for an animation), "pace": the motion's rate in units of the usual one}. `motion` asks for one of
        `MOTIONS`; `new_words` captions it in the phrases kept from training. A `loop` goes half as far and comes back.
        """
        rng = np.random.default_rng([seed, index])
        way = swing(self.frames) / 2 if loop else np.linspace(0, 1, self.frames)
        kind = rng.random()
        if motion is None and kind < self.clips.animations:
            return self._animation(rng, new_words, way)
        chosen = motion or str(one_of(rng, DIRECTED if rng.random() < self.clips.directed else MOTIONS))
        return self._moved(rng, chosen, new_words, way, scene=kind > 1 - self.clips.scenes)

    def asked(self, seed: int, index: int, motion: str) -> tuple[Tensor, str]:
        """A view of a photograph (H, W, 3) uint8, the same whatever `motion` is, and a caption that asks for that."""
        rng = np.random.default_rng([seed, index])
        picture, label = self._picture(rng, photographs=1.0)
        grid = sampling_grid(UNMOVED, np.zeros(1), self.size)
        view = self._filmed(rng, picture, grid, centred=False)[0]
        return view, self._told(rng, motion).caption(label, rng)

    def motions(self, seed: int, index: int) -> dict[str, Any]:
        """A picture and, of each of some clips of it that go one way, a single later frame.

        {"frames": (1 + n, H, W, 3) uint8, the picture first; "captions": n of them, "fps": (n,), "places": (n,), which
        frame each is, 1…}.
        """
        rng = np.random.default_rng([seed, index])
        scene = rng.random() < self.clips.scenes
        picture, label = self._scene(rng) if scene else self._picture(rng)
        grids = [sampling_grid(UNMOVED, np.zeros(1), self.size)]
        captions, fps, places = [], [], []
        for name in rng.permutation(DIRECTED)[: self.clips.motions]:
            told = self._told(rng, str(name))
            place = int(rng.integers(1, self.frames))
            grids.append(sampling_grid(told.motion.at(place), told.seconds, self.size))
            captions.append(told.caption(label, rng))
            fps.append(EMOJI_FPS // told.stride)
            places.append(place)
        frames = self._filmed(rng, picture, np.concatenate(grids), centred=scene)
        return {"frames": frames, "captions": captions, "fps": torch.tensor(fps), "places": torch.tensor(places)}

    def still(self, seed: int, index: int) -> Tensor:
        """A picture (H, W, 3) uint8 for the autoencoder: half of them emoji, half crops of pictures."""
        rng = np.random.default_rng([seed, index])
        return self.emoji_still(rng) if rng.random() < 0.5 else self.picture_still(rng)

    def captioned_still(self, seed: int, index: int) -> dict[str, Any]:
        """{"picture": (H, W, 3) uint8, "caption"}: mostly one emoji, in the words of any motion it may begin."""
        rng = np.random.default_rng([seed, index])
        if rng.random() < 0.85:
            row = one_of(rng, self.emoji)
            frame = self.index.stills[row["still"]]
            if row["animation"] and rng.random() < 0.5:
                start, count = row["animation"]
                frame = self.index.animations[start + int(rng.integers(count))]
            canvas = planes(self._background(rng))
            sprite = resized_emoji(self._maybe_mirrored(rng, frame[None]), int(self.size * rng.uniform(0.5, 1.0)))
            self._paste(canvas, sprite, rng)
            pixels, label = to_bytes(canvas)[0], noun(row["label"])
            tags = self._some_tags(rng, row)
        else:
            row = self._some_picture(rng)
            whole = self.index.picture(row)
            side = min(whole.shape[:2])
            top, left = (int(rng.integers(extent - side + 1)) for extent in whole.shape[:2])
            square = resized(whole[top : top + side, left : left + side], self.size, self.size)
            pixels, label, tags = torch.from_numpy(np.array(square)), row["label"], row["label"]
        phrases = ANIMATION_PHRASES if rng.random() < 0.5 else PHRASES[one_of(rng, MOTIONS)]
        return {"picture": pixels, "caption": fill(one_of(rng, phrases.train), label, tags=tags)}

    def emoji_still(self, rng: Rng) -> Tensor:
        frames = []
        for _ in range(1 if rng.random() < 0.75 else int(rng.integers(2, 5))):
            row = one_of(rng, self.emoji)
            if row["animation"] and rng.random() < 0.7:
                start, count = row["animation"]
                frames.append(self.index.animations[start + int(rng.integers(count))])
            else:
                frames.append(self.index.stills[row["still"]])
        canvas = planes(self._background(rng))
        for frame in frames:
            size = int(self.size * rng.uniform(0.35, 1.05))
            self._paste(canvas, resized_emoji(self._maybe_mirrored(rng, frame[None]), size), rng)
        return to_bytes(canvas)[0]

    def picture_still(self, rng: Rng, *, photographs: float = 0.75) -> Tensor:
        """A crop of a picture, with probability `photographs` surely of a photograph."""
        pixels = self._crop(rng, photographs)
        if self.split == "train" and rng.random() < 0.5:  # so few pictures: vary their colours
            pixels = pixels[..., rng.permutation(3)] if rng.random() < 0.5 else pixels
            pixels = np.clip(pixels * rng.uniform(0.7, 1.25, 3) + rng.uniform(-20, 20), 0, 255).astype(np.uint8)
        return torch.from_numpy(np.array(pixels))

    def evaluation_stills(self, kind: Literal["emoji", "photographs"], count: int) -> Tensor:
        """What an autoencoder is evaluated on, always the same: (count, H, W, 3) uint8."""
        draw = self.emoji_still if kind == "emoji" else partial(self.picture_still, photographs=1.0)
        return torch.stack([draw(np.random.default_rng([1, i])) for i in range(count)])

    # The two kinds of clip

    def _animation(self, rng: Rng, new_words: bool, way: Array) -> dict[str, Any]:
        row = one_of(rng, self.animated)
        start, count = row["animation"]
        stride = int(one_of(rng, STRIDES))
        span = stride * (self.frames - 1) + 1
        first = int(rng.integers(max(count - span, 0) + 1)) if count >= span else int(rng.integers(count))
        chosen = start + (first + np.rint((span - 1) * way).astype(int)) % count
        frames = self.index.animations[chosen]
        if not any(word in row["label"] for word in _ONE_WAY):
            frames = self._maybe_mirrored(rng, frames)
        canvas = planes(self._background(rng))
        canvas = canvas.repeat(self.frames, 1, 1, 1)
        self._paste(canvas, resized_emoji(frames, int(self.size * rng.uniform(0.5, 1.0))), rng)
        template = one_of(rng, ANIMATION_PHRASES.held_out if new_words else ANIMATION_PHRASES.train)
        caption = fill(template, noun(row["label"]), tags=self._some_tags(rng, row))
        return {
            "frames": to_bytes(canvas), "caption": caption, "fps": EMOJI_FPS // stride, "stride": stride,
            "kind": "animation", "motion": None, "pace": 1.0,
        }  # fmt: skip

    def _moved(self, rng: Rng, name: str, new_words: bool, way: Array, *, scene: bool) -> dict[str, Any]:
        told = self._told(rng, name, new_words, way)
        motion, seconds = told.motion, told.seconds
        if scene and name not in DIRECTED and rng.random() < 0.6:  # whose words mean the whole view
            frames, label = self._moving_emoji(rng, motion, seconds)
        else:
            picture, label = self._scene(rng) if scene else self._picture(rng)
            grid = sampling_grid(motion, seconds, self.size)
            frames = self._filmed(rng, picture, grid, centred=scene, zoom=float(np.mean(motion.zoom)))
        return {
            "frames": frames, "caption": told.caption(label, rng), "fps": EMOJI_FPS // told.stride,
            "stride": told.stride, "kind": "scene" if scene else "picture", "motion": name, "pace": told.pace,
        }  # fmt: skip

    def _told(self, rng: Rng, name: str, new_words: bool = False, way: Array | None = None) -> Told:
        """A motion and its words. `way` (T,) says how much of the clip's time is over in each frame."""
        template = one_of(rng, PHRASES[name].held_out if new_words else PHRASES[name].train)
        word = one_of(rng, (None, "slow", "fast")) if takes_pace(template) and rng.random() < 0.6 else None
        least, most = PACES[word] if takes_pace(template) else (PACES["slow"][0], PACES["fast"][1])
        pace = self.clips.speed * narrowed(float(rng.uniform(least, most)), least, most, self.clips.spread)
        stride = int(one_of(rng, STRIDES))
        duration = (self.frames - 1) * stride / EMOJI_FPS
        seconds = duration * (np.linspace(0, 1, self.frames) if way is None else way)
        return Told(
            template, word, pace, stride, seconds, make_motion(name, pace, seconds, rng, spread=self.clips.spread)
        )

    def _picture(self, rng: Rng, photographs: float = 0.75) -> tuple[Array, str]:
        row = self._some_picture(rng, photographs)
        pixels = self.index.picture(row)
        kind = "photo" if row["photograph"] else "drawing"
        label = one_of(rng, (row["label"], row["label"], f"a {kind} of {row['label']}", "the picture"))
        return (pixels[:, ::-1] if rng.random() < 0.5 else pixels), label

    def _scene(self, rng: Rng) -> tuple[Array, str]:
        """A picture of emoji three views wide; the one the caption names is in the middle."""
        side = 3 * self.size
        canvas = planes(resized(self._background(rng), side, side))
        others = [one_of(rng, self.emoji) for _ in range(int(rng.integers(0, 7)))]
        for row in others:
            sprite = resized_emoji(self.index.stills[row["still"]][None], int(self.size * rng.uniform(0.3, 0.9)))
            self._paste(canvas, sprite, rng)
        named = one_of(rng, self.emoji)
        size = int(self.size * rng.uniform(0.6, 1.2))
        self._paste(canvas, resized_emoji(self.index.stills[named["still"]][None], size), None)
        return to_bytes(canvas)[0].numpy(), noun(named["label"])

    def _filmed(self, rng: Rng, picture: Array, grid: Array, *, centred: bool, zoom: float = 0.0) -> Tensor:
        """The picture as a moving camera sees it, no border ever in view. `grid` as `sampling_grid` makes it."""
        flat = torch.from_numpy(grid).view(-1, 2)
        margin = 2 / self.size  # half a texel of the source, and some
        low, high = flat.amin(0).numpy() - margin, flat.amax(0).numpy() + margin
        if centred:  # the unmoved view's middle is the picture's
            high = np.maximum(high, -low)
            low = -high
        box = (high - low) / 2  # in views
        most = min(picture.shape[1] / box[0], picture.shape[0] / box[1])
        view = most * rng.uniform(0.6, 1.0) if centred else np.exp(rng.uniform(np.log(0.3), 0)) * most
        width, height = (max(int(view * extent), 2) for extent in box)
        left, top = (int(rng.uniform() * (room - taken)) if not centred else (room - taken) // 2
                     for room, taken in ((picture.shape[1], width), (picture.shape[0], height)))  # fmt: skip
        texels = self.size * TEXELS * np.exp(zoom)
        crop = resized(picture[top : top + height, left : left + width], *(max(int(e * texels), 2) for e in box))
        source = planes(crop)[0]
        scale = 2 / (high - low)
        spanned = torch.from_numpy(grid) * torch.from_numpy(scale) - torch.from_numpy(low * scale + 1)
        return to_bytes(sample(source, spanned))

    def _moving_emoji(self, rng: Rng, motion: Motion, seconds: Array) -> tuple[Tensor, str]:
        """One emoji that moves about its own middle, over a background that does not."""
        row = one_of(rng, self.emoji)
        extent = rng.uniform(0.45, 0.8)  # of the view
        place = rng.uniform(-1, 1, 2) * (1 - extent) * 0.8
        sprite = resized_emoji(self.index.stills[row["still"]][None], int(self.size * extent * TEXELS))[0]
        grid = sampling_grid(motion, seconds, self.size, place) / np.float32(extent)
        background = planes(self._background(rng))
        moving = sample(sprite, torch.from_numpy(grid))
        return to_bytes(over(moving, background)), noun(row["label"])

    # What clips and stills are put together from

    @staticmethod
    def _some_tags(rng: Rng, row: dict[str, Any]) -> str:
        tags = plain_tags(row["label"], row["tags"])
        return ", ".join(rng.permutation(tags)[: int(rng.integers(1, 4))]) if tags else str(row["label"])

    def _background(self, rng: Rng) -> Array:
        """(H, W, 3) uint8: a plain colour, a gradient, a blurred picture or a picture."""
        kind = rng.random()
        if kind < 0.3:
            colour = rng.integers(0, 256, 3) if rng.random() < 0.7 else np.full(3, one_of(rng, (0, 128, 255)))
            return np.broadcast_to(colour.astype(np.uint8), (self.size, self.size, 3)).copy()
        if kind < 0.55:
            return gradient(rng, self.size)
        pixels = self._crop(rng)
        if kind < 0.8:
            coarse = int(rng.integers(4, 24))
            pixels = resized(resized(pixels, coarse, coarse), self.size, self.size)
        return np.array(pixels)

    def _some_picture(self, rng: Rng, photographs: float = 0.75) -> dict[str, Any]:
        """A photograph, more often than its share, or a drawing."""
        return one_of(rng, self.photographs if rng.random() < photographs else self.pictures)

    def _crop(self, rng: Rng, photographs: float = 0.75) -> Array:
        """A square from a picture, from a tenth of it to all, perhaps mirrored: (size, size, 3) uint8."""
        pixels = self.index.picture(self._some_picture(rng, photographs))
        height, width = pixels.shape[:2]
        smallest = min(self.size / min(height, width), 1.0)
        side = int(min(height, width) * np.exp(rng.uniform(np.log(smallest), 0)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        square = resized(pixels[top : top + side, left : left + side], self.size, self.size)
        return square[:, ::-1] if rng.random() < 0.5 else square

    def _maybe_mirrored(self, rng: Rng, frames: Array) -> Array:
        return frames[:, :, ::-1] if rng.random() < 0.5 else frames

    @staticmethod
    def _paste(canvas: Tensor, sprite: Tensor, rng: Rng | None) -> None:
        """Puts a sprite (n, 4, s, s) into a canvas (n, 3, H, W): anywhere, mostly inside, or in the middle."""
        size, room = sprite.shape[-1], canvas.shape[-1] - sprite.shape[-1]
        if rng is None or room <= 0:
            top = left = room // 2
        else:
            slack = min(size // 10, room)
            top, left = (int(rng.integers(-slack, room + slack + 1)) for _ in range(2))
        view = canvas[:, :, max(top, 0) : top + size, max(left, 0) : left + size]
        cut_top, cut_left = max(-top, 0), max(-left, 0)
        view.copy_(over(sprite[:, :, cut_top:, cut_left:][:, :, : view.shape[2], : view.shape[3]], view))


class Draws(Dataset[Any]):
    """`length` draws as a map-style data set, such as `Draws(source.clip, seed, length)`; item i is always the same."""

    def __init__(self, draw: Callable[[int, int], Any], seed: int, length: int) -> None:
        self.draw, self.seed, self.length = draw, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.draw(self.seed, index)
