"""One small random example of each op's arguments, for the self-test of backends on a user's machine."""

from __future__ import annotations

from typing import Any

import torch


def example(op: str, device: str) -> tuple[Any, ...]:
    """Arguments of ``torch.ops.fastsync.<op>``, float32: the same ones at each call, in tensors of their own."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def numbers() -> torch.Tensor:
        return (0.3 + torch.rand(2, generator=generator, dtype=torch.float64)).to(device)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator).to(device)

    def x() -> torch.Tensor:
        return normal(2, 3, 12, 20)

    place = torch.tensor([[1, 0, 7], [0, -3, 0]], device=device)
    address = (normal(3, 3, 12, 20), place, None, normal(2, 1, 12, 20).sigmoid())
    windows = (torch.tensor([[0, 0], [9, 25]], device=device), [14, 30])
    taps = (integers(-1, 14 * 30, 2, 12, 20, 4).int(), normal(2, 12, 20, 4).sigmoid())
    unsorted = (*taps, None, None, None, [14, 30])
    if op == "cfg_tweedie":
        return x(), x(), x(), numbers(), numbers(), numbers(), "v_prediction"
    if op == "ddim_step":
        return x(), x(), numbers(), numbers(), numbers(), x(), numbers(), x(), *address, [0, 0]
    if op == "overlap_loss":
        return x(), *address, [0, 30]
    if op == "control_grad":
        states = (x(), x(), x(), x(), x(), x())
        coefficients = (numbers(), numbers(), numbers(), numbers(), numbers())
        return *states, *address, *coefficients, 1.0, 0.1, [0, 0], "epsilon", True
    if op == "scale_cotangent":
        return torch.cat([x(), 9.0 * x()]), numbers(), torch.float32
    if op == "control_update":
        return x(), x(), x().square(), x(), numbers(), x(), x(), 2, 0.02, 1.0
    if op == "transform":
        return x(), integers(-1, 240, 2, 20, 12), numbers()
    if op == "accumulate":
        return x(), *windows
    if op == "merge":
        return x(), normal(2, 1, 12, 20).sigmoid(), *windows, normal(1, 3, 14, 30)
    if op == "resample":
        return normal(1, 3, 14, 30), *taps
    if op == "splat":
        return x(), *unsorted
    return x(), normal(2, 1, 12, 20).sigmoid(), *unsorted
