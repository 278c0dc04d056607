"""Classifier-free guidance (arXiv 2207.12598), on the model's raw output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Predict = Callable[[bool, bool], Tensor]
"""(with text, with image) → the model's output (B, C, T, h, w) under these conditions."""


@dataclass(frozen=True)
class Guidance:
    """The scales of classifier-free guidance.

    With an `image_scale`, `scale` is the text's alone and a step takes three evaluations. Without it a step takes two,
    and at a `scale` of 1 one. With a `last_scale` the scale goes linearly from the first frame to the last, as Stable
    Video Diffusion has it (arXiv 2311.15127): early frames, which are nearly the image, need less.
    """

    scale: float
    image_scale: float | None = None
    rescale: float = 0.0  # 0 to 1, see `rescale_guidance`
    last_scale: float | None = None

    def __call__(self, predict: Predict, place: Tensor | None = None) -> Tensor:
        """The guided output of one step; for a `last_scale`, `place` (T,) is where frames are: 0 first, 1 last."""
        conditional = predict(True, True)
        scale: float | Tensor = self.scale
        if self.last_scale is not None and place is not None:
            scale = (self.scale + (self.last_scale - self.scale) * place)[:, None, None]  # (T, 1, 1)
        if self.image_scale is not None:
            unconditional, image_only = predict(False, False), predict(False, True)
            guided = guide_multi(unconditional, image_only, conditional, self.image_scale, scale)
        elif self.evaluations > 1:
            guided = guide(predict(False, False), conditional, scale)
        else:
            return conditional
        return rescale_guidance(guided, conditional, self.rescale)

    @property
    def evaluations(self) -> int:
        """Evaluations of the model that a step takes."""
        return 3 if self.image_scale is not None else 2 if {self.scale, self.last_scale} - {1, None} else 1


def guide(unconditional: Tensor, conditional: Tensor, scale: float | Tensor) -> Tensor:
    """Away from the unconditional output, `scale` times the way to the conditional one (1: just there).

    Outputs here and below are (B, C, T, h, w), or of any one shape with the batch first; scales are any numbers.
    """
    return unconditional + scale * (conditional - unconditional)


def guide_multi(
    unconditional: Tensor, image_only: Tensor, conditional: Tensor, image_scale: float, text_scale: float | Tensor
) -> Tensor:
    """Separate scales for picture and text (paper, supplement; arXiv 2211.09800, equation 3)."""
    return unconditional + image_scale * (image_only - unconditional) + text_scale * (conditional - image_only)


def rescale_guidance(guided: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Bring the standard deviation back to the conditional output's (arXiv 2305.08891, section 3.4).

    Deviations are each sample's own, over all but the batch axis. `amount` 0 leaves the guided output alone, 1
    rescales it whole.
    """
    if amount == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return amount * guided * ratio + (1 - amount) * guided
