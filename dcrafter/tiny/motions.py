"""The motions that captions name, as where content is in each frame.

A view spans [-1, 1] both ways, y down; lengths are in half views. Motions happen in seconds: a frame is taken every
1/fps of one, where fps is the model's motion condition, so that a lower number moves more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

Array = np.ndarray
Rng = np.random.Generator

# Rates a second at pace 1, and the least and most in a whole clip.
PAN_RATE, PAN_RANGE = 0.45, (0.10, 1.1)  # half views
ZOOM_RATE, ZOOM_RANGE = 0.28, (0.06, 0.65)  # log scale
TURN_RATE, TURN_RANGE = 0.42, (0.08, 1.0)  # radians
DRIFT_RATE = 0.12

PACES: dict[str | None, tuple[float, float]] = {"slow": (0.4, 0.65), None: (0.65, 1.4), "fast": (1.4, 2.2)}
"""Least and most pace that a caption's word means."""


class Warp(Protocol):
    """A motion of parts against each other."""

    def displace(self, points: Array, seconds: Array) -> Array:
        """Where what is seen at `points` (T or 1, H, W, 2) lies in the unmoved content at each time: (T, H, W, 2)."""


@dataclass(frozen=True)
class Trajectory:
    """Where content is in each frame, as a similarity and perhaps a warp: x, y, zoom and turn are (T,)."""

    x: Array
    y: Array
    zoom: Array  # log scale
    turn: Array  # radians, clockwise as seen
    warp: Warp | None = None  # about the middle, in half views
    parts: Warp | None = None  # in the subject's own box, which spans [-1, 1] both ways, y down
    light: Array | None = None  # (T, 3) in [0, 1], of each color: 1 makes it full

    def content(self, points: Array) -> Array:
        """Where what is seen at `points` (N, 2) in each frame lies in the unmoved content, warp apart: (T, N, 2)."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        back = np.stack([cos, -sin, sin, cos], axis=-1).reshape(-1, 2, 2) * np.exp(-self.zoom)[:, None, None]
        offset = np.stack([self.x, self.y], axis=-1)[:, None] @ back
        return points @ back.astype(np.float32) - offset.astype(np.float32)


UNMOVED = Trajectory(*np.zeros((4, 1)))


def toward_middle(value: float, least: float, most: float, spread: float) -> float:
    """A value drawn between two, nearer to their geometric middle: at a spread of 0 it is that, at 1 the value."""
    middle = (least * most) ** 0.5
    return middle * (value / middle) ** spread


@dataclass(frozen=True)
class Timing:
    """The times of a clip's frames, and how a motion varies."""

    seconds: Array  # (T,)
    pace: float  # in units of the usual rate
    spread: float  # how much two motions of a name differ: at 0 they are one, but for where a drift goes
    rng: Rng

    @property
    def share(self) -> Array:
        """How much of the clip's time is over in each frame: (T,) in [0, 1]."""
        return self.seconds / self.seconds.max()

    def steady(self, rate: float, limits: tuple[float, float]) -> Array:
        """A value that grows evenly at `rate` a second, and is within the limits at the end: (T,)."""
        return float(np.clip(rate * self.pace * self.seconds.max(), *limits)) * self.share

    def about(self, least: float, most: float) -> float:
        """A random value between two."""
        return toward_middle(float(self.rng.uniform(least, most)), least, most, self.spread)

    def wave(self, hertz: float) -> Array:
        """A sine that begins at 0: (T,)."""
        return np.sin(2 * np.pi * hertz * self.pace * self.seconds)

    def trajectory(
        self, x: Array | float = 0.0, y: Array | float = 0.0, zoom: Array | float = 0.0, turn: Array | float = 0.0,
        warp: Warp | None = None, parts: Warp | None = None, light: Array | None = None,
    ) -> Trajectory:  # fmt: skip
        """A trajectory that rests but for what is given."""
        rest = np.zeros(len(self.seconds))
        return Trajectory(rest + x, rest + y, rest + zoom, rest + turn, warp, parts, light)


# --- the named motions: at 0 seconds nothing has moved


def pan(time: Timing, x: int = 0, y: int = 0) -> Trajectory:
    """Content goes along (x, y)."""
    way = time.steady(PAN_RATE, PAN_RANGE)
    return time.trajectory(x=x * way, y=y * way)


def zoom(time: Timing, sign: int) -> Trajectory:
    """Content grows, or with a sign of -1 shrinks."""
    return time.trajectory(zoom=sign * time.steady(ZOOM_RATE, ZOOM_RANGE))


def rotate(time: Timing, sign: int) -> Trajectory:
    """Content turns clockwise, or with a sign of -1 counterclockwise."""
    return time.trajectory(turn=sign * time.steady(TURN_RATE, TURN_RANGE))


def shake(time: Timing) -> Trajectory:
    """Content trembles."""
    size = time.about(0.03, 0.08)
    # So many times on the clip's way, not a second: what turns at every other frame could be any motion.
    way = np.abs(np.diff(time.seconds)).sum()
    x, y, turn = (
        amplitude * time.wave(time.about(*often) / way)
        for amplitude, often in ((size, (2, 3)), (size, (2.5, 3.5)), (0.3 * size, (2, 3.5)))
    )
    return time.trajectory(x, y, turn=turn)


def sway(time: Timing) -> Trajectory:
    """Content goes from side to side: to the right first, or a small model would learn the mean of both."""
    swayed = time.wave(time.about(0.6, 1.0))
    return time.trajectory(x=time.about(0.08, 0.2) * swayed, turn=time.about(0.06, 0.2) * swayed)


def pulse(time: Timing) -> Trajectory:
    """Content grows and shrinks."""
    return time.trajectory(zoom=time.about(0.08, 0.2) * time.wave(time.about(0.8, 1.4)))


def drift(time: Timing) -> Trajectory:
    """Content floats somewhere."""
    rng, share = time.rng, time.share
    heading = rng.uniform(0, 2 * np.pi) + rng.uniform(-1, 1) * share
    x, y = (DRIFT_RATE * time.pace * time.seconds * turned for turned in (np.cos(heading), np.sin(heading)))
    return time.trajectory(x, y, turn=rng.uniform(-0.1, 0.1) * time.pace * time.seconds)


@dataclass(frozen=True)
class Ripple:
    """Rings that run outward from the middle."""

    amplitude: float  # half views
    waves: float  # a half view
    hertz: float

    def displace(self, points: Array, seconds: Array) -> Array:
        radius = np.hypot(points[..., 0], points[..., 1])
        start, passed = 2 * np.pi * self.waves * radius, 2 * np.pi * self.hertz * seconds[:, None, None]
        shift = self.amplitude * (np.sin(start - passed) - np.sin(start))
        outward = points / np.maximum(radius, 1e-3)[..., None]
        return points + shift[..., None] * outward


def ripple(time: Timing) -> Trajectory:
    """Content moves like the surface of water into which something fell."""
    warp = Ripple(time.about(0.06, 0.1), time.about(1.5, 3.0), time.about(0.6, 1.2) * time.pace)
    return time.trajectory(warp=warp)


def still(time: Timing) -> Trajectory:
    """Nothing moves."""
    return time.trajectory()


MOTIONS: dict[str, Callable[[Timing], Trajectory]] = {
    "zoom in": partial(zoom, sign=1),
    "zoom out": partial(zoom, sign=-1),
    "pan left": partial(pan, x=1),  # a pan is the camera's: the content goes the other way
    "pan right": partial(pan, x=-1),
    "pan up": partial(pan, y=1),
    "pan down": partial(pan, y=-1),
    "rotate clockwise": partial(rotate, sign=1),
    "rotate counterclockwise": partial(rotate, sign=-1),
    "shake": shake,
    "still": still,
    "sway": sway,
    "pulse": pulse,
    "ripple": ripple,
    "drift": drift,
}
"""The motions by name; `dcrafter.tiny.captions` has their phrases."""

DIRECTED = tuple(MOTIONS)[:8]
"""Those that go one way."""

PANS_AND_TURNS = DIRECTED[2:]


# --- local motions: of the parts of a subject, while the view rests


@dataclass(frozen=True)
class Bend:
    """Leans to the side, the more the higher up: nothing moves at the foot."""

    lean: Callable[[Array, Array], Array]  # of seconds and height in [0, 1] above the foot: half boxes to the right

    def displace(self, points: Array, seconds: Array) -> Array:
        height = np.clip((1 - points[..., 1]) / 2, 0, 1)
        shift = self.lean(seconds[:, None, None], height)
        return np.stack([points[..., 0] - shift, points[..., 1] + 0 * shift], axis=-1)


@dataclass(frozen=True)
class Stretch:
    """Grows and shrinks upward from the foot, and the other way across."""

    amount: Array  # (T,) log scale of the height

    def displace(self, points: Array, seconds: Array) -> Array:
        tall = np.exp(-self.amount)[:, None, None]
        return np.stack([points[..., 0] / np.sqrt(tall), 1 - (1 - points[..., 1]) * tall], axis=-1)


@dataclass(frozen=True)
class Lids:
    """Squeezes or opens bands across a face: a strength of 2 leaves a third of a band's height, -0.5 doubles it."""

    bands: tuple[tuple[float, float, Array], ...]  # each: y of its middle, half its height, strength (T,)

    def displace(self, points: Array, seconds: Array) -> Array:
        y = points[..., 1] + np.zeros_like(seconds)[:, None, None]
        for middle, half, strength in self.bands:
            away = y - middle
            y = middle + away * (1 + strength[:, None, None] * np.exp(-((away / half) ** 2)))
        return np.stack([points[..., 0] + 0 * y, y], axis=-1)


@dataclass(frozen=True)
class Waves:
    """Waves that run across: content goes up and down, or with `upright` from side to side."""

    amplitude: float  # half boxes
    waves: float  # a half box
    hertz: float
    upright: bool = False

    def displace(self, points: Array, seconds: Array) -> Array:
        along, across = (1, 0) if self.upright else (0, 1)
        start = 2 * np.pi * self.waves * points[..., along]
        passed = 2 * np.pi * self.hertz * seconds[:, None, None]
        moved = [points[..., 0] + 0 * passed, points[..., 1] + 0 * passed]
        moved[across] = moved[across] + self.amplitude * (np.sin(start - passed) - np.sin(start))
        return np.stack(moved, axis=-1)


@dataclass(frozen=True)
class Smile:
    """Lifts the corners of a face's mouth and draws them apart."""

    amount: Array  # (T,) half boxes at the corners

    def displace(self, points: Array, seconds: Array) -> Array:
        lifted = self.amount[:, None, None] * np.exp(-(((points[..., 1] - MOUTH) / 0.35) ** 2))
        x = points[..., 0]
        return np.stack([x * (1 - lifted), points[..., 1] + lifted * np.clip(x / 0.5, -1, 1) ** 2], axis=-1)


@dataclass(frozen=True)
class Wing:
    """Lifts the right side, the more the further out: an arm, a wing."""

    lift: Array  # (T,) half boxes at the edge

    def displace(self, points: Array, seconds: Array) -> Array:
        lifted = self.lift[:, None, None] * np.clip(points[..., 0], 0, 1.2) ** 1.5
        return np.stack([points[..., 0] + 0 * lifted, points[..., 1] + lifted], axis=-1)


def bounce(time: Timing) -> Trajectory:
    """The subject hops, and is pressed flat where it lands."""
    phase = time.about(1.2, 1.8) * time.pace * time.seconds
    hop = np.abs(np.sin(np.pi * phase))
    landing = np.clip(1 - 4 * hop, 0, 1) * np.clip(4 * phase, 0, 1)  # not before the first hop
    return time.trajectory(y=-time.about(0.12, 0.3) * hop, parts=Stretch(-time.about(0.15, 0.3) * landing))


def breathe(time: Timing) -> Trajectory:
    """The subject swells and sinks."""
    return time.trajectory(parts=Stretch(time.about(0.05, 0.12) * time.wave(time.about(0.5, 0.8))))


def nod(time: Timing) -> Trajectory:
    """The upper third of the subject goes down and up."""
    down = np.sin(np.pi * time.about(0.9, 1.4) * time.pace * time.seconds) ** 2
    return time.trajectory(parts=Lids(((-0.2, 0.5, time.about(0.35, 0.7) * down),)))


def dance(time: Timing) -> Trajectory:
    """The upper part of the subject leans right and left."""
    swing, amount = time.wave(time.about(0.8, 1.3)), time.about(0.2, 0.4)
    return time.trajectory(parts=Bend(lambda _, height: amount * swing[:, None, None] * height**2))


def wind(time: Timing) -> Trajectory:
    """The subject is blown to the right in gusts that run up it, the stronger the higher."""
    amount, hertz = time.about(0.15, 0.35), time.about(0.8, 1.4) * time.pace

    def lean(seconds: Array, height: Array) -> Array:
        begun = np.clip(seconds / 0.3, 0, 1)  # a gust sets in
        return amount * height**1.5 * begun * (0.7 + 0.3 * np.sin(2 * np.pi * (hertz * seconds - 0.6 * height)))

    return time.trajectory(parts=Bend(lean))


def waves(time: Timing) -> Trajectory:
    """Waves run over the subject from left to right."""
    return time.trajectory(parts=Waves(time.about(0.05, 0.1), time.about(0.6, 1.2), time.about(0.6, 1.1) * time.pace))


def blink(time: Timing) -> Trajectory:
    """A face shuts its eyes for a moment, again and again."""
    shut = np.clip(2.5 * np.sin(np.pi * time.about(0.9, 1.4) * time.pace * time.seconds) ** 2 - 1.2, 0, 1)
    return time.trajectory(parts=Lids(((EYES, 0.16, 2.0 * shut),)))


def yawn(time: Timing) -> Trajectory:
    """A face opens its mouth wide and shuts its eyes, and comes back."""
    open_ = np.sin(np.pi * time.about(0.5, 0.8) * time.pace * time.seconds) ** 2
    return time.trajectory(parts=Lids(((EYES, 0.16, 1.6 * open_), (MOUTH, 0.4, -time.about(0.4, 0.6) * open_))))


def run(time: Timing) -> Trajectory:
    """The subject goes to the right in small hops."""
    hop = np.abs(np.sin(np.pi * time.about(2.0, 2.6) * time.pace * time.seconds))
    return time.trajectory(x=time.steady(PAN_RATE, (0.1, 0.6)), y=-time.about(0.03, 0.07) * hop)


def fly(time: Timing) -> Trajectory:
    """The subject rises, and wavers."""
    waver = time.about(0.03, 0.06) * time.wave(time.about(1.0, 1.6))
    return time.trajectory(x=waver, y=-time.steady(PAN_RATE, (0.1, 0.6)), turn=0.5 * waver)


def swim(time: Timing) -> Trajectory:
    """The subject goes to the right, and waves run through it."""
    parts = Waves(time.about(0.05, 0.1), time.about(0.5, 0.8), time.about(0.8, 1.2) * time.pace)
    return time.trajectory(x=time.steady(PAN_RATE, (0.1, 0.6)), parts=parts)


def greet(time: Timing) -> Trajectory:
    """The right side of the subject goes up and down."""
    return time.trajectory(parts=Wing(time.about(0.2, 0.35) * time.wave(time.about(1.2, 1.8))))


def glow(time: Timing) -> Trajectory:
    """Warm light swells and fades."""
    swell = np.sin(np.pi * time.about(0.5, 0.8) * time.pace * time.seconds) ** 2
    return time.trajectory(light=time.about(0.4, 0.6) * swell[:, None] * np.array([1.0, 0.85, 0.5]))


def burn(time: Timing) -> Trajectory:
    """Heat runs upward, and the light of a fire sets in and flickers."""
    begun = np.clip(time.seconds / 0.4, 0, 1)
    fire = begun * (0.35 + 0.15 * time.wave(time.about(2.0, 2.6)))
    parts = Waves(time.about(0.04, 0.07), time.about(0.8, 1.2), -time.about(1.0, 1.5) * time.pace, upright=True)
    return time.trajectory(parts=parts, light=fire[:, None] * np.array([1.0, 0.45, 0.0]))


def smile(time: Timing) -> Trajectory:
    """A face begins to smile."""
    return time.trajectory(parts=Smile(time.about(0.12, 0.2) * np.clip(1.2 * time.pace * time.seconds, 0, 1)))


def talk(time: Timing) -> Trajectory:
    """A face opens and shuts its mouth again and again."""
    open_ = np.sin(np.pi * time.about(1.6, 2.2) * time.pace * time.seconds) ** 2
    return time.trajectory(parts=Lids(((MOUTH, 0.35, -time.about(0.35, 0.5) * open_),)))


EYES, MOUTH = -0.12, 0.38  # y in the box of an emoji's face

FACE_MOTIONS: dict[str, Callable[[Timing], Trajectory]] = {"blink": blink, "yawn": yawn, "smile": smile, "talk": talk}
LOCAL_MOTIONS: dict[str, Callable[[Timing], Trajectory]] = {
    "bounce": bounce,
    "breathe": breathe,
    "nod": nod,
    "dance": dance,
    "wind": wind,
    "waves": waves,
    "run": run,
    "fly": fly,
    "swim": swim,
    "greet": greet,
    "glow": glow,
    "burn": burn,
    **FACE_MOTIONS,
}
"""Motions of a subject while the camera rests, by name; `dcrafter.tiny.captions` has their phrases."""


def sampling_grid(
    trajectory: Trajectory, seconds: Array, size: int, center: Array | None = None, extent: Array | float = 1.0
) -> Array:
    """Where each pixel of each frame lies in the unmoved content: (T, size, size, 2) float32 in half boxes.

    Args:
        trajectory: of T frames.
        seconds: their times (T,), for a warp.
        size: pixels a side.
        center: the point (2,) about which content turns, grows and warps, by default the view's middle; the result is
            relative to it.
        extent: half the sides of the content's box, one number or (2,), in half views.
    """
    line = (np.arange(size) + 0.5) * 2 / size - 1
    points = (np.stack(np.meshgrid(line, line), axis=-1) - (0 if center is None else center)).astype(np.float32)
    if trajectory.warp is not None:
        grid: Array = trajectory.warp.displace(points[None], seconds).astype(np.float32)
    else:
        grid = trajectory.content(points.reshape(-1, 2)).reshape(-1, size, size, 2)
    grid = (grid / np.asarray(extent, np.float32)).astype(np.float32)
    return grid if trajectory.parts is None else trajectory.parts.displace(grid, seconds).astype(np.float32)


def sample(source: Tensor, grid: Tensor) -> Tensor:
    """(C, h, w) float and a grid (T, H, W, 2) that spans it with [-1, 1] → (T, C, H, W), bilinear; outside is 0."""
    sources = source.expand(len(grid), *source.shape)
    return F.grid_sample(sources, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
