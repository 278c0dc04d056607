"""Metrics: pure functions over arrays, a file each, and beside them the extractors that feed some of them.

`METRICS` is the table. A metric's parameters name what it is given: `frames` (T, H, W, 3) uint8, `image` (H, W, 3)
uint8 that the video was made from, `caption`, `frame_embeddings` (T, D) and `text_embedding` (D,) by CLIP's towers,
`image_distances` (T,) from the image, or `features` and `reference_features` (n, D) of two sets of videos.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dcrafter.metrics.clip_similarity import frame_similarity, text_similarity
from dcrafter.metrics.conformity import first_frame_conformity, perceptual_input_conformity
from dcrafter.metrics.distributions import frechet_distance, kernel_distance
from dcrafter.metrics.similarity import motion_as_prompted
from dcrafter.metrics.temporal import flicker, loop_closure, motion_magnitude


@dataclass(frozen=True)
class Metric:
    """A function of one video, or of two sets of them."""

    function: Callable[..., float | None]  # None where a video has no such figure
    better: Literal["higher", "lower", "as reference"]
    help: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the function is given: the names of its parameters."""
        return tuple(inspect.signature(self.function).parameters)

    @property
    def is_of_sets(self) -> bool:
        return "reference_features" in self.inputs


METRICS: dict[str, Metric] = {
    "fvd": Metric(frechet_distance, "lower", "Fréchet video distance"),
    "kvd": Metric(kernel_distance, "lower", "kernel video distance"),
    "pic": Metric(perceptual_input_conformity, "higher", "perceptual input conformity"),
    "first_frame": Metric(first_frame_conformity, "higher", "first frame against the image, PSNR in dB"),
    "clip_text": Metric(text_similarity, "higher", "CLIP-SIM of frames and caption"),
    "clip_frames": Metric(frame_similarity, "higher", "CLIP-SIM of consecutive frames"),
    "flicker": Metric(flicker, "as reference", "unsteadiness of brightness"),
    "motion": Metric(motion_magnitude, "as reference", "optical flow a frame, in percent of its side"),
    "direction": Metric(motion_as_prompted, "higher", "share that moves as its caption says"),
    "loop_gap": Metric(loop_closure, "as reference", "step from last to first frame over mean step"),
}
