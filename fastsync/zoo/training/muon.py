"""An optimizer for networks of matrices: momentum whose singular values are made equal (Muon)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

_QUINTIC = (3.4445, -4.7750, 2.0315)  # p(s) = a s + b s^3 + c s^5 brings singular values in (0, 1] close to 1


def orthogonalise(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest matrices with (nearly) equal singular values: float [B, m, n], likewise; computed in bfloat16."""
    a, b, c = _QUINTIC
    x = matrices.to(torch.bfloat16)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.float().square().sum((1, 2), keepdim=True).sqrt() + 1e-12).to(x.dtype)
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    if tall:
        x = x.transpose(1, 2)
    return x.to(matrices.dtype)


def is_matrix(parameter: torch.Tensor) -> bool:
    """Whether a weight is worth orthogonalising: a convolution or a linear map, neither tiny nor a table of rows."""
    rows = parameter.shape[0] if parameter.ndim else 0
    if parameter.ndim > 2:
        return min(rows, parameter[0].numel()) >= 16
    return parameter.ndim == 2 and min(parameter.shape) >= 32 and rows <= 4 * parameter.shape[1]


class Muon(torch.optim.Optimizer):
    """Muon for matrix-like weights (a convolution is the matrix [out, in * k * k]), AdamW for all others.

    Steps are scaled to the size that AdamW's have, so that one learning rate serves both.
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        every = [p for p in parameters if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in every if is_matrix(p)], "matrix": True},
            {"params": [p for p in every if not is_matrix(p)], "matrix": False},
        ]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": betas}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            live = [p for p in group["params"] if p.grad is not None]
            if group["matrix"]:
                self._matrices(group, live)
            else:
                self._others(group, live)

    def _matrices(self, group: dict[str, Any], live: list[torch.Tensor]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        for p in live:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1.0 - group["momentum"])
            ahead = torch.lerp(p.grad, state["momentum"], group["momentum"])
            by_shape[(p.shape[0], p[0].numel())].append((p, ahead.reshape(p.shape[0], -1)))
        for (rows, columns), entries in by_shape.items():
            updates = orthogonalise(torch.stack([ahead for _, ahead in entries]))
            rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
            for (p, _), update in zip(entries, updates, strict=True):
                p.mul_(1.0 - group["lr"] * group["weight_decay"])
                p.add_(update.reshape(p.shape), alpha=-rate)

    def _others(self, group: dict[str, Any], live: list[torch.Tensor]) -> None:
        first, second = group["betas"]
        for p in live:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            state["mean"].lerp_(p.grad, 1.0 - first)
            state["square"].mul_(second).addcmul_(p.grad, p.grad, value=1.0 - second)
            deviation = (state["square"] / (1.0 - second ** state["step"])).sqrt_().add_(1e-8)
            p.addcdiv_(state["mean"], deviation, value=-group["lr"] / (1.0 - first ** state["step"]))
