"""What a canvas is to methods, what linear canvases have in common, and who is whose neighbour on one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from .. import ops
from ..errors import check_choice, check_int, check_pair, check_tensor, shape_text, shown

# "exact": views are cells of the canvas, each at most once, so noisy states may be merged and projected. "nearest":
# maps resample, noise has maps of its own, and noisy states may be read from view to view but not merged. "none": only
# clean estimates may pass.
Whiteness = Literal["exact", "nearest", "none"]
Units = Literal["cells", "pixels"]
UNITS: tuple[Units, ...] = ("cells", "pixels")


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


class Canvas(ABC):
    """A canonical space z [1, C, H, W] and what N views [N, C, h, w] show of it.

    A canvas whose views are linear functions of it is a :class:`LinearCanvas`, which all methods can use. This base is
    what a canvas needs besides: it is seen by views, differentiably.

    ``units`` says what one cell of the canvas and of its views is:

    - ``"cells"``: a cell of the prior's samples, i.e. a latent cell for a latent prior and a pixel for a pixel-space
      prior. Views have the prior's ``view_shape``. This is what every method can use.
    - ``"pixels"``: a pixel of the decoded picture, although the prior's views are latents. Views have 3 channels and
      are the prior's ``scale`` times as high and wide. Methods decode clean views before they merge them, and encode
      what they project (StochSync, SyncTweedies).

    For priors whose scale is 1 both mean the same, and either is accepted.

    Args:
        size: (H, W) of the canvas.
        view_shape: (h, w) of a view.
        num_views: N.
        units: ``"cells"`` or ``"pixels"``.

    Attributes:
        size, view_shape, num_views, units: as given.
        channels: C, where the canvas is made for so many channels (``sample`` holds the prior to it); None: any.
        signs: float32 [N], 1 or -1, where some views show the canvas's negative; None: all 1.
        regions: float32 [N, 1, h, w], how much each view counts in each of its cells, view 0 being the background;
            None: views have no regions.
    """

    channels: int | None = None
    signs: torch.Tensor | None = None
    regions: torch.Tensor | None = None

    def __init__(
        self, size: tuple[int, int], view_shape: tuple[int, int], num_views: int, *, units: Units = "cells"
    ) -> None:
        self.size = check_pair("size", size)
        self.view_shape = check_pair("view_shape", view_shape)
        self.num_views = check_int("num_views", num_views)
        self.units: Units = check_choice("units", units, UNITS)

    @property
    def whiteness(self) -> Whiteness:
        """What becomes of noise, :data:`Whiteness`."""
        return "none"

    @property
    def foreground(self) -> torch.Tensor | None:
        """bool [N, 1, h, w], where views show the canvas; None: everywhere. Elsewhere ``project`` gives 0."""
        return None

    @property
    @abstractmethod
    def coverage(self) -> torch.Tensor:
        """[1, 1, H, W], how many views see each cell (float32)."""

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """What the views [N, C, h, w] show of a clean canvas [1, C, H, W], any C; differentiable.

        Raises:
            ValueError: z has another shape.
        """
        self._check_canvas(z)
        return self._project(z)

    def project_noise(self, z: torch.Tensor) -> torch.Tensor:
        """Standard normal noise [1, C, H, W] as standard normal noise in each view, [N, C, h, w].

        Raises:
            ValueError: z has another shape, or the canvas has no map that keeps noise white.
        """
        if self.whiteness != "exact":
            raise ValueError(
                f"noise would not stay white in the views of this {type(self).__name__}, which show cells twice or mix "
                "them: draw noise for each view."
            )
        return self.project(z)

    def chained(self) -> Canvas:
        """The canvas on which views follow one another: itself, unless it needs another view there."""
        return self

    @abstractmethod
    def _project(self, z: torch.Tensor) -> torch.Tensor:
        """As :meth:`project`, of a checked z."""

    def _check_canvas(self, z: Any) -> None:
        if not _is_batch(z) or (len(z), *z.shape[2:]) != (1, *self.size):
            raise ValueError(f"z must be a canvas [1, C, {self.size[0]}, {self.size[1]}], got {_kind(z)}.")


class LinearCanvas(Canvas):
    """A canvas whose views are linear functions of it, ``x^i = P_i z``, and can be merged.

    Where views show cells of the canvas (crops, strides, permutations, negatives), a subclass only says which ones, in
    :meth:`cells`; the maps, the painting and the neighbours follow. A subclass whose views resample the canvas, or that
    knows a faster way, overrides what is called with checked arguments: ``_project``, ``_adjoint`` and ``_sums`` (or
    ``_merge``), which belong together, ``_composite`` and ``_beneath``.

    Attributes:
        period: (py, px), the cells after which neighbours' shifts wrap around; 0 where they don't.
    """

    period: tuple[int, int] = (0, 0)
    _taps: ops.Taps | None = None

    @abstractmethod
    def cells(self, view: int) -> torch.Tensor:
        """The flat cell ``y W + x`` of the canvas that each of a view's cells shows, int64 [h, w].

        Where views resample the canvas: the cell whose noise each pixel has.
        """

    @cached_property
    def whiteness(self) -> Whiteness:
        """``"exact"`` where no view shows a cell twice, else ``"none"``."""
        count = math.prod(self.view_shape)
        return "exact" if all(len(self._cells(i).unique()) == count for i in range(self.num_views)) else "none"

    @property
    def coverage(self) -> torch.Tensor:
        """[1, 1, H, W], how many views see each cell, shared among the cells that it mixes (float32)."""
        return self._adjoint(self._upright(torch.ones(self.num_views, 1, *self.view_shape)))

    def adjoint(self, views: torch.Tensor) -> torch.Tensor:
        """``sum_i P_i^T x^i``: views [N, C, h, w] put back into place and added up, [1, C, H, W]; differentiable.

        Raises:
            ValueError: views have another shape.
        """
        self._check_views(views)
        return self._adjoint(views)

    def merge(
        self, views: torch.Tensor, weights: torch.Tensor | None = None, previous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The canvas [1, C, H, W] of views: the weighted mean of all that lands on a cell; differentiable in views.

        Args:
            views: [N, C, h, w].
            weights: at least 0, [h, w] or [1, 1, h, w] (the same for all views) or [N, 1, h, w]; all 1 if None.
            previous: [1, C, H, W], kept where no view has weight (0 if None).

        Raises:
            TypeError, ValueError: tensors of another kind or shape, or weights that are negative or not finite.
        """
        return self._merge(views, *self._checked(views, weights, previous))

    def composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """Canvas [1, C, H, W] with views [N, C, h, w] painted over one another in ``order``; 0 where none paints.

        Raises:
            TypeError, ValueError: views have another shape, or ``order`` is no list of different views.
        """
        self._check_views(views)
        return self._composite(views, self._checked_order(order))

    def neighbours(self, order: Sequence[int]) -> Neighbours:
        """Who reads whom when the views of ``order`` are worked one after the other; others read nobody.

        Raises:
            TypeError, ValueError: ``order`` is no list of different views.
        """
        order = self._checked_order(order)
        owner, cell, weight = self._beneath(order)
        sources: list[tuple[int, ...]] = [()] * self.num_views
        shifts: list[tuple[int, int, int] | None] = [(-1, 0, 0)] * self.num_views
        for i in order:
            sources[i] = tuple(j for j in owner[i].unique().tolist() if j >= 0)
            if sources[i]:
                shifts[i] = self._shift(i, sources[i], owner[i], cell[i])
        return Neighbours(sources, owner, cell, shifts, self.period, self.signs, weight)

    # ---- maps, of checked arguments ---------------------------------------------------------------------------------

    def _project(self, z: torch.Tensor) -> torch.Tensor:
        index = self._on(z.device).index[..., 0].long()
        signs = None if self.signs is None else self.signs.to(z.device)
        return ops.transform(z.expand(self.num_views, *z.shape[1:]), index, signs)

    def _adjoint(self, views: torch.Tensor) -> torch.Tensor:
        return ops.splat(self._upright(views), self._on(views.device))

    def _sums(self, views: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``sum P^T W x`` [1, C, H, W] and ``sum P^T W 1`` [1, 1, H, W]; weights [N or 1, 1, h, w]."""
        weights = weights.expand(self.num_views, -1, -1, -1)
        return ops.uv_accumulate(self._upright(views), weights, self._on(views.device))

    def _merge(self, views: torch.Tensor, weights: torch.Tensor | None, previous: torch.Tensor | None) -> torch.Tensor:
        if weights is None:
            weights = views.new_ones(1, 1, *self.view_shape)
        total, weight = self._sums(views, weights)
        kept = torch.zeros_like(total) if previous is None else previous
        return torch.where(weight > 0, total / weight.where(weight > 0, 1), kept)

    def _on(self, device: torch.device) -> ops.Taps:
        """The views' map as a table, on a device; made once, and moved there once."""
        if self._taps is None:
            index = torch.stack([self._cells(i) for i in range(self.num_views)])
            self._taps = ops.Taps(index.int()[..., None], torch.ones(*index.shape, 1), self.size)
        if self._taps.index.device != device:
            self._taps = self._taps.to(device)
        return self._taps

    def _upright(self, views: torch.Tensor) -> torch.Tensor:
        """Views with the canvas's sign."""
        return views if self.signs is None else views * self.signs.to(views).reshape(-1, 1, 1, 1)

    # ---- painting ---------------------------------------------------------------------------------------------------

    def _paint(
        self, order: Sequence[int], beneath: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lay the views down in ``order``: int64 [H W], which view each cell shows (-1: none) and which cell of it.

        ``beneath``, a pair of int64 [N, h, w], is filled with what each view was laid upon.
        """
        owner = torch.full((math.prod(self.size),), -1)
        cell, own = torch.zeros_like(owner), torch.arange(math.prod(self.view_shape))
        for i in order:
            at = self._cells(i)
            if beneath is not None:
                beneath[0][i], beneath[1][i] = owner[at], cell[at]
            owner[at.flatten()], cell[at.flatten()] = i, own
        return owner, cell

    def _composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        owner, cell = (table.to(views.device) for table in self._paint(order))
        read = self._upright(views).flatten(2)[owner.clamp_min(0), :, cell].T
        return torch.where(owner >= 0, read, torch.zeros_like(read)).reshape(1, views.shape[1], *self.size)

    def _beneath(self, order: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """``owner``, ``cell`` and ``weight`` of :class:`Neighbours`: what each view is painted upon."""
        owner = torch.full((self.num_views, *self.view_shape), -1)
        cell = torch.zeros_like(owner)
        self._paint(order, (owner, cell))
        return owner, cell, None

    def _shift(
        self, view: int, sources: tuple[int, ...], owner: torch.Tensor, cell: torch.Tensor
    ) -> tuple[int, int, int] | None:
        """The plain shift by which a view reads its sources, if the tables [h, w] are one."""
        return None

    # ---- checks -----------------------------------------------------------------------------------------------------

    def _cells(self, view: int) -> torch.Tensor:
        return checked_cells(f"cells({view})", self.cells(view), self.view_shape, self.size)

    def _check_views(self, views: Any) -> None:
        n, (h, w) = self.num_views, self.view_shape
        if not _is_batch(views) or (len(views), *views.shape[2:]) != (n, h, w):
            raise ValueError(f"views must be [{n}, C, {h}, {w}], got {_kind(views)}.")

    def _checked(self, views: Any, weights: Any, previous: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Weights [N or 1, 1, h, w] and previous [1, C, H, W], in the views' precision and place; all three checked."""
        self._check_views(views)
        if weights is not None:
            given = check_tensor("weights", weights)
            weights = given[None, None] if given.ndim == 2 else given
            each = (self.num_views, 1, *self.view_shape)
            if tuple(weights.shape) not in (each, (1, *each[1:])):
                raise ValueError(
                    f"weights must be {shape_text(self.view_shape)} for all views or {shape_text(each)}, got "
                    f"{shape_text(given.shape)}."
                )
            if bool((weights < 0).any()):
                raise ValueError(f"weights must be at least 0, got {float(weights.min()):g}.")
            weights = weights.to(views)
        if previous is not None:
            expected = (1, views.shape[1], *self.size)
            if not isinstance(previous, torch.Tensor) or tuple(previous.shape) != expected:
                raise ValueError(f"previous must be a canvas {shape_text(expected)}, got {_kind(previous)}.")
            previous = previous.to(views)
        return weights, previous

    def _checked_order(self, order: Any) -> list[int]:
        if isinstance(order, str) or not isinstance(order, Sequence):
            raise TypeError(f"order must be a list of views, got {shown(order)}: pass whole numbers.")
        views = [check_int("each view in order", i, minimum=0) for i in order]
        if len(set(views)) < len(views) or max(views, default=0) >= self.num_views:
            raise ValueError(
                f"order must name views 0 to {self.num_views - 1}, none of them twice, got {shown(order)}."
            )
        return views


def checked_cells(name: str, cells: Any, view_shape: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """A view's cells, int64 [h, w] from 0 to H W - 1; TypeError or ValueError that calls them ``name`` otherwise."""
    if not isinstance(cells, torch.Tensor) or cells.shape != view_shape or cells.dtype != torch.int64:
        raise TypeError(f"{name} must give int64 {shape_text(view_shape)}, got {_kind(cells)}.")
    count = math.prod(size)
    if int(cells.min()) < 0 or int(cells.max()) >= count:
        raise ValueError(
            f"{name} must show cells 0 to {count - 1}, and shows {int(cells.min())} to {int(cells.max())}."
        )
    return cells


def _is_batch(value: Any) -> bool:
    """Whether it is a floating-point tensor [B, C, H, W]."""
    return isinstance(value, torch.Tensor) and value.ndim == 4 and value.is_floating_point()


def _kind(value: Any) -> str:
    """What a message says was given: a tensor's shape, or a type's name."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return shape_text(value.shape) if value.is_floating_point() else f"{value.dtype} {shape_text(value.shape)}"
