"""Wide pictures: a plane covered by overlapping windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from .. import ops
from ..errors import check_int, check_pair, check_tensor, shape_text, shown
from .base import Neighbours, Whiteness

LOOPS = ("x", "y", "xy")
MAX_WINDOWS = 100_000  # what lies above is a slip of the hand, and would fill the memory before it is seen


def window_origins(size: int, window: int, stride: int, loop: bool = False) -> list[int]:
    """First cells of the windows along one axis; without a loop the last window is flush with the border."""
    if loop:
        return list(range(0, size, stride))
    count = -(-(size - window) // stride) + 1
    return [min(k * stride, size - window) for k in range(count)]


class WideCanvas:
    """A plane of H x W cells seen through equal windows in row-major order.

    Args:
        size: (H, W) of the canvas, in the prior's sample units (latent cells for latent priors).
        window: (h, w) of a view.
        stride: distance between windows, an int or (y, x); at most the window, so that no cell is left out. Sizes
            that it does not divide are legal: the last window is flush with the border.
        loop: close the canvas, so that windows wrap around its borders: in x (True or ``"x"``, 360° pictures), in y
            (``"y"``) or both (``"xy"``, seamless tiles: the picture fits itself on every side).

    Attributes:
        num_views, view_shape, size, window, stride, loop: as given, ``view_shape`` being the window.
        origins: (y, x) of each window's first cell.
        period: (H, W) in the directions that are closed, 0 in the others.
    """

    signs: torch.Tensor | None = None
    whiteness: Whiteness = "exact"
    foreground: torch.Tensor | None = None

    def __init__(
        self,
        size: tuple[int, int],
        window: tuple[int, int],
        stride: int | tuple[int, int],
        loop: bool | Literal["x", "y", "xy"] = False,
    ) -> None:
        self.size = check_pair("size", size)
        self.window = check_pair("window", window)
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
        self.period = (self.size[0] if "y" in closed else 0, self.size[1] if "x" in closed else 0)
        axes = zip(("height", "width"), self.size, self.window, self.stride, self.period, strict=True)
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
        count = math.prod(-(-side // step) for side, step in zip(self.size, self.stride, strict=True))
        if count > MAX_WINDOWS:
            raise ValueError(
                f"the canvas must have at most {MAX_WINDOWS:,} windows, but size {self.size} with stride {self.stride} "
                f"has about {count:,}: choose a smaller canvas or a larger stride."
            )
        ys = window_origins(self.size[0], self.window[0], self.stride[0], bool(self.period[0]))
        xs = window_origins(self.size[1], self.window[1], self.stride[1], bool(self.period[1]))
        self.origins = [(y, x) for y in ys for x in xs]
        self.num_views = len(self.origins)
        self.view_shape: tuple[int, ...] = self.window
        self._origins = torch.tensor(self.origins)

    @property
    def coverage(self) -> torch.Tensor:
        """[1, 1, H, W], how many windows see each cell (float32)."""
        return self.adjoint(torch.ones(self.num_views, 1, *self.window, dtype=torch.float32))

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """Crop the canvas [1, C, H, W] into windows [N, C, h, w]."""
        if not isinstance(z, torch.Tensor) or z.ndim != 4 or z.shape[0] != 1 or tuple(z.shape[2:]) != self.size:
            got = shape_text(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
            raise ValueError(f"z must be a canvas [1, C, {self.size[0]}, {self.size[1]}], got {got}.")
        return ops.crop(z, self._on(z.device), self.window)

    def project_noise(self, z: torch.Tensor) -> torch.Tensor:
        """As :meth:`project`: windows are cells of the canvas, so noise stays white in them."""
        return self.project(z)

    def adjoint(self, views: torch.Tensor) -> torch.Tensor:
        """``sum_i P_i^T x^i``: windows [N, C, h, w] summed into a canvas [1, C, H, W]."""
        self._check_views(views)
        return ops.accumulate(views, self._on(views.device), self.size)

    def merge(
        self, views: torch.Tensor, weights: torch.Tensor | None = None, previous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Weighted mean of everything that lands on a cell.

        Args:
            views: [N, C, h, w].
            weights: non-negative, [h, w] (the same for all windows) or [N, 1, h, w]; all 1 if None.
            previous: [1, C, H, W], kept where no window has weight (0 if None).
        """
        self._check_views(views)
        if weights is None:
            weights = views.new_ones(self.window)
        if check_tensor("weights", weights).ndim == 2:
            weights = weights[None, None]
        if tuple(weights.shape) not in {(n, 1, *self.window) for n in (1, self.num_views)}:
            raise ValueError(
                f"weights must be {shape_text(self.window)} or {shape_text((self.num_views, 1, *self.window))}, "
                f"got {shape_text(weights.shape)}."
            )
        if previous is not None and check_tensor("previous", previous).shape != (1, views.shape[1], *self.size):
            raise ValueError(
                f"previous must be a canvas {shape_text((1, views.shape[1], *self.size))}, got "
                f"{shape_text(previous.shape)}."
            )
        return ops.merge(views, weights.to(views), self._on(views.device), self.size, previous)

    def composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """Canvas [1, C, H, W] with windows [N, C, h, w] painted over one another in ``order``."""
        self._check_views(views)
        owner, cell = self._paint(order)
        painted = owner.flatten().to(views.device)
        read = views.flatten(2)[painted.clamp_min(0), :, cell.flatten().to(views.device)].T
        read = torch.where(painted >= 0, read, torch.zeros_like(read))
        return read.reshape(1, views.shape[1], *self.size)

    def neighbours(self, order: Sequence[int]) -> Neighbours:
        """For each window the latest earlier window at each of its cells."""
        owner = torch.full((self.num_views, *self.window), -1)
        cell = torch.zeros_like(owner)
        sources: list[tuple[int, ...]] = [()] * self.num_views
        shifts: list[tuple[int, int, int] | None] = [None] * self.num_views
        self._paint(order, owner, cell)
        for i in order:
            sources[i] = tuple(j for j in owner[i].unique().tolist() if j >= 0)
            shifts[i] = (-1, 0, 0) if not sources[i] else self._shift(i, sources[i], owner[i], cell[i])
        return Neighbours(sources, owner, cell, shifts, self.period)

    def _paint(
        self, order: Sequence[int], under: torch.Tensor | None = None, under_cell: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lays the windows down in `order`: owner and owner's cell of each canvas cell, int64 [H, W], -1 where none.

        ``under`` and ``under_cell`` [N, h, w] are filled with what each window was laid upon.
        """
        (height, width), (h, w) = self.size, self.window
        owner, cell = torch.full(self.size, -1), torch.zeros(self.size, dtype=torch.long)
        local = torch.arange(h * w).reshape(h, w)
        for i in order:
            y, x = self.origins[i]
            at = ((torch.arange(y, y + h) % height)[:, None], torch.arange(x, x + w) % width)
            if under is not None and under_cell is not None:
                under[i], under_cell[i] = owner[at], cell[at]
            owner[at], cell[at] = i, local
        return owner, cell

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

    def _on(self, device: torch.device) -> torch.Tensor:
        """The windows' origins int64 [N, 2] on a device; moved there once."""
        if self._origins.device != device:
            self._origins = self._origins.to(device)
        return self._origins

    def _check_views(self, views: Any) -> None:
        if not isinstance(views, torch.Tensor) or views.ndim != 4 or views.shape[0] != self.num_views:
            got = shape_text(views.shape) if isinstance(views, torch.Tensor) else type(views).__name__
            raise ValueError(f"views must be {shape_text((self.num_views,))[:-1]}, C, h, w], got {got}.")
        if tuple(views.shape[2:]) != self.window:
            raise ValueError(f"views must be windows of {self.window}, got {tuple(views.shape[2:])}.")
