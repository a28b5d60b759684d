"""Guidance, prediction type and Tweedie's estimate in one op."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from . import dispatch
from .declare import define
from .samples import LAYOUTS, Draw
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


def _fake(given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return given.x.new_empty(given.x.shape), given.x.new_empty(given.x.shape)


def _setup_context(ctx: Any, given: Any, output: Any) -> None:
    ctx.prediction_type = given.prediction_type
    ctx.save_for_backward(given.a, given.b, given.guidance)
    ctx.dtypes = given.raw.dtype, None if given.raw_uncond is None else given.raw_uncond.dtype, given.x.dtype


def _backward(ctx: Any, g_x0: torch.Tensor, g_eps: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    a, b, guidance = ctx.saved_tensors
    raw, uncond, x = ctx.dtypes
    wide = widened(g_x0)
    px, pr, qx, qr = (per_sample(c, wide) for c in linear_form(a, b, ctx.prediction_type))
    g_r = pr * wide + qr * g_eps
    s = per_sample(guidance, wide)
    g_raw = (g_r if uncond is None else s * g_r).to(raw)
    g_uncond = None if uncond is None else ((1.0 - s) * g_r).to(uncond)
    return g_raw, g_uncond, (px * wide + qx * g_eps).to(x)


def _samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    for shape in draw.shapes:
        for i, kind in reversed(list(enumerate(PREDICTION_TYPES * 2))):
            raw, uncond, x = (draw.normal(*shape, layout=LAYOUTS[i % 3]) for _ in range(3))
            if i == 5:  # a half-precision network beside states of more precision
                raw, uncond = raw.half(), uncond.half()
            a, b = draw.uniform(shape[0], low=0.2), draw.uniform(shape[0], low=0.2)
            guidance = draw.uniform(shape[0], low=1.0, high=8.0)
            yield raw, uncond if i >= 3 else None, x, a, b, guidance, kind


OP = define(
    "cfg_tweedie",
    reference=reference,
    triton="cfg_tweedie",
    native=("cpu",),
    dispatch_on="x",
    fake=_fake,
    differentiable=("raw", "raw_uncond", "x"),
    setup_context=_setup_context,
    backward=_backward,
    samples=_samples,
)


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
    return dispatch.call(OP, raw, raw_uncond, x, a, b, guidance_scale, prediction_type)
