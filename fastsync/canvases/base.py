"""What a canvas is to methods, and who is whose neighbour on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch


class Neighbours(Protocol):
    """What the earlier views of the same time paint where each view looks, for one work order.

    Attributes:
        sources: for each view (by its canvas index) the earlier views that it reads.
    """

    sources: Sequence[tuple[int, ...]]

    def mask(self, view: int) -> torch.Tensor:
        """[1, h, w], 1 where earlier views cover the view's cells, 0 elsewhere."""
        ...

    def target(self, view: int, state: Callable[[int], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """``T(x)`` [C, h, w]: each cell takes the latest earlier view that covers it (0 where none does).

        ``state(j)`` gives view j's tensor [C, h, w]; ``like`` [C, h, w] sets shape, dtype and device.
        """
        ...


class Canvas(Protocol):
    """The canonical space and its linear maps to the views.

    Attributes:
        num_views: N.
        view_shape: (h, w) of a view, or (C, h, w) where the canvas fixes the channels.
        size: (H, W) of the canvas.
    """

    num_views: int
    view_shape: tuple[int, ...]
    size: tuple[int, int]

    @property
    def coverage(self) -> torch.Tensor:
        """[1, 1, H, W], how many views see each cell (float32)."""
        ...

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """Canvas [1, C, H, W] to views [N, C, h, w]."""
        ...

    def adjoint(self, views: torch.Tensor) -> torch.Tensor:
        """``sum_i P_i^T x^i``: views [N, C, h, w] to canvas [1, C, H, W]."""
        ...

    def merge(
        self, views: torch.Tensor, weights: torch.Tensor | None = None, previous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Least-squares canvas [1, C, H, W] of views [N, C, h, w]; uncovered cells keep ``previous`` (or 0)."""
        ...

    def composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """Canvas [1, C, H, W] with the views painted over one another in ``order``."""
        ...

    def neighbours(self, order: Sequence[int]) -> Neighbours:
        """Who reads whom when the views are worked through in ``order``."""
        ...
