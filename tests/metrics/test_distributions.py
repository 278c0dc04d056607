"""Fréchet and kernel distances, against closed forms and the plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dcrafter.metrics.distributions import ROWS, frechet_distance, kernel_distance

Array = NDArray[np.float64]


def features(n: int, width: int, seed: int = 0, scale: float = 1.0, rank: int | None = None) -> Array:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((rank or width, width))
    return rng.standard_normal((n, rank or width)) @ mixing * scale + rng.standard_normal(width)


def plain_frechet(x: Array, y: Array) -> float:
    """As torch-fidelity has it: eigenvalues of the product of covariances."""
    one, other = (np.cov(each, rowvar=False) for each in (x, y))
    root = np.sqrt(np.linalg.eigvals(one @ other).astype(complex)).real.sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(one) + np.trace(other) - 2 * root)


def plain_kernel(x: Array, y: Array) -> float:
    def kernel(a: Array, b: Array) -> Array:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Array) -> float:
        matrix = kernel(a, a)
        return float((matrix.sum() - np.trace(matrix)) / (len(a) * (len(a) - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def with_moments(n: int, mean: float, deviation: float) -> Array:
    """A column of exactly these sample moments."""
    column = np.random.default_rng(1).standard_normal((n, 1))
    return (column - column.mean()) / column.std(ddof=1) * deviation + mean


@pytest.mark.parametrize(("shape", "other"), [((300, 20), (200, 20)), ((700, 64), (600, 64))])
def test_distances_are_those_of_the_plain_formulas(shape: tuple[int, int], other: tuple[int, int]) -> None:
    x, y = features(*shape), features(*other, seed=1, scale=2)
    assert frechet_distance(x, y) == pytest.approx(plain_frechet(x, y), rel=1e-6)
    assert kernel_distance(x, y) == pytest.approx(plain_kernel(x, y), rel=1e-6)


@pytest.mark.slow
def test_distances_are_those_of_torch_fidelity_and_torchmetrics() -> None:
    fidelity = pytest.importorskip("torch_fidelity")
    torchmetrics = pytest.importorskip("torchmetrics.image.fid")
    import torch
    from torch_fidelity import metric_fid, metric_kid
    from torchmetrics.image.kid import poly_mmd

    assert fidelity
    x, y = features(500, 48), features(400, 48, seed=1, scale=1.5)
    moments = [metric_fid.fid_features_to_statistics(torch.from_numpy(each)) for each in (x, y)]
    theirs = metric_fid.fid_statistics_to_metric(*moments, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-6)
    means, covariances = zip(
        *[(torch.tensor(each.mean(0)), torch.tensor(np.cov(each.T))) for each in (x, y)], strict=True
    )
    assert frechet_distance(x, y) == pytest.approx(
        float(torchmetrics._compute_fid(means[0], covariances[0], means[1], covariances[1])), rel=1e-6
    )
    options = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None,
               "kid_kernel_poly_coef0": 1}  # fmt: skip
    same = x[:400]  # both take sets of one size
    assert kernel_distance(same, y) == pytest.approx(metric_kid.kernel_mmd(same, y, **options), rel=1e-6)
    assert kernel_distance(same, y) == pytest.approx(
        float(poly_mmd(torch.from_numpy(same), torch.from_numpy(y))), rel=1e-6
    )


def test_frechet_distance_of_gaussians_that_are_known() -> None:
    """(μ₁ - μ₂)² + (σ₁ - σ₂)² in one dimension, and its sum over independent ones."""
    x, y = with_moments(50, 1.0, 2.0), with_moments(70, 4.0, 0.5)
    assert frechet_distance(x, y) == pytest.approx(9 + 2.25, rel=1e-12)
    assert frechet_distance(x, x + 3) == pytest.approx(9, rel=1e-12)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)


def test_kernel_distance_of_points_that_are_known() -> None:
    """Of constant sets a and b in one dimension it is (a² + 1)³ + (b² + 1)³ - 2 (ab + 1)³."""
    x, y = np.full((5, 1), 2.0), np.full((4, 1), -1.0)
    assert kernel_distance(x, y) == pytest.approx(5**3 + 2**3 + 2, rel=1e-12)


def test_fewer_videos_than_features_lose_no_precision() -> None:
    """A shift of a rank-deficient set is known whatever its covariance; the plain formula loses digits here."""
    x = features(30, 400, scale=100)
    shift = np.random.default_rng(2).standard_normal(400)
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift @ shift), rel=1e-6)
    flat = features(500, 64, rank=3)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((64, 64)))[0]
    other = features(400, 64, rank=5, seed=4)
    assert frechet_distance(flat @ turn, other @ turn) == pytest.approx(frechet_distance(flat, other), rel=1e-9)
    assert frechet_distance(flat, 2 * flat - flat.mean(0)) == pytest.approx(np.cov(flat.T).trace(), rel=1e-9)


def test_order_of_videos_and_blocks_do_not_matter() -> None:
    x, y = features(ROWS + 70, 8), features(2 * ROWS + 1, 8, seed=1)
    order = np.random.default_rng(5).permutation(len(x))
    for distance in (frechet_distance, kernel_distance):
        assert distance(x[order], y) == pytest.approx(distance(x, y), rel=1e-9)
        assert distance(y, x) == pytest.approx(distance(x, y), rel=1e-9)
    assert kernel_distance(x, y) == pytest.approx(plain_kernel(x, y), rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    """Of halves of one distribution its mean is zero within its spread."""
    found = [kernel_distance(*np.split(np.random.default_rng(i).standard_normal((60, 4)), 2)) for i in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0


@pytest.mark.parametrize("pair", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_sets_that_have_no_distance_are_refused(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match="features must be"):
            distance(*(np.zeros(shape) for shape in pair))
