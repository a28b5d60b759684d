"""Adam on the control, and the controlled view that follows from it."""

from __future__ import annotations

import torch

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def control_update(
    control: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    gradient: torch.Tensor,
    x: torch.Tensor,
    iteration: int,
    lr: float,
    control_strength: float,
) -> torch.Tensor:
    """One step of Adam (Kingma 2015, betas 0.9 and 0.999, eps 1e-8) on ``u``; returns ``x~ = x + gamma u``.

    ``control`` (``u``), ``first_moment`` and ``second_moment`` are changed in place; all tensors are [B, C, h, w].

    Args:
        gradient: of the loss with respect to ``x~``; the chain through ``gamma`` is applied here.
        x: noisy views without control.
        iteration: from 0.
        lr: step size of Adam.
        control_strength: ``gamma``.
    """
    g = control_strength * gradient
    first_moment.mul_(BETA1).add_(g, alpha=1 - BETA1)
    second_moment.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    corrected = first_moment / (1 - BETA1 ** (iteration + 1))
    scale = (second_moment / (1 - BETA2 ** (iteration + 1))).sqrt_().add_(EPSILON)
    control.addcdiv_(corrected, scale, value=-lr)
    return x + control_strength * control
