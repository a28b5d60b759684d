"""Optical illusions: one picture that each view shows with its cells in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import check_int, shown
from .base import LinearCanvas, Units, checked_cells
from .illusion_views import VIEWS, View


class IllusionCanvas(LinearCanvas):
    """A picture of h x w cells and its transformed views.

    Args:
        views: names (``identity rotate_cw rotate_ccw rotate_180 flip flip_horizontal skew negate inner_circle
            inner_rotate patch_permute pixel_permute jigsaw square_hinge``) or :class:`View` objects, two or more.
        shape: (C, h, w) of the picture and of each view.
        units: of the shape, ``"cells"`` or ``"pixels"`` (:class:`fastsync.Canvas`).

    Attributes:
        num_views, view_shape, size, channels, units: N, (h, w), (h, w), C, and as given.
        views: the :class:`View` objects.
        signs: float32 [N], -1 for negatives; None where there are none.
        whiteness: ``"exact"`` where every view shows each cell once, so that noise stays white; else ``"none"``.
    """

    def __init__(
        self, views: Sequence[str | View], shape: tuple[int, int, int] = (3, 64, 64), *, units: Units = "cells"
    ) -> None:
        if isinstance(shape, str) or not isinstance(shape, Sequence) or len(shape) != 3:
            raise TypeError(f"shape must be (channels, height, width), got {shown(shape)}: pass three whole numbers.")
        self.channels, h, w = (check_int(f"shape[{i}]", side) for i, side in enumerate(shape))
        if isinstance(views, str) or not isinstance(views, Sequence) or not views:
            raise TypeError(f"views must be a list of names or View objects, got {shown(views)}.")
        self.views = [self._view(view) for view in views]
        super().__init__((h, w), (h, w), len(self.views), units=units)
        self._index = torch.stack(
            [checked_cells(f"the view {view.name!r}", view.index(h, w), (h, w), (h, w)) for view in self.views]
        )
        signs = torch.tensor([float(view.sign) for view in self.views])
        self.signs = signs if bool((signs < 0).any()) else None

    @staticmethod
    def _view(view: Any) -> View:
        if isinstance(view, View):
            if view.sign not in (1, -1):
                raise ValueError(f"the view {view.name!r} must have sign 1 or -1, got {shown(view.sign)}.")
            return view
        if view not in VIEWS:
            raise ValueError(f"views must be of {', '.join(VIEWS)} or View objects, got {shown(view)}.")
        return VIEWS[view]

    def cells(self, view: int) -> torch.Tensor:
        """The flat cells of the picture that a view shows, int64 [h, w]."""
        return self._index[view]
