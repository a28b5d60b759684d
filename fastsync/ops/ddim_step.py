"""The step from time t to time s."""

from __future__ import annotations

import torch

from .shapes import per_sample


def ddim_step(
    x0: torch.Tensor,
    eps: torch.Tensor,
    a_next: torch.Tensor,
    direction: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """``x_s = a_s x0 + sqrt(b_s^2 - sigma^2) eps + sigma noise`` (DDIM, Song 2021, eq. 12).

    Args:
        x0, eps: [B, C, h, w].
        a_next: [B], ``a_s``.
        direction: [B], ``sqrt(b_s^2 - sigma^2)``.
        sigma: [B]; read only with ``noise``.
        noise: [B, C, h, w] of unit variance, or None for a deterministic step.
    """
    x = per_sample(a_next, x0) * x0 + per_sample(direction, x0) * eps
    if noise is not None:
        x = x + per_sample(sigma, x0) * noise
    return x
