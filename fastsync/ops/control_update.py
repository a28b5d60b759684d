"""Adam on the control, and the controlled view that follows from it."""

from __future__ import annotations

from typing import Any

import torch

from . import dispatch
from .shapes import per_sample

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
    through = vjp.to(direct.dtype)
    if scale is not None:
        through = through * per_sample(scale, direct)
    g = control_strength * (through + direct)
    first_moment.mul_(BETA1).add_(g, alpha=1 - BETA1)
    second_moment.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    corrected = first_moment / (1 - BETA1 ** (iteration + 1))
    spread = (second_moment / (1 - BETA2 ** (iteration + 1))).sqrt_().add_(EPSILON)
    control.addcdiv_(corrected, spread, value=-lr)
    return x + control_strength * control


@torch.library.custom_op("fastsync::control_update", mutates_args=("control", "first_moment", "second_moment"))
def _op(
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
    tensors = (control, first_moment, second_moment, vjp, scale, direct, x)
    return dispatch.choose("control_update", x)(*tensors, iteration, lr, control_strength)


@_op.register_fake
def _(control: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.empty_like(rest[5])


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
    for name, tensor in (("control", control), ("vjp", vjp), ("direct", direct)):
        if tensor.shape != x.shape:
            raise ValueError(f"control_update: {name} must have x's shape {list(x.shape)}, got {list(tensor.shape)}.")
    tensors = (control, first_moment, second_moment, vjp, scale, direct, x)
    return _op(*tensors, iteration, float(lr), float(control_strength))
