"""The published reward: a view agrees with what earlier views show where it looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..canvases.base import LinearCanvas, Neighbours
from ..errors import check_number
from .base import Reward


class Overlap(Reward):
    """``-weight |M (x0_i - T x0')|^2``, summed over a view (docs/mathematics.md, "SyncVC").

    ``T x0'`` is what the latest earlier view shows of each cell and M the area that they cover. SyncVC has this reward
    built in, as its ``reward_weight``, where it costs less; this one is for other methods and for scoring by hand.

    Args:
        weight: at least 0.
    """

    scores_first_view = False

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = check_number("weight", weight, minimum=0.0)
        self._neighbours: Neighbours | None = None
        self._order: list[int] = []

    def begin(self, canvas: LinearCanvas, order: Sequence[int]) -> Overlap:
        """One that knows who is whose neighbour."""
        bound = Overlap(self.weight)
        bound._neighbours, bound._order = canvas.neighbours(order), list(order)
        return bound

    def __call__(self, x0: torch.Tensor, earlier: Sequence[torch.Tensor], i: int) -> Any:
        """The score of view i [C, h, w]; ``earlier`` in work order. RuntimeError before ``begin(canvas, order)``."""
        if self._neighbours is None:
            raise RuntimeError("Overlap does not know the canvas yet: ask the one that begin(canvas, order) returns.")
        views = x0.new_zeros(len(self._order), *x0.shape)
        if earlier:
            views[self._order[: len(earlier)]] = torch.stack(list(earlier))
        mask = self._neighbours.mask(i).to(x0)
        return -self.weight * (mask * (x0 - self._neighbours.target(i, views))).square().sum()
