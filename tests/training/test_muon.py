from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dcrafter.training.muon import SCALE, Muon, is_matrix, orthogonal

OPTIONS: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    made = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    made.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
    return made


@pytest.mark.parametrize("shape", [(32, 64), (64, 32), (48, 48)])
def test_orthogonal_keeps_directions_and_evens_their_sizes(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonal(1e-3 * matrix)
    inner = u.T @ made @ vh.T
    assert inner.diagonal().min() > 0.6
    assert inner.diagonal().max() < 1.3
    assert (inner - inner.diagonal().diag()).abs().max() < 0.1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((64,), False), ((64, 32), True), ((32, 16, 3, 3), True), ((49408, 96), False), ((4, 64), False)],
)
def test_matrices_are_told_from_tables_and_vectors(shape: tuple[int, ...], expected: bool) -> None:
    assert is_matrix(torch.empty(shape, device="meta")) is expected


def test_what_is_no_matrix_moves_as_adamw_moves_it() -> None:
    ours, theirs = parameter(64), parameter(64)
    optimizers = (Muon([ours, parameter(32, 32)], **OPTIONS), torch.optim.AdamW([theirs], **OPTIONS))
    for one, optimizer in zip((ours, theirs), optimizers, strict=True):
        for _ in range(3):
            optimizer.step()
            one.grad = torch.ones_like(one)
    assert torch.equal(ours, theirs)


def test_a_kernel_moves_against_its_gradient_by_an_update_of_adamws_size() -> None:
    kernel = parameter(32, 16, 3, 3)
    before, gradient = kernel.detach().clone(), kernel.grad
    assert gradient is not None
    Muon([kernel], **OPTIONS).step()
    update = (before * (1 - 0.01 * 0.1) - kernel.detach()) / 0.01
    assert float(update.square().mean().sqrt()) == pytest.approx(SCALE, rel=0.2)
    alike = torch.cosine_similarity(update.flatten(), orthogonal(gradient.flatten(1)).flatten(), dim=0)
    assert alike > 0.999


def test_momentum_outlives_its_gradient_and_a_saved_state() -> None:
    made = []
    for resumed in (False, True):
        matrix = parameter(32, 32)
        optimizer = Muon([matrix], **OPTIONS)
        optimizer.step()
        if resumed:
            state = optimizer.state_dict()
            optimizer = Muon([matrix], **OPTIONS)
            optimizer.load_state_dict(state)
        matrix.grad = torch.zeros_like(matrix)
        before = matrix.detach().clone()
        optimizer.step()
        assert (matrix - before).abs().max() > 1e-3
        made.append(matrix.detach())
    assert torch.equal(*made)
