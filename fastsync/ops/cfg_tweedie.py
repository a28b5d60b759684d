"""Guidance, prediction type and Tweedie's estimate in one op."""

from __future__ import annotations

import torch

from .shapes import per_sample

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")


def cfg_tweedie(
    raw: torch.Tensor,
    raw_uncond: torch.Tensor | None,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    guidance_scale: float,
    prediction_type: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn the raw network output into ``(x0, eps)``.

    ``r = raw_uncond + s (raw - raw_uncond)`` (``raw`` itself without ``raw_uncond``), then, with ``x = a x0 + b eps``,

    - ``epsilon``: ``eps = r``, ``x0 = (x - b r) / a``
    - ``v_prediction``: ``x0 = a x - b r``, ``eps = a r + b x`` (variance preserving: ``a^2 + b^2 = 1``)
    - ``sample``: ``x0 = r``, ``eps = (x - a r) / b``
    - ``flow``: ``x0 = x - b r``, ``eps = x + a r`` (``a = 1 - b``; no division, a run starts at ``a = 0``)

    Args:
        raw: conditional network output [B, C, h, w].
        raw_uncond: unconditional network output [B, C, h, w], or None without guidance.
        x: noisy views [B, C, h, w]; the result has their dtype.
        a, b: [B], the signal and noise coefficients at each sample's time.
        guidance_scale: ``s``, dimensionless.
        prediction_type: one of :data:`PREDICTION_TYPES`.
    """
    r = raw.to(x.dtype)
    if raw_uncond is not None:
        u = raw_uncond.to(x.dtype)
        r = u + guidance_scale * (r - u)
    a_, b_ = per_sample(a, x), per_sample(b, x)
    if prediction_type == "epsilon":
        return (x - b_ * r) / a_, r
    if prediction_type == "v_prediction":
        return a_ * x - b_ * r, a_ * r + b_ * x
    if prediction_type == "sample":
        return r, (x - a_ * r) / b_
    if prediction_type == "flow":
        return x - b_ * r, x + a_ * r
    raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r}.")
