"""Wide pictures: a plane covered by overlapping windows."""

from __future__ import annotations

import math
from typing import Literal

import torch

from .. import ops
from ..errors import check_int, check_pair, shown
from .base import LinearCanvas, Units, Whiteness

LOOPS = ("x", "y", "xy")
MAX_WINDOWS = 100_000  # what lies above is a slip of the hand, and would fill the memory before it is seen


def window_origins(size: int, window: int, stride: int, loop: bool = False) -> list[int]:
    """First cells of the windows along one axis; without a loop the last window is flush with the border."""
    if loop:
        return list(range(0, size, stride))
    count = -(-(size - window) // stride) + 1
    return [min(k * stride, size - window) for k in range(count)]


class WideCanvas(LinearCanvas):
    """A plane of H x W cells seen through equal windows in row-major order.

    Args:
        size: (H, W) of the canvas.
        window: (h, w) of a view.
        stride: distance between windows, an int or (y, x); at most the window, so that no cell is left out. Sizes
            that it does not divide are legal: the last window is flush with the border.
        loop: close the canvas, so that windows wrap around its borders: in x (True or ``"x"``, 360° pictures), in y
            (``"y"``) or both (``"xy"``, seamless tiles: the picture fits itself on every side).
        units: of size, window and stride, ``"cells"`` or ``"pixels"`` (:class:`fastsync.Canvas`).

    Attributes:
        num_views, view_shape, size, units, window, stride, loop: as given, ``view_shape`` being the window.
        origins: (y, x) of each window's first cell.
        period: (H, W) in the directions that are closed, 0 in the others.
    """

    whiteness: Whiteness = "exact"

    def __init__(
        self,
        size: tuple[int, int],
        window: tuple[int, int],
        stride: int | tuple[int, int],
        loop: bool | Literal["x", "y", "xy"] = False,
        *,
        units: Units = "cells",
    ) -> None:
        size, self.window = check_pair("size", size), check_pair("window", window)
        if isinstance(stride, (tuple, list)):
            self.stride = check_pair("stride", stride)
        else:
            step = check_int("stride", stride)
            self.stride = (step, step)
        if not isinstance(loop, (bool, str)) or (isinstance(loop, str) and loop not in LOOPS):
            kind = ValueError if isinstance(loop, str) else TypeError
            raise kind(f"loop must be True or False, 'x', 'y' or 'xy', got {shown(loop)}.")
        self.loop = loop
        closed = loop if isinstance(loop, str) else "x" * loop
        self.period = (size[0] if "y" in closed else 0, size[1] if "x" in closed else 0)
        axes = zip(("height", "width"), size, self.window, self.stride, self.period, strict=True)
        for axis, side, cells, step, period in axes:
            if side < cells:
                raise ValueError(
                    f"the canvas's {axis} must be at least the window's, got {side} under a window of {cells}: "
                    "enlarge the canvas or choose a smaller window."
                )
            # A stride is only walked where a second window is needed.
            if step > cells and (side > cells or period):
                raise ValueError(
                    f"stride must be at most the window's {axis} ({cells}), got {step}: larger strides leave gaps."
                )
        count = math.prod(-(-side // step) for side, step in zip(size, self.stride, strict=True))
        if count > MAX_WINDOWS:
            raise ValueError(
                f"the canvas must have at most {MAX_WINDOWS:,} windows, but size {size} with stride {self.stride} "
                f"has about {count:,}: choose a smaller canvas or a larger stride."
            )
        ys = window_origins(size[0], self.window[0], self.stride[0], bool(self.period[0]))
        xs = window_origins(size[1], self.window[1], self.stride[1], bool(self.period[1]))
        self.origins = [(y, x) for y in ys for x in xs]
        super().__init__(size, self.window, len(self.origins), units=units)
        self._origins = torch.tensor(self.origins)

    def cells(self, view: int) -> torch.Tensor:
        """The flat cells of a window, int64 [h, w]."""
        (y, x), (height, width), (h, w) = self.origins[view], self.size, self.window
        rows, columns = torch.arange(y, y + h) % height, torch.arange(x, x + w) % width
        return rows[:, None] * width + columns

    def _project(self, z: torch.Tensor) -> torch.Tensor:
        recorded = torch.is_grad_enabled() and z.requires_grad
        if z.device.type != "cpu" or recorded:
            return ops.crop(z, self._origins_on(z.device), self.window)
        # On a CPU copying slices takes a tenth of the time of gathering cells; their backward would be slower.
        h, w = self.window
        if self.period[0]:
            z = torch.cat([z, z[..., : h - 1, :]], -2)
        if self.period[1]:
            z = torch.cat([z, z[..., : w - 1]], -1)
        return torch.cat([z[..., y : y + h, x : x + w] for y, x in self.origins])

    def _adjoint(self, views: torch.Tensor) -> torch.Tensor:
        return ops.accumulate(views, self._origins_on(views.device), self.size)

    def _merge(self, views: torch.Tensor, weights: torch.Tensor | None, previous: torch.Tensor | None) -> torch.Tensor:
        if weights is None:
            weights = views.new_ones(1, 1, *self.window)
        return ops.merge(views, weights, self._origins_on(views.device), self.size, previous)

    def _shift(
        self, view: int, sources: tuple[int, ...], owner: torch.Tensor, cell: torch.Tensor
    ) -> tuple[int, int, int] | None:
        """The plain shift that says the same as the tables, if there is one."""
        if len(sources) > 1:
            return None
        (h, w), (source,) = self.window, sources
        dy, dx = (a - b for a, b in zip(self.origins[view], self.origins[source], strict=True))
        y, x = torch.arange(h) + dy, torch.arange(w) + dx
        y, x = (at % period if period else at for at, period in zip((y, x), self.period, strict=True))
        inside = ((0 <= y) & (y < h))[:, None] & ((0 <= x) & (x < w))
        same = torch.equal(owner >= 0, inside) and torch.equal((y[:, None] * w + x)[inside], cell[inside])
        return (source, dy, dx) if same else None

    def _origins_on(self, device: torch.device) -> torch.Tensor:
        """The windows' origins int64 [N, 2] on a device; moved there once."""
        if self._origins.device != device:
            self._origins = self._origins.to(device)
        return self._origins
