"""What a step of second order, or of a consistency model, makes of the clean estimate."""

from __future__ import annotations

import torch

from ..ops.shapes import per_sample


def solver_estimate(
    x0: torch.Tensor,
    eps: torch.Tensor,
    x: torch.Tensor,
    last_x0: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    extrapolation: torch.Tensor | None = None,
    boundary_x0: torch.Tensor | None = None,
    boundary_x: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(D, eps_D)`` of the step ``x_s = a_s D + direction eps_D + sigma z`` (docs/mathematics.md,
    "Steps and schedulers").

    ``D = x0 + extrapolation (x0 - last_x0)``, or ``D = boundary_x0 x0 + boundary_x x``; without either, ``(x0, eps)``
    are handed back as they are, at no cost. ``eps_D = eps + (a/b) (x0 - D)``, which is ``(x - a D) / b`` and exists at
    a = 0, where flows start.

    Args:
        x0, eps, x: [B, C, h, w], with ``x = a x0 + b eps``.
        last_x0: [B, C, h, w], each sample's x0 one step before; read only where ``extrapolation`` is not 0. None:
            there is none, so the step is of first order.
        a, b: [B], coefficients at each sample's time.
        extrapolation, boundary_x0, boundary_x: [B], columns of the step table; None: the table has none.

    Differentiable in x0, eps, x and last_x0.
    """
    if boundary_x0 is not None and boundary_x is not None:
        estimate = per_sample(boundary_x0, x0) * x0 + per_sample(boundary_x, x0) * x
    elif extrapolation is not None and last_x0 is not None:
        ahead = per_sample(extrapolation, x0)
        # What nobody wrote may be NaN.
        estimate = x0 + torch.where(ahead != 0, ahead * (x0 - last_x0), 0.0)
    else:
        return x0, eps
    return estimate, eps + per_sample(a / b, x0) * (x0 - estimate)
