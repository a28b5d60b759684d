"""Guidance, prediction type and Tweedie's estimate in one op."""

from __future__ import annotations

from typing import Any

import torch

from . import dispatch
from .shapes import check_per_sample, check_same, per_sample, widened

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")


def linear_form(
    a: torch.Tensor, b: torch.Tensor, prediction_type: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(px, pr, qx, qr)`` of ``x0 = px x + pr r`` and ``eps = qx x + qr r``, r being the guided raw prediction.

    With ``x = a x0 + b eps``:

    - ``epsilon``: ``r = eps``
    - ``v_prediction``: ``r = a eps - b x0`` (variance preserving: ``a^2 + b^2 = 1``)
    - ``sample``: ``r = x0``
    - ``flow``: ``r = eps - x0`` (``a = 1 - b``; no division, a run starts at ``a = 0``)
    """
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    if prediction_type == "epsilon":
        return one / a, -b / a, zero, one
    if prediction_type == "v_prediction":
        return a, -b, b, a
    if prediction_type == "sample":
        return zero, one, one / b, -a / b
    if prediction_type == "flow":
        return one, -b, one, a
    raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r}.")


def reference(
    raw: torch.Tensor,
    raw_uncond: torch.Tensor | None,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    guidance: torch.Tensor,
    prediction_type: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``r = u + s (c - u)``, then :func:`linear_form`; computed in x's precision, in float32 at least."""
    noisy = widened(x)
    r = raw.to(noisy.dtype)
    if raw_uncond is not None:
        u = raw_uncond.to(noisy.dtype)
        r = u + per_sample(guidance, noisy) * (r - u)
    a_, b_ = per_sample(a, noisy), per_sample(b, noisy)
    if prediction_type == "epsilon":
        # Custom ops must not hand out their inputs: a copy.
        x0, eps = (noisy - b_ * r) / a_, r.clone()
    elif prediction_type == "sample":
        x0, eps = r.clone(), (noisy - a_ * r) / b_
    else:
        px, pr, qx, qr = linear_form(a_, b_, prediction_type)
        x0, eps = px * noisy + pr * r, qx * noisy + qr * r
    return x0.to(x.dtype).contiguous(), eps.to(x.dtype).contiguous()


@torch.library.custom_op("fastsync::cfg_tweedie", mutates_args=())
def _op(
    raw: torch.Tensor,
    raw_uncond: torch.Tensor | None,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    guidance: torch.Tensor,
    prediction_type: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    return dispatch.choose("cfg_tweedie", x)(raw, raw_uncond, x, a, b, guidance, prediction_type)


@_op.register_fake
def _(raw: torch.Tensor, raw_uncond: torch.Tensor | None, x: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    raw, raw_uncond, x, a, b, guidance, ctx.prediction_type = inputs
    ctx.save_for_backward(a, b, guidance)
    ctx.dtypes = raw.dtype, None if raw_uncond is None else raw_uncond.dtype, x.dtype


def _backward(ctx: Any, g_x0: torch.Tensor, g_eps: torch.Tensor) -> tuple[Any, ...]:
    a, b, guidance = ctx.saved_tensors
    raw, uncond, x = ctx.dtypes
    wide = widened(g_x0)
    px, pr, qx, qr = (per_sample(c, wide) for c in linear_form(a, b, ctx.prediction_type))
    g_r = pr * wide + qr * g_eps
    s = per_sample(guidance, wide)
    g_raw = (g_r if uncond is None else s * g_r).to(raw)
    g_uncond = None if uncond is None else ((1.0 - s) * g_r).to(uncond)
    return g_raw, g_uncond, (px * wide + qx * g_eps).to(x), None, None, None, None


_op.register_autograd(_backward, setup_context=_remember)


def cfg_tweedie(
    raw: torch.Tensor,
    raw_uncond: torch.Tensor | None,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    guidance_scale: float | torch.Tensor,
    prediction_type: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn the raw network output into ``(x0, eps)``, each in x's dtype [B, C, h, w].

    ``r = raw_uncond + s (raw - raw_uncond)`` (``raw`` itself without ``raw_uncond``), read as :func:`linear_form` says.

    Args:
        raw: conditional network output [B, C, h, w], any float dtype.
        raw_uncond: unconditional network output [B, C, h, w], or None without guidance.
        x: noisy views [B, C, h, w].
        a, b: [B], the signal and noise coefficients at each sample's time.
        guidance_scale: ``s``, dimensionless, one number or [B].
        prediction_type: one of :data:`PREDICTION_TYPES`.

    Differentiable in raw, raw_uncond and x.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r}.")
    check_same("cfg_tweedie", "x", x.shape, raw=raw, raw_uncond=raw_uncond)
    if not isinstance(guidance_scale, torch.Tensor):
        guidance_scale = a.new_full((len(x),), float(guidance_scale))
    check_per_sample("cfg_tweedie", len(x), a=a, b=b, guidance_scale=guidance_scale)
    arguments = (raw, raw_uncond, x, a, b, guidance_scale, prediction_type)
    x0, eps = dispatch.call("cfg_tweedie", _op, x, *arguments)
    return x0, eps
