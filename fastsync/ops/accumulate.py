"""Windows to canvas: sums and weighted means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from . import dispatch
from .declare import define
from .samples import LAYOUTS, Draw
from .shapes import widened


def _at(origins: torch.Tensor, window: Sequence[int], size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Canvas rows [N, h, 1] and columns [N, 1, w] of each window's cells."""
    y = (torch.arange(window[0], device=origins.device) + origins[:, :1]) % size[0]
    x = (torch.arange(window[1], device=origins.device) + origins[:, 1:]) % size[1]
    return y[:, :, None], x[:, None, :]


def crop(z: torch.Tensor, origins: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """Windows [N, C, h, w] of a canvas z [1, C, H, W] at origins int64 [N, 2] (y, x), wrapped around the borders."""
    y, x = _at(origins, window, z.shape[2:])
    return z[0][:, y, x].transpose(0, 1)


def accumulate_reference(views: torch.Tensor, origins: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """``sum_i P_i^T x^i``, window by window."""
    canvas = widened(views.new_zeros(1, views.shape[1], *size))
    y, x = _at(origins, views.shape[2:], size)
    for i, view in enumerate(views):
        canvas[0][:, y[i], x[i]] += view
    return canvas.to(views.dtype)


def merge_reference(
    views: torch.Tensor,
    weights: torch.Tensor,
    origins: torch.Tensor,
    size: Sequence[int],
    previous: torch.Tensor | None,
) -> torch.Tensor:
    """``sum P^T W x / sum P^T W 1``, ``previous`` where no view has weight."""
    weights = weights.to(widened(views))
    total = accumulate_reference(weights.expand(len(views), -1, -1, -1), origins, size)
    canvas = accumulate_reference(torch.where(weights != 0, weights * views, 0), origins, size)
    background = torch.zeros_like(canvas) if previous is None else previous.to(canvas)
    return torch.where(total > 0, canvas / torch.where(total > 0, total, 1), background).to(views.dtype)


def _accumulate_context(ctx: Any, given: Any, output: Any) -> None:
    ctx.window = given.views.shape[2:]
    ctx.save_for_backward(given.origins)


def _accumulate_backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (crop(g, ctx.saved_tensors[0], ctx.window),)


def _accumulate_samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    for window, size, origins in draw.windows:
        for layout in LAYOUTS:
            views = draw.normal(len(origins), *window, layout=layout)
            yield views, torch.tensor(origins, device=draw.device), list(size)


ACCUMULATE = define(
    "accumulate",
    reference=accumulate_reference,
    triton="merge",
    native=("cpu",),
    fake=lambda given: given.views.new_empty(1, given.views.shape[1], *given.size),
    differentiable=("views",),
    setup_context=_accumulate_context,
    backward=_accumulate_backward,
    samples=_accumulate_samples,
)


def _merge_context(ctx: Any, given: Any, output: Any) -> None:
    ctx.window, ctx.count, ctx.size = given.views.shape[2:], len(given.views), given.size
    ctx.keeps = given.previous is not None
    ctx.save_for_backward(given.weights, given.origins)


def _merge_backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    weights, origins = ctx.saved_tensors
    weights = weights.to(g)
    total = dispatch.call(ACCUMULATE, weights.expand(ctx.count, -1, -1, -1).contiguous(), origins, ctx.size)
    covered = total > 0
    mean = torch.where(covered, g / torch.where(covered, total, 1), 0)
    g_views = torch.where(weights != 0, weights * crop(mean, origins, ctx.window), 0)
    return g_views, torch.where(covered, 0, g) if ctx.keeps else None


def _merge_samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    for views, origins, size in _accumulate_samples(draw):
        previous = draw.normal(1, views.shape[1], *size)
        for shared, kept in ((False, previous), (True, None)):
            weights = draw.mask(1 if shared else len(views), 1, *views.shape[2:])
            # Without weight a view is not read.
            unread = views.masked_fill(weights == 0, float("nan"))
            yield unread, weights, origins, size, kept


MERGE = define(
    "merge",
    reference=merge_reference,
    triton="merge",
    native=("cpu",),
    fake=lambda given: given.views.new_empty(1, given.views.shape[1], *given.size),
    differentiable=("views", "previous"),
    setup_context=_merge_context,
    backward=_merge_backward,
    samples=_merge_samples,
)


def accumulate(views: torch.Tensor, origins: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Sum windows into a canvas: the adjoint of cropping, ``sum_i P_i^T x^i``.

    Args:
        views: [N, C, h, w].
        origins: int64 [N, 2], canvas (y, x) of each window's first cell; windows wrap around the canvas's borders.
        size: canvas (H, W).

    Returns:
        Canvas [1, C, H, W]; views are added in their order, so equal inputs give equal bits. Differentiable in views.
    """
    _check("accumulate", views, origins, size)
    return dispatch.call(ACCUMULATE, views, origins, list(size))


def merge(
    views: torch.Tensor,
    weights: torch.Tensor,
    origins: torch.Tensor,
    size: tuple[int, int],
    previous: torch.Tensor | None = None,
) -> torch.Tensor:
    """Least-squares canvas of weighted windows: ``sum P^T W x / sum P^T W 1``.

    Args:
        views: [N, C, h, w].
        weights: [N or 1, 1, h, w], non-negative; where a weight is 0 the view is not read.
        origins, size: as in :func:`accumulate`.
        previous: [1, C, H, W], kept where no view has weight (zero if None).

    Differentiable in views and previous.
    """
    _check("merge", views, origins, size)
    if weights.shape[0] not in (1, len(views)) or weights.shape[1:] != (1, *views.shape[2:]):
        expected = [f"{len(views)} or 1", 1, *views.shape[2:]]
        raise ValueError(f"merge: weights must be {expected}, got {list(weights.shape)}.")
    if previous is not None and previous.shape != (1, views.shape[1], *size):
        raise ValueError(f"merge: previous must be {[1, views.shape[1], *size]}, got {list(previous.shape)}.")
    return dispatch.call(MERGE, views, weights.to(views.dtype), origins, list(size), previous)


def _check(name: str, views: torch.Tensor, origins: torch.Tensor, size: Sequence[int]) -> None:
    if views.ndim != 4 or origins.shape != (len(views), 2) or origins.dtype != torch.int64:
        raise ValueError(
            f"{name}: views must be [N, C, h, w] and origins int64 [N, 2], got {list(views.shape)} and "
            f"{origins.dtype} {list(origins.shape)}."
        )
    if any(side < cells for side, cells in zip(size, views.shape[2:], strict=True)):
        raise ValueError(f"{name}: a canvas of {tuple(size)} is smaller than its windows {tuple(views.shape[2:])}.")
