"""Adam on the control, and the controlled view that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from . import dispatch
from .declare import define
from .samples import Draw
from .shapes import check_per_sample, check_same, per_sample, widened

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def reference(
    control: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    vjp: torch.Tensor,
    scale: torch.Tensor | None,
    direct: torch.Tensor,
    x: torch.Tensor,
    iteration: int,
    lr: float,
    control_strength: float,
) -> torch.Tensor:
    """Adam (Kingma 2015) with gradient ``gamma (scale vjp + direct)``, in place; returns ``x + gamma u``."""
    past = widened(direct)
    through = vjp.to(past.dtype)
    if scale is not None:
        through = through * per_sample(scale, past)
    g = control_strength * (through + past)
    first = BETA1 * first_moment + (1 - BETA1) * g
    second = BETA2 * second_moment + (1 - BETA2) * g * g
    spread = (second / (1 - BETA2 ** (iteration + 1))).sqrt() + EPSILON
    u = control - lr * (first / (1 - BETA1 ** (iteration + 1))) / spread
    for moved, to in ((control, u), (first_moment, first), (second_moment, second)):
        moved.copy_(to)
    return (x + control_strength * u).to(x.dtype).contiguous()


def _samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    for shape in draw.shapes:
        for i in reversed(range(4)):
            layout = "channels_last" if i == 1 else "contiguous"
            control, first, direct, x = (draw.normal(*shape, layout=layout) for _ in range(4))
            second = draw.normal(*shape, layout=layout).square() + 0.1
            # What comes out of the network may have another layout and dtype.
            vjp = draw.normal(*shape, layout="strided" if i == 2 else "channels_last")
            vjp = vjp.half() if i == 3 else vjp
            scale = draw.uniform(shape[0], low=0.5, high=2.0) if i % 2 else None
            yield control, first, second, vjp, scale, direct, x, i, 0.02, 1.0 if i < 2 else 0.3


OP = define(
    "control_update",
    reference=reference,
    triton="control_update",
    native=("cpu",),
    dispatch_on="x",
    mutates=("control", "first_moment", "second_moment"),
    fake=lambda given: given.x.new_empty(given.x.shape),
    samples=_samples,
)


def control_update(
    control: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    vjp: torch.Tensor,
    scale: torch.Tensor | None,
    direct: torch.Tensor,
    x: torch.Tensor,
    iteration: int,
    lr: float,
    control_strength: float,
) -> torch.Tensor:
    """One step of Adam (Kingma 2015, betas 0.9 and 0.999, eps 1e-8) on ``u``; returns ``x~ = x + gamma u``.

    ``control`` (``u``), ``first_moment`` and ``second_moment`` are changed in place; all tensors are [B, C, h, w].

    Args:
        vjp: the loss's gradient on ``x~`` through the network, any float dtype; with ``scale`` [B] to be multiplied by
            it. direct: the part past the network. The chain through ``gamma`` is applied here.
        x: noisy views without control.
        iteration: from 0.
        lr: step size of Adam.
        control_strength: ``gamma``.
    """
    check_same("control_update", "x", x.shape, control=control, vjp=vjp, direct=direct)
    check_same("control_update", "x", x.shape, first_moment=first_moment, second_moment=second_moment)
    check_per_sample("control_update", len(x), scale=scale)
    tensors = (control, first_moment, second_moment, vjp, scale, direct, x)
    return dispatch.call(OP, *tensors, iteration, float(lr), float(control_strength))
