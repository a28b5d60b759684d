"""Windows to canvas: sums and weighted means."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def accumulate(
    views: torch.Tensor, rows: Sequence[torch.Tensor], columns: Sequence[torch.Tensor], size: tuple[int, int]
) -> torch.Tensor:
    """Sum windows into a canvas: the adjoint of cropping, ``sum_i P_i^T x^i``.

    Args:
        views: [N, C, h, w].
        rows, columns: N index tensors each, int64 [h] and [w]: the canvas row and column of every view row and column
            (wrapped where a window closes a loop).
        size: canvas (H, W).

    Returns:
        Canvas [1, C, H, W]. The views are added in their order, so equal inputs give equal bits.
    """
    canvas = views.new_zeros(1, views.shape[1], *size)
    for view, y, x in zip(views, rows, columns, strict=True):
        canvas[0][:, y[:, None], x] += view
    return canvas


def merge(
    views: torch.Tensor,
    weights: torch.Tensor,
    rows: Sequence[torch.Tensor],
    columns: Sequence[torch.Tensor],
    size: tuple[int, int],
    previous: torch.Tensor | None = None,
) -> torch.Tensor:
    """Least-squares canvas of weighted windows: ``sum P^T W x / sum P^T W 1``.

    Args:
        views: [N, C, h, w].
        weights: [N or 1, 1, h, w], non-negative.
        rows, columns, size: as in :func:`accumulate`.
        previous: [1, C, H, W], kept where no view has weight (zero if None).
    """
    total = accumulate(weights.to(views).expand(views.shape[0], -1, -1, -1), rows, columns, size)
    canvas = accumulate(weights.to(views) * views, rows, columns, size) / total.clamp_min(torch.finfo(views.dtype).tiny)
    background = torch.zeros_like(canvas) if previous is None else previous.to(canvas)
    return torch.where(total > 0, canvas, background)
