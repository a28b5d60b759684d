"""Surroundings: a picture wrapped around a sphere, a cylinder or a torus, seen by perspective cameras."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from .. import ops
from ..errors import check_choice, check_pair, shown
from .base import Units
from .resampled import ResampledCanvas, covered
from .surfaces import SURFACES, Camera, Surface, focal

UNSEEN = 1e-6  # weight up to which a cell counts as not seen: rounding
RADIUS = 6  # cells around a pixel's own one among which it looks for noise that no other pixel of its view has


def ring(count: int, elevation: float = 0.0, fov: float = 90.0, start: float = 0.0) -> list[Camera]:
    """Cameras ``(azimuth, elevation, fov)`` in degrees, ``count`` of them evenly around the horizon from ``start``."""
    return [(start + 360.0 * i / count, elevation, fov) for i in range(count)]


# Two sets of five, 72 degrees apart, the second between the first (StochSync, Yeo 2025).
CAMERAS = ring(5, fov=72.0) + ring(5, fov=72.0, start=36.0)
POLES = ring(4, elevation=55.0, fov=90.0) + ring(4, elevation=-55.0, fov=90.0)
# A torus all over: five rings of five, 72 degrees apart both ways, 18 degrees in common.
TILES = [camera for elevation in (144.0, 72.0, 0.0, -72.0, -144.0) for camera in ring(5, elevation)]


class PanoramaCanvas(ResampledCanvas):
    """A picture of H x W cells around the viewer, and the views of perspective cameras in its middle.

    Column 0 is azimuth -180°, the middle 0°, azimuths grow to the right and wrap around. What rows are, the surface
    says:

    - ``"sphere"``: the equirectangular picture of all directions. Row 0 is the zenith, and what lies beyond a pole is
      the other side's meridian: no place is special.
    - ``"cylinder"``: a wall of height ``2 pi H / W`` and radius 1 around the viewer, whose cells are square, so that
      upright lines stay straight. Nothing is above and below it; cameras must not look there.
    - ``"torus"``: rows are angles like columns, 360° from top to bottom, and wrap around too: a seamless tile in
      perspective. Cameras are perspective in each direction on its own: azimuth + atan x, elevation + atan y.

    Clean views are read with bilinear weights. Noise is read cell by cell, each pixel of a view its own one, so that it
    stays white; a view's noisy neighbours are read at the nearest pixel.

    Args:
        size: (H, W); cells about as large as the views' own, i.e. W about 360 / fov windows.
        cameras: (azimuth, elevation, horizontal field of view) in degrees, elevations from -90 to 90, on a torus from
            -180 to 180. None: two rings of five at the horizon (:data:`CAMERAS`; add :data:`POLES` for a sphere's
            zenith and nadir), on a torus five rings of five (:data:`TILES`).
        window: (h, w) of a view.
        surface: ``"sphere"``, ``"cylinder"`` or ``"torus"``.
        units: of size and window, ``"cells"`` or ``"pixels"`` (:class:`fastsync.Canvas`).

    Attributes:
        num_views, view_shape, size, units, window, cameras, surface: as given, ``view_shape`` being the window.

    Raises:
        ValueError: a canvas too coarse for its views: cells must be smaller than pixels for noise to be white; or a
            camera that looks beyond a cylinder's top or bottom.
    """

    def __init__(
        self,
        size: tuple[int, int],
        cameras: Sequence[Camera] | None = None,
        window: tuple[int, int] = (64, 64),
        surface: Literal["sphere", "cylinder", "torus"] = "sphere",
        *,
        units: Units = "cells",
    ) -> None:
        self.size, self.window = check_pair("size", size), check_pair("window", window)
        self.surface: str = check_choice("surface", surface, SURFACES)
        if not isinstance(cameras, (Sequence, type(None))) or isinstance(cameras, str) or cameras == []:
            raise TypeError(f"cameras must be a list of (azimuth, elevation, fov) in degrees, got {shown(cameras)}.")
        self._surface = SURFACES[self.surface](self.size)
        if cameras is None:
            cameras = TILES if self.surface == "torus" else CAMERAS
        self.cameras = [self._surface.checked(camera, self.window) for camera in cameras]
        places = [self._surface.look(camera, self.window) for camera in self.cameras]
        row, column = (torch.stack(part) for part in zip(*places, strict=True))
        taps = _bilinear(self._surface, row, column).sort()
        own = [self._own_cells(*place, camera) for place, camera in zip(places, self.cameras, strict=True)]
        between = self._between_pixels(covered(taps))
        super().__init__(self.size, self.window, taps, torch.stack(own), *between, unseen=UNSEEN, units=units)

    # ---- tables -------------------------------------------------------------------------------------------------

    def _own_cells(self, row: torch.Tensor, column: torch.Tensor, camera: Camera) -> torch.Tensor:
        """For each pixel of a view a cell int64 [h, w] near its place that no other pixel has."""
        row, column = (place.round().long().flatten() for place in (row, column))
        taken = torch.zeros(self.size[0] * self.size[1], dtype=torch.bool)
        found = torch.full((len(row),), -1)
        for _, dy, dx in sorted((y * y + x * x, y, x) for y in _NEAR for x in _NEAR):
            left = (found < 0).nonzero()[:, 0]
            if not len(left):
                return found.reshape(self.window)
            cell = self._surface.flat(row[left] + dy, column[left] + dx)
            left, cell = left[cell >= 0], cell[cell >= 0]
            first = torch.full_like(taken, len(row), dtype=torch.long).scatter_reduce(0, cell, left, "amin")
            won = (first[cell] == left) & ~taken[cell]
            found[left[won]] = cell[won]
            taken[cell[won]] = True
        raise ValueError(
            f"size {self.size} is too coarse for windows of {self.window} at camera {camera}, noise would not stay "
            "white: enlarge size, or take smaller windows or a wider field of view."
        )

    def _between_pixels(self, coverage: torch.Tensor) -> tuple[torch.Tensor, ops.Taps]:
        """Flat cells [M] that lie in a view's picture and no pixel reaches, and which pixels are around each.

        Each cell reads the view that has it nearest its middle.
        """
        h, w = self.window
        nearest = torch.full(self.size, math.inf, dtype=torch.float64)
        row, column = (torch.zeros(self.size, dtype=torch.float64) for _ in range(2))
        view = torch.zeros(self.size, dtype=torch.long)
        for i, camera in enumerate(self.cameras):
            inside, y, x = self._surface.seen(camera, self.window)
            away = torch.maximum((2 * y / max(1, h - 1) - 1).abs(), (2 * x / max(1, w - 1) - 1).abs())
            better = inside & (away < nearest)
            nearest, row, column = (torch.where(better, a, b) for a, b in ((away, nearest), (y, row), (x, column)))
            view[better] = i
        holes = ((coverage[0, 0] <= UNSEEN) & nearest.isfinite()).flatten().nonzero()[:, 0]
        row, column, view = (t.flatten()[holes] for t in (row, column, view))
        index, weight = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                y, x = (row.floor() + dy).clamp(max=h - 1), (column.floor() + dx).clamp(max=w - 1)
                index.append((view * h + y.long()) * w + x.long())
                weight.append((1 - (row - row.floor() - dy).abs()) * (1 - (column - column.floor() - dx).abs()))
        shape = (1, len(holes), 1, 4)
        tables = torch.stack(index, -1).int().reshape(shape), torch.stack(weight, -1).float().reshape(shape)
        return holes, ops.Taps(*tables, (len(self.cameras) * h, w))

    # ---- maps ---------------------------------------------------------------------------------------------------

    def _composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """Every cell reads the last view that shows it, bilinear."""
        z = views.new_zeros(1, views.shape[1], *self.size)
        h, w = self.window
        for i in order:
            inside, y, x = self._surface.seen(self.cameras[i], self.window)
            grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], -1).to(views)
            painted = torch.nn.functional.grid_sample(
                views[i : i + 1], grid[None], padding_mode="border", align_corners=False
            )
            z = torch.where(inside.to(views.device), painted, z)
        return z

    def paint(self, pictures: torch.Tensor, size: tuple[int, int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What the cameras' pictures look like on the canvas, at any resolution.

        Every cell reads the pictures that show it where it lies in them; where several do, they fade into each other,
        each counting most in its middle.

        Args:
            pictures: [N, C, h', w'] in the views' proportions, e.g. decoded views.
            size: (H, W) of the result, the canvas's own if None.

        Returns:
            ``(picture [1, C, H, W], seen bool [H, W])``; 0 where no camera looks.
        """
        surface = self._surface if size is None else SURFACES[self.surface](check_pair("size", size))
        h, w = pictures.shape[-2:]
        total = pictures.new_zeros(1, pictures.shape[1], *surface.size)
        weights = pictures.new_zeros(surface.size)
        for camera, picture in zip(self.cameras, pictures, strict=True):
            inside, y, x = surface.seen(camera, (h, w))
            grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], -1).to(pictures)
            # A high power: as much as possible from one picture, since two that differ in detail make a blur.
            middle = (1 - grid.abs()).clamp_min(1e-3).prod(-1) ** 4
            weight = torch.where(inside.to(pictures.device), middle, 0)
            read = torch.nn.functional.grid_sample(
                picture[None], grid[None], mode="bicubic", padding_mode="border", align_corners=False
            )
            total, weights = total + weight * read, weights + weight
        return total / weights.where(weights > 0, 1), weights > 0

    def look(self, picture: torch.Tensor, window: tuple[int, int] | None = None) -> torch.Tensor:
        """What the cameras see of a picture of the same surface, at any resolution: the way back of :meth:`paint`.

        Args:
            picture: [1, C, H', W'].
            window: (h, w) of the result's views, in the views' proportions, the canvas's own if None.

        Returns:
            Views [N, C, h, w], bilinear.
        """
        surface = SURFACES[self.surface]((picture.shape[-2], picture.shape[-1]))
        size = self.window if window is None else check_pair("window", window)
        places = [surface.look(camera, size) for camera in self.cameras]
        row, column = (torch.stack(part) for part in zip(*places, strict=True))
        return ops.resample(picture, _bilinear(surface, row, column).to(picture.device))

    @staticmethod
    def rows_for(cameras: Sequence[Camera], window: tuple[int, int]) -> int:
        """How many rows H make the cells of a canvas H x 2 H about as small as the views' smallest pixels."""
        rows = 1
        for camera in cameras:
            length = focal(camera, window)
            edge = max(window) / 2 / length
            rows = max(rows, math.ceil(math.pi * length * (1 + edge**2)))
        return rows

    def _read(self, i: int, j: int) -> torch.Tensor:
        inside, y, x = self._surface.between(self.cameras[i], self.cameras[j], self.window)
        return torch.where(inside, (y.round() * self.window[1] + x.round()).long(), -1)


def _bilinear(surface: Surface, row: torch.Tensor, column: torch.Tensor) -> ops.Taps:
    """The four cells and weights around fractional places [N, h, w] of a surface."""
    top, left = row.floor(), column.floor()
    down, right = row - top, column - left
    index, weight = [], []
    for dy, part_y in ((0, 1 - down), (1, down)):
        for dx, part_x in ((0, 1 - right), (1, right)):
            index.append(surface.flat(top.long() + dy, left.long() + dx))
            weight.append(part_y * part_x)
    return ops.Taps(torch.stack(index, -1).int(), torch.stack(weight, -1).float(), surface.size)


_NEAR = range(-RADIUS, RADIUS + 1)
