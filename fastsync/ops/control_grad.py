"""Closed-form gradients of SyncVC's loss, up to the network."""

from __future__ import annotations

import torch

from .overlap_loss import overlap_loss
from .shapes import per_sample


def control_grad(
    x: torch.Tensor,
    x0: torch.Tensor,
    eps: torch.Tensor,
    eps_free: torch.Tensor,
    control: torch.Tensor,
    target_x0: torch.Tensor,
    target_x: torch.Tensor,
    mask: torch.Tensor,
    coupling: torch.Tensor,
    reward_weight: float,
    kl_weight: torch.Tensor,
    control_cost: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss and cotangents of ``w |M (x0 - y0)|^2 + kappa |eps~ - eps_free|^2 + c |control|^2``.

    ``eps~ = eps + coupling M (x - y)`` is the coupled prediction (DESIGN.md section 4, SyncVC).

    Args:
        x: controlled noisy views ``x + gamma u`` [B, C, h, w].
        x0, eps: the prior's prediction at ``x``, [B, C, h, w].
        eps_free: the prior's prediction without control, [B, C, h, w].
        control: ``gamma u`` [B, C, h, w].
        target_x0, target_x: neighbours' clean estimate ``y0`` and noisy state ``y`` in the view's cells, [B, C, h, w].
        mask: ``M`` [B, 1, h, w].
        coupling: [B], ``(1/lambda)(t/T_max) / b_t``.
        reward_weight: ``w``.
        kl_weight: [B], ``kappa`` times the scheme's coefficient.
        control_cost: ``c``.

    Returns:
        ``(loss [B], d/dx0, d/deps, d/dx direct)``; the last is the part of the gradient on ``x`` that does not pass
        through the network.
    """
    loss, gradient_x0 = overlap_loss(x0, target_x0, mask)
    pull = per_sample(coupling, x) * mask
    deviation = eps + pull * (x - target_x) - eps_free
    gradient_eps = 2.0 * per_sample(kl_weight, x) * deviation
    direct = gradient_eps * pull + 2.0 * control_cost * control
    loss = (
        reward_weight * loss
        + kl_weight.to(loss) * deviation.square().flatten(1).sum(1)
        + control_cost * control.square().flatten(1).sum(1)
    )
    return loss, reward_weight * gradient_x0, gradient_eps, direct
