"""Muon (K. Jordan and others, 2024; arXiv 2502.16982): matrices are updated by their orthogonalized momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEAST, LONGEST = 16, 64  # a matrix's shorter side, and the largest ratio of sides: a token table is none
MOMENTUM = 0.95
STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, as Jordan found them
SCALE = 0.2  # root mean square of an AdamW update, about (2502.16982, section 2.2)


class Muon(torch.optim.AdamW):
    """Matrices, and kernels as matrices of outputs × all else, by Muon; vectors and tables by AdamW.

    Both kinds of update are of one size, so that they share a learning rate and weight decay. torch.optim.Muon takes
    matrices alone, no kernels.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], **options: Any) -> None:
        """`options` are AdamW's."""
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in parameters:
            (matrices if is_matrix(parameter) else others).append(parameter)
        groups = [{"params": some, "muon": some is matrices} for some in (others, matrices) if some]
        super().__init__(groups, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._update(group["params"], group["lr"], group["weight_decay"])
        super().step()
        return loss

    def _update(self, parameters: Iterable[nn.Parameter], rate: float, decay: float) -> None:
        """Matrices of one shape at a time: a GPU spends longer on starting small products than on computing them."""
        ahead: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(parameter)}
            state["step"] += 1  # AdamW needs it when a state is loaded
            state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            nesterov = parameter.grad.lerp(state["momentum"], MOMENTUM).flatten(1)
            ahead.setdefault(nesterov.shape, []).append((parameter, nesterov))
            parameter.grad = None  # AdamW skips it
        for shape, pairs in ahead.items():
            updates = orthogonal(torch.stack([nesterov for _, nesterov in pairs]))
            for (parameter, _), update in zip(pairs, updates, strict=True):
                scaled = update.mul_(SCALE * max(shape) ** 0.5)
                parameter.mul_(1 - rate * decay).sub_(scaled.view_as(parameter), alpha=rate)


def is_matrix(parameter: Tensor) -> bool:
    """True if Muon updates it."""
    if parameter.ndim < 2:
        return False
    shorter, longer = sorted((len(parameter), parameter[0].numel()))
    return shorter >= LEAST and longer <= LONGEST * shorter


def orthogonal(matrices: Tensor) -> Tensor:
    """UVᵀ of matrices UΣVᵀ (…, m, n), about: singular values that are not far below the largest come to 0.7 … 1.2.

    float32 from any type, computed in bfloat16.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if is_tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if is_tall else x).float()
