"""What a canvas is to methods, and who is whose neighbour on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

# "exact": views are cells of the canvas, each at most once, so noisy states may be merged and projected. "nearest":
# maps resample, noise has maps of its own, and noisy states may be read from view to view but not merged. "none": only
# clean estimates may pass.
Whiteness = Literal["exact", "nearest", "none"]


@dataclass(frozen=True)
class Neighbours:
    """What the earlier views of the same time paint where each view looks, for one work order.

    ``T(x)`` gives each cell of view i the latest earlier view that covers it; M is 1 (or ``weight``) where one does.

    Attributes:
        sources: for each view (by its canvas index) the earlier views that it reads.
        owner: int64 [N, h, w], the view that each cell reads, -1 where none looks.
        cell: int64 [N, h, w], the flat cell read in that view (0 where none looks).
        shift: for each view that reads one other by a plain shift ``(source, dy, dx)``: its cell (y, x) is the source's
            cell (y + dy, x + dx), and cells outside the source are outside the overlap. ``(-1, 0, 0)`` reads nobody.
            None: only the tables tell.
        period: the shifts wrap around after (py, px) cells; 0 where they don't.
        signs: [N], ±1: a view reads another's cells times both their signs. None: all 1.
        weight: float32 [N, h, w], M itself where it is not just 0 or 1 (0 wherever ``owner`` is -1).
    """

    sources: Sequence[tuple[int, ...]]
    owner: torch.Tensor
    cell: torch.Tensor
    shift: Sequence[tuple[int, int, int] | None]
    period: tuple[int, int] = (0, 0)
    signs: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    def mask(self, view: int) -> torch.Tensor:
        """M [1, h, w] (float32): 1 (or the weight) where earlier views cover the view's cells, 0 elsewhere."""
        if self.weight is not None:
            return self.weight[view : view + 1]
        return (self.owner[view : view + 1] >= 0).float()

    def target(self, view: int, views: torch.Tensor) -> torch.Tensor:
        """``T(x)`` [C, h, w] of all views' tensors [N, C, h, w]; 0 where nobody looks."""
        owner, cell = self.owner[view].flatten().to(views.device), self.cell[view].flatten().to(views.device)
        if self.signs is not None:
            signs = self.signs.to(views)
            views = views * (signs * signs[view]).reshape(-1, 1, 1, 1)
        read = views.flatten(2)[owner.clamp_min(0), :, cell].T
        return torch.where(owner >= 0, read, torch.zeros_like(read)).reshape(views.shape[1:])


class Canvas(Protocol):
    """The canonical space and its linear maps to the views.

    Attributes:
        num_views: N.
        view_shape: (h, w) of a view, or (C, h, w) where the canvas fixes the channels.
        size: (H, W) of the canvas.
        signs: [N], ±1, where some views show the canvas's negative; None elsewhere.
        whiteness: what becomes of noise, :data:`Whiteness`.
        foreground: bool [N, 1, h, w], where views show the canvas; None: everywhere. Elsewhere ``project`` gives 0.
    """

    num_views: int
    size: tuple[int, int]
    signs: torch.Tensor | None
    whiteness: Whiteness

    @property
    def view_shape(self) -> tuple[int, ...]: ...

    @property
    def foreground(self) -> torch.Tensor | None: ...

    @property
    def coverage(self) -> torch.Tensor:
        """[1, 1, H, W], how many views see each cell (float32)."""
        ...

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """Canvas [1, C, H, W] to views [N, C, h, w]."""
        ...

    def project_noise(self, z: torch.Tensor) -> torch.Tensor:
        """Standard normal noise [1, C, H, W] to standard normal noise in each view, [N, C, h, w]."""
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
