"""Distances between two sets of features (n, D), one row a video, in float64.

Over features of I3D they are Fréchet and kernel video distance (FVD and KVD, arXiv 1812.01717).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]
ROWS = 256  # that are worked on at once


def frechet_distance(features: NDArray[Any], reference_features: NDArray[Any]) -> float:
    """Fréchet distance of the Gaussians with the mean and unbiased covariance of each set (arXiv 1706.08500, eq. 6).

    tr √(S₁S₂) is the sum of the singular values of A₁A₂ᵀ for any factors S = AᵀA. Those of QR need no covariance, so
    sets smaller than D, whose covariances are singular, lose no precision.

    Args:
        features: (n, D), n ≥ 2.
        reference_features: (m, D), m ≥ 2.

    Raises:
        ValueError: a set has fewer than two rows, or the widths differ.
    """
    (mean, factor), (other_mean, other_factor) = (_gaussian(each) for each in _pair(features, reference_features))
    cross = np.linalg.svd(factor @ other_factor.T, compute_uv=False).sum()
    spread = np.square(factor).sum() + np.square(other_factor).sum()
    return float(np.square(mean - other_mean).sum() + spread - 2 * cross)


def kernel_distance(features: NDArray[Any], reference_features: NDArray[Any]) -> float:
    """Unbiased squared maximum mean discrepancy, with the kernel (x·y / D + 1)³ (arXiv 1801.01401, section 4).

    Over all pairs; negative values are noise about zero.

    Args:
        features: (n, D), n ≥ 2.
        reference_features: (m, D), m ≥ 2.

    Raises:
        ValueError: a set has fewer than two rows, or the widths differ.
    """
    x, y = _pair(features, reference_features)
    return _mean_kernel(x, x, own=True) + _mean_kernel(y, y, own=True) - 2 * _mean_kernel(x, y, own=False)


def _pair(features: NDArray[Any], reference_features: NDArray[Any]) -> tuple[Features, Features]:
    x, y = (np.asarray(each, np.float64) for each in (features, reference_features))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"features must be (n, D) and (m, D) with n, m of 2 or more, not {x.shape} and {y.shape}")
    return x, y


def _gaussian(x: Features) -> tuple[Features, Features]:
    """Mean (D,), and A (min(n, D), D) with AᵀA the covariance."""
    mean = x.mean(axis=0)
    factor = np.zeros((0, x.shape[1]))
    for start in range(0, len(x), max(ROWS, x.shape[1])):
        rows = (x[start : start + max(ROWS, x.shape[1])] - mean) / np.sqrt(len(x) - 1)
        factor = np.asarray(np.linalg.qr(np.concatenate([factor, rows]), mode="r"))
    return mean, factor


def _mean_kernel(x: Features, y: Features, *, own: bool) -> float:
    """Mean of the kernel over pairs; `own` leaves out each row's with itself."""
    total = 0.0
    for start in range(0, len(x), ROWS):
        total += ((x[start : start + ROWS] @ y.T / x.shape[1] + 1) ** 3).sum()
    if not own:
        return float(total / (len(x) * len(y)))
    itself = ((np.square(x).sum(axis=1) / x.shape[1] + 1) ** 3).sum()
    return float((total - itself) / (len(x) * (len(x) - 1)))
