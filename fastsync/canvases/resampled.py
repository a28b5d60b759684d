"""What canvases have in common whose views resample them: cells and pixels do not coincide."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .. import ops
from ..errors import check_choice, check_int
from .base import LinearCanvas, Units, Whiteness

Solver = Literal["splat", "cg"]


class ResampledCanvas(LinearCanvas):
    """A canvas of H x W cells that views (h, w) read through a table of taps.

    Clean views are read with the table's weights. Noise is read cell by cell, each pixel of a view its own one, so that
    it stays white; a view's noisy neighbours are read at the nearest pixel.

    Args:
        size: (H, W).
        window: (h, w) of a view.
        taps: the views' table; sorted, sums have the same bits in every run.
        own: int64 [N, h, w], each pixel's cell for noise, no cell twice in a view.
        holes, hole_taps: flat cells int64 [M] that no pixel reaches but views show between their pixels, and how they
            read the views, which lie below one another, [1, C, N h, w]: a table [1, M, 1, K].
        unseen: share of the largest weight up to which a cell counts as not seen.
        damping: of the least squares, how much a cell is held at its splat: as if a pixel of this weight (in units of
            the weights around it) showed the splat there. 0 is the least squares itself, which blows up in cells that
            pixels hardly touch wherever views contradict each other.
        units: ``"cells"`` or ``"pixels"`` (:class:`fastsync.Canvas`).
    """

    whiteness: Whiteness = "nearest"
    _taps: ops.Taps

    def __init__(
        self,
        size: tuple[int, int],
        window: tuple[int, int],
        taps: ops.Taps,
        own: torch.Tensor,
        holes: torch.Tensor,
        hole_taps: ops.Taps,
        unseen: float = 0.0,
        damping: float = 0.0,
        *,
        units: Units = "cells",
    ) -> None:
        super().__init__(size, window, len(own), units=units)
        self.window = self.view_shape
        self._taps, self._own, self._unseen, self._damping = taps, own, unseen, damping
        self._holes, self._hole_taps = holes, hole_taps
        self._means: dict[tuple[torch.device, torch.dtype], _Mean] = {}

    def cells(self, view: int) -> torch.Tensor:
        """For each pixel the flat cell whose noise it has, int64 [h, w]."""
        return self._own[view]

    def project_noise(self, z: torch.Tensor) -> torch.Tensor:
        """White noise [1, C, H, W] as views [N, C, h, w], white within each view and shared where views overlap."""
        self._check_canvas(z)
        self._own = self._own.to(z.device)
        return ops.transform(z.expand(self.num_views, *z.shape[1:]), self._own)

    def _project(self, z: torch.Tensor) -> torch.Tensor:
        return ops.resample(z, self._on(z.device))

    def merge(
        self,
        views: torch.Tensor,
        weights: torch.Tensor | None = None,
        previous: torch.Tensor | None = None,
        solver: Solver = "splat",
        iterations: int = 30,
    ) -> torch.Tensor:
        """The canvas [1, C, H, W] of clean views [N, C, h, w].

        Args:
            weights: non-negative, [h, w] (the same for all views) or [N, 1, h, w], multiplied with the canvas's own
                (all 1, unless it says otherwise).
            previous: [1, C, H, W], kept where no view looks (0 if None). Cells in a view's picture that fall between
                its pixels are interpolated from these.
            solver: ``"splat"``, ``sum P^T W x / sum P^T W 1``, fast; or ``"cg"``, the least squares itself, by
                conjugate gradients on ``sum P^T W P z = sum P^T W x``: what was projected comes back as it was (nearly,
                where the canvas damps it).
            iterations: of ``"cg"``.
        """
        weights, previous = self._checked(views, weights, previous)
        if check_choice("solver", solver, ("splat", "cg")) == "splat" and weights is None:
            return self._mean(views).merge(views, previous)
        weights = views.new_ones(1, 1, *self.window) if weights is None else weights
        weights = self._weighted(weights.expand(self.num_views, -1, -1, -1))
        total, weight = self._sums(views, weights)
        seen = weight > self._unseen * weights.max()
        z = torch.where(seen, total / weight.where(seen, torch.ones_like(weight)), 0)
        if solver == "cg":
            z = self._least_squares(z, total, weights, weight.where(seen, torch.ones_like(weight)), seen, iterations)
        if previous is not None:
            z = torch.where(seen, z, previous)
        return self._between(z, views, weights)

    def _mean(self, views: torch.Tensor) -> _Mean:
        """The normalised splat with the canvas's own weights, made once for each device and precision."""
        key = (views.device, torch.promote_types(views.dtype, torch.float32))
        if key not in self._means:
            weights = self._weighted(torch.ones(self.num_views, 1, *self.window, device=key[0], dtype=key[1]))
            taps = self._on(views.device)
            total = ops.splat(weights, taps)
            seen = total > self._unseen * weights.max()
            # Divided tap by tap: the reciprocal of a sum of tiny weights may overflow.
            divisor = torch.where(seen, total, torch.inf).flatten()[taps.index.clamp_min(0).long()]
            share = taps.weight * weights.permute(0, 2, 3, 1) / divisor
            scaled = replace(taps, weight=share, start=None, pixel=None, sorted_weight=None)
            part = self._hole_taps.weight[0, :, 0].to(*key) * weights.flatten()[self._hole_taps.index[0, :, 0].long()]
            there = part.sum(1) > 0
            self._means[key] = _Mean(
                # On a CPU sums have the same bits in every run as it is.
                scaled.sort() if taps.start is not None and key[0].type == "cuda" else scaled,
                seen,
                self._holes[there],
                self._hole_taps.index[0, there, 0].long(),
                part[there] / part[there].sum(1, keepdim=True),
            )
        return self._means[key]

    def _weighted(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights [N, 1, h, w] times the canvas's own."""
        return weights

    def _between(self, z: torch.Tensor, views: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The canvas with the cells between pixels filled in, where those have weight."""
        self._on(z.device)
        index, taps = self._hole_taps.index[0, :, 0].long(), self._hole_taps.weight[0, :, 0]
        # Confidence times a tap's weight is too small a number for half precision.
        part = taps.to(torch.promote_types(weights.dtype, torch.float32)) * weights.flatten()[index]
        total = part.sum(1)
        between = _gathered(views, index, part / total.where(total > 0, 1)[:, None])
        flat = z.flatten(2)
        between = torch.where(total > 0, between.to(z.dtype), flat[0, :, self._holes])
        return flat.index_copy(2, self._holes, between[None]).reshape(z.shape)

    def _least_squares(
        self,
        z: torch.Tensor,
        right: torch.Tensor,
        weights: torch.Tensor,
        diagonal: torch.Tensor,
        seen: torch.Tensor,
        iterations: int,
    ) -> torch.Tensor:
        """Conjugate gradients from the splat z, preconditioned by its weights, on the seen cells."""
        taps = self._on(z.device)
        held: torch.Tensor | float = 0.0
        if self._damping:
            held = self._damping * diagonal / ops.splat(torch.ones_like(weights), taps).clamp_min(1e-6)
            diagonal = diagonal + held

        def normal(z: torch.Tensor) -> torch.Tensor:
            return torch.where(seen, ops.splat(weights * ops.resample(z, taps), taps), 0)

        right = torch.where(seen, right, 0)
        residual = right - normal(z)  # at the splat nothing is held
        direction = step = residual / diagonal
        size, tiny = (residual * step).sum(), torch.finfo(z.dtype).tiny
        # A residual of rounding errors has parts that no canvas can mend (there are more cells than pixels), and going
        # after them leads anywhere: from there on z stays.
        rounding = (8 * torch.finfo(z.dtype).eps) ** 2 * (right * right / diagonal).sum()
        for _ in range(check_int("iterations", iterations)):
            image = normal(direction) + held * direction
            along = torch.where(size > rounding, size / (direction * image).sum().clamp_min(tiny), 0)
            z, residual = z + along * direction, residual - along * image
            step = residual / diagonal
            size, before = (residual * step).sum(), size
            direction = step + size / before.clamp_min(tiny) * direction
        return z

    def _beneath(self, order: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """For each view the latest earlier view at each of its pixels, at the nearest pixel."""
        owner = torch.full((self.num_views, *self.window), -1)
        cell = torch.zeros_like(owner)
        for position, i in enumerate(order):
            for j in order[:position]:
                pixel = self._read(i, j)
                owner[i][pixel >= 0] = j
                cell[i] = torch.where(pixel >= 0, pixel, cell[i])
        return owner, cell, None

    @abstractmethod
    def _read(self, i: int, j: int) -> torch.Tensor:
        """The flat pixel of view j nearest to what each pixel of view i shows, int [h, w]; -1 where j shows it not."""

    def _on(self, device: torch.device) -> ops.Taps:
        """The views' table on a device; moved there once, with that of the cells between pixels."""
        if self._taps.index.device != device:
            self._holes, self._hole_taps = self._holes.to(device), self._hole_taps.to(device)
        return super()._on(device)


@dataclass(frozen=True, eq=False)
class _Mean:
    """The normalised splat as one linear map: the table's weights divided by what they sum to in each cell.

    Attributes:
        taps: that table.
        seen: bool [1, 1, H, W], the cells that pixels reach.
        holes: int64 [M], flat cells between pixels.
        index, weight: [M, K], the flat pixels of the stacked views that those take, int64, and their shares.
    """

    taps: ops.Taps
    seen: torch.Tensor
    holes: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor

    def merge(self, views: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
        """The canvas [1, C, H, W] of views [N, C, h, w]; unseen cells are ``previous``, or 0."""
        z = ops.splat(views, self.taps)
        if previous is not None:
            z = torch.where(self.seen, z, previous)
        between = _gathered(views, self.index, self.weight).to(z.dtype)
        z.view(1, z.shape[1], -1)[0].index_copy_(1, self.holes, between)  # z is ours
        return z


def _gathered(views: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``sum_k weight[m, k] views[index[m, k]]`` [C, M] of flat pixels of the stacked views [N, C, h, w].

    Few pixels are read here: gathering them costs less than a table's pass over all views.
    """
    pixels = views.shape[2] * views.shape[3]
    colours = views.flatten(2).transpose(1, 2)[index // pixels, index % pixels]
    return (weight[..., None] * colours).sum(1).T


def covered(taps: ops.Taps) -> torch.Tensor:
    """[1, 1, H, W], the sum of each cell's weights in a table (float32)."""
    n, h, w, _ = taps.index.shape
    return ops.splat(torch.ones(n, 1, h, w, device=taps.index.device), taps)


def stacked(views: torch.Tensor) -> torch.Tensor:
    """Views [N, C, h, w] below one another, [1, C, N h, w], where tables of several views read them."""
    return views.transpose(0, 1).reshape(1, views.shape[1], -1, views.shape[3])
