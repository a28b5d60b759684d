"""Views to texture: weighted colours and weights, added up texel by texel in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import dispatch
from .resample import _resample, check_views, splat_reference
from .shapes import widened
from .taps import Taps


def reference(
    views: torch.Tensor,
    confidence: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    start: torch.Tensor | None,
    pixel: torch.Tensor | None,
    sorted_weight: torch.Tensor | None,
    size: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(splat(confidence views), splat(confidence))``."""
    wide = confidence.to(widened(views))
    weighted = torch.where(wide != 0, wide * views, 0)
    tables = (index, weight, start, pixel, sorted_weight, size)
    return splat_reference(weighted, *tables).to(views.dtype), splat_reference(wide, *tables).to(views.dtype)


@torch.library.custom_op("fastsync::uv_accumulate", mutates_args=())
def _op(
    views: torch.Tensor,
    confidence: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    start: torch.Tensor | None,
    pixel: torch.Tensor | None,
    sorted_weight: torch.Tensor | None,
    size: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    arguments = (views, confidence, index, weight, start, pixel, sorted_weight, size)
    return dispatch.choose("uv_accumulate", views)(*arguments)


@_op.register_fake
def _(views: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    size = rest[-1]
    return views.new_empty(1, views.shape[1], *size), views.new_empty(1, 1, *size)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, g_total: torch.Tensor, g_weight: torch.Tensor) -> tuple[Any, ...]:
    views, confidence, index, weight = ctx.saved_tensors
    at_views, at_weights = _resample(torch.cat([g_total, g_weight], 1), index, weight).split([views.shape[1], 1], 1)
    g_confidence = (at_views * views).sum(1, keepdim=True) + at_weights
    return (at_views * confidence).to(views.dtype), g_confidence.to(confidence.dtype), *[None] * 6


_op.register_autograd(_backward, setup_context=_remember)


def uv_accumulate(views: torch.Tensor, confidence: torch.Tensor, taps: Taps) -> tuple[torch.Tensor, torch.Tensor]:
    """``(sum P^T W x [1, C, H, W], sum P^T W 1 [1, 1, H, W])``: their ratio is the normalised splat.

    Args:
        views: x [N, C, h, w].
        confidence: W [N, 1, h, w], of each pixel; where it is 0 the view is not read.
        taps: the map P from texture to views; sorted, the sums have the same bits in every run.

    Differentiable in views and confidence.
    """
    check_views("uv_accumulate", views, taps)
    if confidence.shape != (views.shape[0], 1, *views.shape[2:]):
        expected = [views.shape[0], 1, *views.shape[2:]]
        raise ValueError(f"uv_accumulate: confidence must be {expected}, got {list(confidence.shape)}.")
    arguments = (views, confidence.to(views.dtype), *taps.tables(views.dtype), list(taps.size))
    total, weight = dispatch.call("uv_accumulate", _op, views, *arguments)
    return total, weight
