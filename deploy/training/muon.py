"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), for matrices and for stacks of matrices.

The momentum is replaced by the nearest semi-orthogonal matrix, found by five Newton-Schulz steps. The step is scaled to
the size of an AdamW step (Liu et al. 2025, arXiv:2502.16982), so that one learning rate serves both optimizers.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
STEPS = 5


class Muon(torch.optim.Optimizer):
    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, parameter: Tensor, rate: float, momentum: float, decay: float) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        average = state.setdefault("momentum", torch.zeros_like(parameter))
        average.lerp_(parameter.grad, 1 - momentum)
        direction = orthogonalized(parameter.grad.lerp(average, momentum))
        scale = 0.2 * max(parameter.shape[-2:]) ** 0.5
        parameter.mul_(1 - rate * decay).add_(direction, alpha=-rate * scale)


def orthogonalized(matrices: Tensor) -> Tensor:
    """(..., rows, columns) -> the same shape, every matrix's singular values pushed towards 1."""
    a, b, c = QUINTIC
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
