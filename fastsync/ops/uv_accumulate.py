"""Views to texture: weighted colours and weights, added up texel by texel in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from . import dispatch
from .declare import define
from .resample import RESAMPLE, check_views, splat_reference, splat_samples
from .samples import Draw
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


def _fake(given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return given.views.new_empty(1, given.views.shape[1], *given.size), given.views.new_empty(1, 1, *given.size)


def _setup_context(ctx: Any, given: Any, output: Any) -> None:
    ctx.save_for_backward(given.views, given.confidence, given.index, given.weight)


def _backward(ctx: Any, g_total: torch.Tensor, g_weight: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    views, confidence, index, weight = ctx.saved_tensors
    both = dispatch.call(RESAMPLE, torch.cat([g_total, g_weight], 1), index, weight)
    at_views, at_weights = both.split([views.shape[1], 1], 1)
    g_confidence = (at_views * views).sum(1, keepdim=True) + at_weights
    return (at_views * confidence).to(views.dtype), g_confidence.to(confidence.dtype)


def _samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    for colours, *rest in splat_samples(draw):
        confidence = draw.mask(len(colours), 1, *colours.shape[2:])
        # Without confidence a pixel is not read.
        yield colours.masked_fill(confidence == 0, float("nan")), confidence, *rest


OP = define(
    "uv_accumulate",
    reference=reference,
    native=("cpu", "cuda"),
    fake=_fake,
    differentiable=("views", "confidence"),
    setup_context=_setup_context,
    backward=_backward,
    samples=_samples,
)


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
    return dispatch.call(OP, *arguments)
