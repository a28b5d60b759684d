"""Optical illusions: one picture that each view shows with its cells in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import ops
from ..errors import check_int, check_tensor, shape_text, shown
from .base import Neighbours, Whiteness
from .illusion_views import VIEWS, View


class IllusionCanvas:
    """A picture of h x w cells and its transformed views.

    Args:
        views: names (``identity rotate_cw rotate_ccw rotate_180 flip flip_horizontal skew negate inner_circle
            inner_rotate patch_permute pixel_permute jigsaw square_hinge``) or :class:`View` objects, two or more.
        shape: (C, h, w) of the picture and of each view, in the prior's sample units.

    Attributes:
        num_views, view_shape, size: N, (C, h, w), (h, w).
        views: the :class:`View` objects.
        signs: float32 [N], -1 for negatives; None where there are none.
        whiteness: ``"exact"`` where every view shows each cell once, so that noise stays white; else ``"none"``.
    """

    def __init__(self, views: Sequence[str | View], shape: tuple[int, int, int] = (3, 64, 64)) -> None:
        if isinstance(shape, str) or not isinstance(shape, Sequence) or len(shape) != 3:
            raise TypeError(f"shape must be (channels, height, width), got {shown(shape)}: pass three whole numbers.")
        channels, h, w = (check_int(f"shape[{i}]", side) for i, side in enumerate(shape))
        if isinstance(views, str) or not isinstance(views, Sequence) or not views:
            raise TypeError(f"views must be a list of names or View objects, got {shown(views)}.")
        self.views = [self._view(view) for view in views]
        self.num_views, self.view_shape, self.size = len(self.views), (channels, h, w), (h, w)
        self._index = torch.stack([self._cells(view, h, w) for view in self.views])
        everything = torch.arange(h * w)
        orthogonal = all(torch.equal(cells.flatten().sort().values, everything) for cells in self._index)
        self.whiteness: Whiteness = "exact" if orthogonal else "none"
        self.foreground: torch.Tensor | None = None
        signs = torch.tensor([float(view.sign) for view in self.views])
        self.signs = signs if bool((signs < 0).any()) else None
        ones = torch.ones(self.num_views, h, w, 1)
        self._taps = ops.Taps(self._index.int()[..., None], ones, self.size)

    @staticmethod
    def _view(view: Any) -> View:
        if isinstance(view, View):
            if view.sign not in (1, -1):
                raise ValueError(f"the view {view.name!r} must have sign 1 or -1, got {shown(view.sign)}.")
            return view
        if view not in VIEWS:
            raise ValueError(f"views must be of {', '.join(VIEWS)} or View objects, got {shown(view)}.")
        return VIEWS[view]

    @staticmethod
    def _cells(view: View, h: int, w: int) -> torch.Tensor:
        cells = view.index(h, w)
        if not isinstance(cells, torch.Tensor) or cells.shape != (h, w) or cells.dtype != torch.int64:
            raise TypeError(f"the view {view.name!r} must give int64 [{h}, {w}] for index({h}, {w}).")
        if int(cells.min()) < 0 or int(cells.max()) >= h * w:
            raise ValueError(f"the view {view.name!r} must show cells 0 to {h * w - 1}, and shows others.")
        return cells

    @property
    def coverage(self) -> torch.Tensor:
        """[1, 1, h, w], how many views see each cell (float32)."""
        return ops.splat(torch.ones(self.num_views, 1, *self.size), self._on(torch.device("cpu")))

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """The picture [1, C, h, w] as each view shows it, [N, C, h, w]."""
        if not isinstance(z, torch.Tensor) or z.ndim != 4 or z.shape[0] != 1 or tuple(z.shape[2:]) != self.size:
            got = shape_text(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
            raise ValueError(f"z must be a picture [1, C, {self.size[0]}, {self.size[1]}], got {got}.")
        index = self._on(z.device).index[..., 0].long()
        signs = None if self.signs is None else self.signs.to(z.device)
        return ops.transform(z.expand(self.num_views, *z.shape[1:]), index, signs)

    def project_noise(self, z: torch.Tensor) -> torch.Tensor:
        """As :meth:`project`; refused where a view shows cells twice or not at all, and noise would not stay white."""
        if self.whiteness == "none":
            raise ValueError("noise would not stay white, as a view of this canvas shows cells twice or not at all.")
        return self.project(z)

    def adjoint(self, views: torch.Tensor) -> torch.Tensor:
        """``sum_i P_i^T x^i``: every view [N, C, h, w] put back into place, added up [1, C, h, w]."""
        return ops.splat(self._upright(views), self._on(views.device))

    def merge(
        self, views: torch.Tensor, weights: torch.Tensor | None = None, previous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Weighted mean of what the views show of each cell.

        Args:
            views: [N, C, h, w].
            weights: non-negative, [h, w] (the same for all views) or [N, 1, h, w]; all 1 if None.
            previous: [1, C, h, w], kept where no view has weight (0 if None).
        """
        upright = self._upright(views)
        if weights is None:
            weights = views.new_ones(self.size)
        if check_tensor("weights", weights).shape == self.size:
            weights = weights.expand(self.num_views, 1, *self.size)
        if weights.shape != (self.num_views, 1, *self.size):
            raise ValueError(
                f"weights must be {shape_text(self.size)} or {shape_text((self.num_views, 1, *self.size))}, got "
                f"{shape_text(weights.shape)}."
            )
        total, weight = ops.uv_accumulate(upright, weights.to(views), self._on(views.device))
        kept = torch.zeros_like(total) if previous is None else previous
        return torch.where(weight > 0, total / weight.clamp_min(torch.finfo(weight.dtype).tiny), kept)

    def composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """The picture [1, C, h, w] with views [N, C, h, w] painted over one another in ``order``."""
        upright = self._upright(views)
        owner, cell = self._paint(order)
        painted = owner.flatten().to(views.device)
        read = upright.flatten(2)[painted.clamp_min(0), :, cell.flatten().to(views.device)].T
        return torch.where(painted >= 0, read, torch.zeros_like(read)).reshape(1, views.shape[1], *self.size)

    def neighbours(self, order: Sequence[int]) -> Neighbours:
        """For each view what the latest earlier view shows of its cells."""
        owner = torch.full((self.num_views, *self.size), -1)
        cell = torch.zeros_like(owner)
        sources: list[tuple[int, ...]] = [()] * self.num_views
        self._paint(order, owner, cell)
        for i in order:
            sources[i] = tuple(j for j in owner[i].unique().tolist() if j >= 0)
        shifts: list[tuple[int, int, int] | None] = [None if read else (-1, 0, 0) for read in sources]
        return Neighbours(sources, owner, cell, shifts, signs=self.signs)

    def _paint(
        self, order: Sequence[int], under: torch.Tensor | None = None, under_cell: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lays the views down in `order`: owner and owner's cell of each canvas cell, int64 [h, w], -1 where none.

        ``under`` and ``under_cell`` [N, h, w] are filled with what each view was laid upon.
        """
        owner, cell = torch.full((self.size[0] * self.size[1],), -1), torch.zeros(self.size, dtype=torch.long).flatten()
        local = torch.arange(len(owner))
        for i in order:
            at = self._index[i].flatten()
            if under is not None and under_cell is not None:
                under[i], under_cell[i] = owner[self._index[i]], cell[self._index[i]]
            owner[at], cell[at] = i, local
        return owner.reshape(self.size), cell.reshape(self.size)

    def _upright(self, views: Any) -> torch.Tensor:
        """Checked views with the canvas's sign."""
        expected = (self.num_views, None, *self.size)
        if not isinstance(views, torch.Tensor) or views.ndim != 4 or (len(views), None, *views.shape[2:]) != expected:
            got = shape_text(views.shape) if isinstance(views, torch.Tensor) else type(views).__name__
            raise ValueError(f"views must be [{self.num_views}, C, {self.size[0]}, {self.size[1]}], got {got}.")
        return views if self.signs is None else views * self.signs.to(views).reshape(-1, 1, 1, 1)

    def _on(self, device: torch.device) -> ops.Taps:
        """The views' table on a device; moved there once."""
        if self._taps.index.device != device:
            self._taps = self._taps.to(device)
        return self._taps
