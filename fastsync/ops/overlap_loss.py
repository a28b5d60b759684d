"""Disagreement of a view with what its neighbours paint where it looks, and its gradient in the same pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from . import dispatch, neighbour
from .declare import define
from .samples import LAYOUTS, Draw
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


def _fake(given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x = given.x
    return x.new_empty(len(x), dtype=torch.promote_types(x.dtype, torch.float32)), x.new_empty(x.shape)


def _setup_context(ctx: Any, given: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.period = given.period
    ctx.save_for_backward(given.x, given.source, given.place, given.index, given.mask, output[1])


def _backward(ctx: Any, g_loss: torch.Tensor, g_gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, source, place, index, mask, gradient = ctx.saved_tensors
    wide = widened(g_gradient)
    weight = neighbour.weights(source, place, index, mask, ctx.period, wide)
    g_x = per_sample(g_loss, wide) * gradient + 2.0 * weight.square() * wide
    g_x = torch.where(weight != 0, g_x, 0)
    wanted = ctx.needs_input_grad[OP.position("source")]
    g_source = neighbour.scatter(-g_x, source, place, index, ctx.period) if wanted else None
    return g_x.to(x.dtype), g_source


def _samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    yield draw.normal(*draw.shapes[0]), *neighbour.sample(draw, draw.shapes[0])
    for shape in draw.shapes:
        for i, address in enumerate(neighbour.samples(draw, shape)):
            yield draw.normal(*shape, layout=LAYOUTS[i % 3]), *address


OP = define(
    "overlap_loss",
    reference=reference,
    triton="overlap_loss",
    native=("cpu",),
    fake=_fake,
    differentiable=("x", "source"),
    setup_context=_setup_context,
    backward=_backward,
    samples=_samples,
)


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
    return dispatch.call(OP, x, source, place, index, mask, list(period))
