"""Disagreement of a view with what its neighbours paint where it looks."""

from __future__ import annotations

import torch


def overlap_loss(x: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``sum |M (x - target)|^2`` per view, and its gradient with respect to ``x``: ``2 M^2 (x - target)``.

    Args:
        x: clean views [B, C, h, w].
        target: [B, C, h, w], the neighbours' estimate in the view's own cells.
        mask: [B, 1, h, w], 1 where views overlap, 0 elsewhere (values between are weights on the difference).

    Returns:
        ``(loss [B], gradient [B, C, h, w])``.
    """
    difference = mask * (x - target)
    return difference.square().flatten(1).sum(1), 2.0 * mask * difference
