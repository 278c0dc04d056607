"""How well a video conforms to the image that it was made from."""

from __future__ import annotations

from torch import Tensor

from dcrafter.metrics.pixels import as_input, psnr


def perceptual_input_conformity(image_distances: Tensor) -> float:
    """PIC (paper, section 4.2): mean over frames of 1 - D(input image, frame).

    Args:
        image_distances: (T,) perceptual distance of each frame from the image; the paper's is DreamSim.
    """
    return float((1 - image_distances.double()).mean())


def first_frame_conformity(frames: Tensor, image: Tensor) -> float:
    """PSNR in dB of the first of frames (T, H, W, 3) against the image (H, W, 3), both uint8."""
    return psnr(as_input(frames[:1]), as_input(image[None]))
