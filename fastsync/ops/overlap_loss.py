"""Disagreement of a view with what its neighbours paint where it looks, and its gradient in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import dispatch, neighbour
from .shapes import per_sample, widened


def reference(
    x: torch.Tensor,
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    mask: torch.Tensor | None,
    period: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """``loss = sum |M (x - y)|^2`` and ``gradient = 2 M^2 (x - y)``; y and M as in :mod:`fastsync.ops.neighbour`."""
    target, weight = neighbour.read(source, place, index, mask, period, widened(x))
    difference = torch.where(weight != 0, weight * (x - target), 0)
    gradient = (2.0 * weight * difference).to(x.dtype)
    return difference.square().flatten(1).sum(1), gradient.contiguous()


@torch.library.custom_op("fastsync::overlap_loss", mutates_args=())
def _op(
    x: torch.Tensor,
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None,
    mask: torch.Tensor | None,
    period: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    return dispatch.choose("overlap_loss", x)(x, source, place, index, mask, period)


@_op.register_fake
def _(x: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32)), x.new_empty(x.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, source, place, index, mask, ctx.period = inputs
    ctx.save_for_backward(x, source, place, index, mask, output[1])


def _backward(ctx: Any, g_loss: torch.Tensor, g_gradient: torch.Tensor) -> tuple[Any, ...]:
    x, source, place, index, mask, gradient = ctx.saved_tensors
    wide = widened(g_gradient)
    weight = neighbour.weights(source, place, index, mask, ctx.period, wide)
    g_x = per_sample(g_loss, wide) * gradient + 2.0 * weight.square() * wide
    g_x = torch.where(weight != 0, g_x, 0)
    g_source = neighbour.scatter(-g_x, source, place, index, ctx.period) if ctx.needs_input_grad[1] else None
    return g_x.to(x.dtype), g_source, None, None, None, None


_op.register_autograd(_backward, setup_context=_remember)


def overlap_loss(
    x: torch.Tensor,
    source: torch.Tensor,
    place: torch.Tensor,
    index: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    period: Sequence[int] = (0, 0),
) -> tuple[torch.Tensor, torch.Tensor]:
    """``sum |M (x - y)|^2`` per view, and its gradient with respect to ``x``, ``2 M^2 (x - y)``, in one pass.

    Args:
        x: clean views [B, C, h, w].
        source, place, index, mask, period: where each view reads its neighbour y, and M (1 on the overlap without
            ``mask``); see :mod:`fastsync.ops.neighbour`.

    Returns:
        ``(loss [B], gradient [B, C, h, w])``; the loss at least in float32. Both are differentiable in x and source.
    """
    neighbour.check("overlap_loss", x, source, place, index, mask, period)
    loss, gradient = dispatch.call("overlap_loss", _op, x, x, source, place, index, mask, list(period))
    return loss, gradient
