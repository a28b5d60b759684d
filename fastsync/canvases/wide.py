"""Wide pictures: a plane covered by overlapping windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import ops
from ..errors import check_int, check_pair, check_tensor, shape_text, shown
from .base import Neighbours

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
        loop: close the canvas in x: windows wrap around the right border onto the left one (360° pictures).

    Attributes:
        num_views, view_shape, size, window, stride, loop: as given, ``view_shape`` being the window.
        origins: (y, x) of each window's first cell.
    """

    def __init__(
        self, size: tuple[int, int], window: tuple[int, int], stride: int | tuple[int, int], loop: bool = False
    ) -> None:
        self.size = check_pair("size", size)
        self.window = check_pair("window", window)
        if isinstance(stride, (tuple, list)):
            self.stride = check_pair("stride", stride)
        else:
            step = check_int("stride", stride)
            self.stride = (step, step)
        if not isinstance(loop, bool):
            raise TypeError(f"loop must be True or False, got {shown(loop)}.")
        self.loop = loop
        for axis, side, cells, step in zip(("height", "width"), self.size, self.window, self.stride, strict=True):
            if side < cells:
                raise ValueError(
                    f"the canvas's {axis} must be at least the window's, got {side} under a window of {cells}: "
                    "enlarge the canvas or choose a smaller window."
                )
            # A stride is only walked where a second window is needed.
            if step > cells and (side > cells or (loop and axis == "width")):
                raise ValueError(
                    f"stride must be at most the window's {axis} ({cells}), got {step}: larger strides leave gaps."
                )
        count = math.prod(-(-side // step) for side, step in zip(self.size, self.stride, strict=True))
        if count > MAX_WINDOWS:
            raise ValueError(
                f"the canvas must have at most {MAX_WINDOWS:,} windows, but size {self.size} with stride {self.stride} "
                f"has about {count:,}: choose a smaller canvas or a larger stride."
            )
        ys = window_origins(self.size[0], self.window[0], self.stride[0])
        xs = window_origins(self.size[1], self.window[1], self.stride[1], loop)
        self.origins = [(y, x) for y in ys for x in xs]
        self.num_views = len(self.origins)
        self.view_shape: tuple[int, ...] = self.window
        (height, width), (h, w) = self.size, self.window
        self._rows = [torch.arange(y, y + h) % height for y, _ in self.origins]
        self._columns = [torch.arange(x, x + w) % width for _, x in self.origins]

    @property
    def coverage(self) -> torch.Tensor:
        """[1, 1, H, W], how many windows see each cell (float32)."""
        return self.adjoint(torch.ones(self.num_views, 1, *self.window, dtype=torch.float32))

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """Crop the canvas [1, C, H, W] into windows [N, C, h, w]."""
        if not isinstance(z, torch.Tensor) or z.ndim != 4 or z.shape[0] != 1 or tuple(z.shape[2:]) != self.size:
            got = shape_text(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
            raise ValueError(f"z must be a canvas [1, C, {self.size[0]}, {self.size[1]}], got {got}.")
        return torch.stack([z[0][:, y[:, None], x] for y, x in zip(self._rows, self._columns, strict=True)])

    def adjoint(self, views: torch.Tensor) -> torch.Tensor:
        """``sum_i P_i^T x^i``: windows [N, C, h, w] summed into a canvas [1, C, H, W]."""
        self._check_views(views)
        return ops.accumulate(views, self._rows, self._columns, self.size)

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
        return ops.merge(views, weights, self._rows, self._columns, self.size, previous)

    def composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """Canvas [1, C, H, W] with windows [N, C, h, w] painted over one another in ``order``."""
        self._check_views(views)
        z = views.new_zeros(1, views.shape[1], *self.size)
        for i in order:
            z[0][:, self._rows[i][:, None], self._columns[i]] = views[i]
        return z

    def neighbours(self, order: Sequence[int]) -> Neighbours:
        """For each window the latest earlier window at each of its cells."""
        return _WindowNeighbours(self, order)

    def _check_views(self, views: Any) -> None:
        if not isinstance(views, torch.Tensor) or views.ndim != 4 or views.shape[0] != self.num_views:
            got = shape_text(views.shape) if isinstance(views, torch.Tensor) else type(views).__name__
            raise ValueError(f"views must be {shape_text((self.num_views,))[:-1]}, C, h, w], got {got}.")
        if tuple(views.shape[2:]) != self.window:
            raise ValueError(f"views must be windows of {self.window}, got {tuple(views.shape[2:])}.")


class _WindowNeighbours:
    """Cell-by-cell ownership of the canvas as windows are laid down in the work order."""

    def __init__(self, canvas: WideCanvas, order: Sequence[int]) -> None:
        h, w = canvas.window
        owner = torch.full(canvas.size, -1, dtype=torch.long)
        cell = torch.zeros(canvas.size, dtype=torch.long)
        local = torch.arange(h * w).reshape(h, w)
        pieces: list[list[tuple[int, torch.Tensor, torch.Tensor]]] = [[] for _ in range(canvas.num_views)]
        for i in order:
            at = (canvas._rows[i][:, None], canvas._columns[i])
            owners, cells = owner[at].flatten(), cell[at].flatten()
            for j in owners.unique().tolist():
                if j >= 0:
                    here = (owners == j).nonzero()[:, 0]
                    pieces[i].append((j, cells[here], here))
            owner[at], cell[at] = i, local
        self._window = canvas.window
        self._pieces = pieces
        self.sources: Sequence[tuple[int, ...]] = [tuple(j for j, _, _ in p) for p in pieces]

    def mask(self, view: int) -> torch.Tensor:
        """[1, h, w], 1 where earlier windows cover the view."""
        mask = torch.zeros(self._window[0] * self._window[1], dtype=torch.float32)
        for _, _, here in self._pieces[view]:
            mask[here] = 1.0
        return mask.reshape(1, *self._window)

    def target(self, view: int, state: Callable[[int], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """What earlier windows show at the view's cells [C, h, w]; 0 where none looks."""
        target = torch.zeros_like(like).flatten(1)
        for j, there, here in self._pieces[view]:
            target[:, here.to(like.device)] = state(j).flatten(1)[:, there.to(like.device)]
        return target.reshape(like.shape)
