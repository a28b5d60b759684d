"""360° panoramas: an equirectangular picture seen by perspective cameras."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from .. import ops
from ..errors import check_choice, check_int, check_number, check_pair, check_tensor, shape_text, shown
from .base import Neighbours, Whiteness

Camera = tuple[float, float, float]
UNSEEN = 1e-6  # weight up to which a cell counts as not seen: rounding
RADIUS = 6  # cells around a pixel's own one among which it looks for noise that no other pixel of its view has


def ring(count: int, elevation: float = 0.0, fov: float = 90.0, start: float = 0.0) -> list[Camera]:
    """Cameras ``(azimuth, elevation, fov)`` in degrees, ``count`` of them evenly around the horizon from ``start``."""
    return [(start + 360.0 * i / count, elevation, fov) for i in range(count)]


# Two sets of five, 72 degrees apart, the second between the first (StochSync, Yeo 2025).
CAMERAS = ring(5, fov=72.0) + ring(5, fov=72.0, start=36.0)
POLES = ring(4, elevation=55.0, fov=90.0) + ring(4, elevation=-55.0, fov=90.0)


class PanoramaCanvas:
    """An equirectangular picture of H x W cells and the views of perspective cameras in its middle.

    Column 0 is azimuth -180°, the middle 0°, azimuths grow to the right; row 0 is the zenith. Columns wrap around, and
    what lies beyond a pole is the other side's meridian: no place is special.

    Clean views are read with bilinear weights. Noise is read cell by cell, each pixel of a view its own one, so that it
    stays white; a view's noisy neighbours are read at the nearest pixel.

    Args:
        size: (H, W), in the prior's sample units; cells about as large as pixels, i.e. W about 360 / fov windows.
        cameras: (azimuth, elevation, horizontal field of view) in degrees, or None for two rings of five at the
            horizon (:data:`CAMERAS`); add :data:`POLES` for the zenith and the nadir.
        window: (h, w) of a view.

    Attributes:
        num_views, view_shape, size, window, cameras: as given, ``view_shape`` being the window.

    Raises:
        ValueError: a canvas too coarse for its views: cells must be smaller than pixels for noise to be white.
    """

    signs: torch.Tensor | None = None
    whiteness: Whiteness = "nearest"

    def __init__(
        self, size: tuple[int, int], cameras: Sequence[Camera] | None = None, window: tuple[int, int] = (64, 64)
    ) -> None:
        self.size, self.window = check_pair("size", size), check_pair("window", window)
        if not isinstance(cameras, (Sequence, type(None))) or isinstance(cameras, str) or cameras == []:
            raise TypeError(f"cameras must be a list of (azimuth, elevation, fov) in degrees, got {shown(cameras)}.")
        self.cameras = [self._camera(camera) for camera in (CAMERAS if cameras is None else cameras)]
        self.num_views, self.view_shape = len(self.cameras), self.window
        rays = torch.stack([self._rays(camera) for camera in self.cameras])
        index, weight = self._bilinear(rays)
        self._taps = ops.Taps(index.int(), weight.float(), self.size).sort()
        self._holes, self._hole_taps = self._between_pixels()
        self._own = torch.stack(
            [self._own_cells(view, camera) for view, camera in zip(rays, self.cameras, strict=True)]
        )

    @staticmethod
    def _camera(camera: Any) -> Camera:
        if isinstance(camera, str) or not isinstance(camera, Sequence) or len(camera) != 3:
            raise TypeError(f"a camera must be (azimuth, elevation, fov) in degrees, got {shown(camera)}.")
        azimuth = check_number("azimuth", camera[0])
        elevation = check_number("elevation", camera[1], minimum=-90.0, maximum=90.0)
        return azimuth, elevation, check_number("fov", camera[2], minimum=1.0, maximum=150.0)

    # ---- geometry: x to the right, y up, z forward -------------------------------------------------------------

    def _rays(self, camera: Camera) -> torch.Tensor:
        """Directions float64 [h, w, 3] of a camera's pixels."""
        (h, w), (azimuth, elevation, fov) = self.window, camera
        focal = w / 2 / math.tan(math.radians(fov) / 2)
        x = (torch.arange(w, dtype=torch.float64) + 0.5 - w / 2) / focal
        y = (h / 2 - torch.arange(h, dtype=torch.float64) - 0.5) / focal
        rays = torch.stack([x.expand(h, w), y[:, None].expand(h, w), torch.ones(h, w, dtype=torch.float64)], -1)
        return rays @ _turn(azimuth, elevation).T

    def _where(self, rays: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns (fractional, cell centres at whole numbers) that rays [..., 3] meet."""
        (height, width), length = self.size, rays.norm(dim=-1)
        latitude = torch.asin((rays[..., 1] / length).clamp(-1, 1))
        longitude = torch.atan2(rays[..., 0], rays[..., 2])
        row = (0.5 - latitude / math.pi) * height - 0.5
        return row, (longitude / (2 * math.pi) + 0.5) * width - 0.5

    def _flat(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Flat cells of whole rows and columns, which may lie beyond the borders."""
        height, width = self.size
        beyond = (row < 0) | (row >= height)
        row = torch.where(row < 0, -1 - row, torch.where(row >= height, 2 * height - 1 - row, row))
        return row * width + torch.where(beyond, column + width // 2, column) % width

    def _bilinear(self, rays: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        row, column = self._where(rays)
        top, left = row.floor(), column.floor()
        down, right = row - top, column - left
        index, weight = [], []
        for dy, part_y in ((0, 1 - down), (1, down)):
            for dx, part_x in ((0, 1 - right), (1, right)):
                index.append(self._flat(top.long() + dy, left.long() + dx))
                weight.append(part_y * part_x)
        return torch.stack(index, -1), torch.stack(weight, -1)

    def _own_cells(self, rays: torch.Tensor, camera: Camera) -> torch.Tensor:
        """For each pixel of a view a cell int64 [h, w] near it that no other pixel has."""
        row, column = (c.round().long().flatten() for c in self._where(rays))
        taken = torch.zeros(self.size[0] * self.size[1], dtype=torch.bool)
        found = torch.full((len(row),), -1)
        for _, dy, dx in sorted((y * y + x * x, y, x) for y in _NEAR for x in _NEAR):
            left = (found < 0).nonzero()[:, 0]
            if not len(left):
                return found.reshape(self.window)
            cell = self._flat((row[left] + dy).clamp(-self.size[0], 2 * self.size[0] - 1), column[left] + dx)
            first = torch.full_like(taken, len(row), dtype=torch.long).scatter_reduce(0, cell, left, "amin")
            won = (first[cell] == left) & ~taken[cell]
            found[left[won]] = cell[won]
            taken[cell[won]] = True
        raise ValueError(
            f"size {self.size} is too coarse for windows of {self.window} at camera {camera}, noise would not stay "
            "white: enlarge size, or take smaller windows or a wider field of view."
        )

    def _between_pixels(self) -> tuple[torch.Tensor, ops.Taps]:
        """Flat cells [M] that lie in a view's picture and no pixel reaches, and which pixels are around each.

        The table reads the views below one another, [1, C, N h, w]; each cell the view that has it nearest its middle.
        """
        (h, w), rays = self.window, self._cell_rays()
        nearest = torch.full(self.size, math.inf, dtype=torch.float64)
        row, column = (torch.zeros(self.size, dtype=torch.float64) for _ in range(2))
        view = torch.zeros(self.size, dtype=torch.long)
        for i in range(self.num_views):
            inside, y, x = self._seen_by(i, rays)
            away = torch.maximum((2 * y / max(1, h - 1) - 1).abs(), (2 * x / max(1, w - 1) - 1).abs())
            better = inside & (away < nearest)
            nearest, row, column = (torch.where(better, a, b) for a, b in ((away, nearest), (y, row), (x, column)))
            view[better] = i
        holes = ((self.coverage[0, 0] <= UNSEEN) & nearest.isfinite()).flatten().nonzero()[:, 0]
        row, column, view = (t.flatten()[holes] for t in (row, column, view))
        index, weight = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                y, x = (row.floor() + dy).clamp(max=h - 1), (column.floor() + dx).clamp(max=w - 1)
                index.append((view * h + y.long()) * w + x.long())
                weight.append((1 - (row - row.floor() - dy).abs()) * (1 - (column - column.floor() - dx).abs()))
        shape = (1, len(holes), 1, 4)
        tables = torch.stack(index, -1).int().reshape(shape), torch.stack(weight, -1).float().reshape(shape)
        return holes, ops.Taps(*tables, (self.num_views * h, w))

    # ---- maps ---------------------------------------------------------------------------------------------------

    @property
    def coverage(self) -> torch.Tensor:
        """[1, 1, H, W], how many views see each cell, a pixel's weight shared by the cells around it (float32)."""
        return ops.splat(torch.ones(self.num_views, 1, *self.window), self._on(torch.device("cpu")))

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """What the cameras see of a clean canvas [1, C, H, W], bilinear, [N, C, h, w]."""
        self._check_canvas(z)
        return ops.resample(z, self._on(z.device))

    def project_noise(self, z: torch.Tensor) -> torch.Tensor:
        """White noise [1, C, H, W] as views [N, C, h, w], white within each view and shared where views overlap."""
        self._check_canvas(z)
        self._own = self._own.to(z.device)
        return ops.transform(z.expand(self.num_views, *z.shape[1:]), self._own)

    def adjoint(self, views: torch.Tensor) -> torch.Tensor:
        """``sum_i P_i^T x^i`` of the bilinear maps: views [N, C, h, w] to canvas [1, C, H, W]."""
        self._check_views(views)
        return ops.splat(views, self._on(views.device))

    def merge(
        self,
        views: torch.Tensor,
        weights: torch.Tensor | None = None,
        previous: torch.Tensor | None = None,
        solver: Literal["splat", "cg"] = "splat",
        iterations: int = 30,
    ) -> torch.Tensor:
        """The canvas [1, C, H, W] of clean views [N, C, h, w].

        Args:
            weights: non-negative, [h, w] (the same for all views) or [N, 1, h, w]; all 1 if None.
            previous: [1, C, H, W], kept where no view looks (0 if None). Cells in a view's picture that fall between
                its pixels are interpolated from these.
            solver: ``"splat"``, ``sum P^T W x / sum P^T W 1``, fast; or ``"cg"``, the least squares itself, by
                conjugate gradients on ``sum P^T W P z = sum P^T W x``: what was projected comes back as it was.
            iterations: of ``"cg"``.
        """
        self._check_views(views)
        check_choice("solver", solver, ("splat", "cg"))
        weights = views.new_ones(self.window) if weights is None else check_tensor("weights", weights).to(views)
        if weights.shape == self.window:
            weights = weights.expand(self.num_views, 1, *self.window)
        if weights.shape != (self.num_views, 1, *self.window):
            raise ValueError(
                f"weights must be {shape_text(self.window)} or {shape_text((self.num_views, 1, *self.window))}, got "
                f"{shape_text(weights.shape)}."
            )
        taps = self._on(views.device)
        total, weight = ops.uv_accumulate(views, weights, taps)
        seen = weight > UNSEEN * weights.max()
        z = torch.where(seen, total / weight.where(seen, torch.ones_like(weight)), 0)
        if solver == "cg":
            z = self._least_squares(z, total, weights, weight.where(seen, torch.ones_like(weight)), seen, iterations)
        if previous is not None:
            z = torch.where(seen, z, previous)
        return self._fill(z, views)

    def _fill(self, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """The canvas with the cells between pixels filled in."""
        if self._holes.device != z.device:
            self._holes, self._hole_taps = self._holes.to(z.device), self._hole_taps.to(z.device)
        below = views.transpose(0, 1).reshape(1, views.shape[1], -1, self.window[1])
        between = ops.resample(below, self._hole_taps)[..., 0]
        return z.flatten(2).index_copy(2, self._holes, between).reshape(z.shape)

    def _least_squares(
        self,
        z: torch.Tensor,
        right: torch.Tensor,
        weights: torch.Tensor,
        diagonal: torch.Tensor,
        seen: torch.Tensor,
        iterations: int,
    ) -> torch.Tensor:
        """Conjugate gradients from z, preconditioned by the splat's weights, on the seen cells."""
        taps = self._on(z.device)

        def normal(z: torch.Tensor) -> torch.Tensor:
            return torch.where(seen, ops.splat(weights * ops.resample(z, taps), taps), 0)

        residual = torch.where(seen, right, 0) - normal(z)
        direction = step = residual / diagonal
        size = (residual * step).sum()
        for _ in range(check_int("iterations", iterations)):
            image = normal(direction)
            # Nothing is left to mend once the residual has vanished.
            along = size / (direction * image).sum().clamp_min(torch.finfo(z.dtype).tiny)
            z, residual = z + along * direction, residual - along * image
            step = residual / diagonal
            size, before = (residual * step).sum(), size
            direction = step + size / before.clamp_min(torch.finfo(z.dtype).tiny) * direction
        return z

    def composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """Canvas [1, C, H, W] with views [N, C, h, w] painted over one another in ``order``; 0 where none looks."""
        self._check_views(views)
        z = views.new_zeros(1, views.shape[1], *self.size)
        rays = self._cell_rays()
        for i in order:
            inside, y, x = self._seen_by(i, rays)
            h, w = self.window
            grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], -1).to(views)
            painted = torch.nn.functional.grid_sample(
                views[i : i + 1], grid[None], padding_mode="border", align_corners=False
            )
            z = torch.where(inside.to(views.device), painted, z)
        return z

    def neighbours(self, order: Sequence[int]) -> Neighbours:
        """For each view the latest earlier view at each of its pixels, at the nearest pixel."""
        owner = torch.full((self.num_views, *self.window), -1)
        cell = torch.zeros_like(owner)
        sources: list[tuple[int, ...]] = [()] * self.num_views
        for position, i in enumerate(order):
            rays = self._rays(self.cameras[i])
            for j in order[:position]:
                inside, y, x = self._seen_by(j, rays)
                owner[i][inside] = j
                cell[i][inside] = (y.round() * self.window[1] + x.round()).long()[inside]
            sources[i] = tuple(j for j in owner[i].unique().tolist() if j >= 0)
        shifts: list[tuple[int, int, int] | None] = [None if read else (-1, 0, 0) for read in sources]
        return Neighbours(sources, owner, cell, shifts)

    def _cell_rays(self) -> torch.Tensor:
        """Directions float64 [H, W, 3] of the canvas's cells."""
        height, width = self.size
        latitude = (0.5 - (torch.arange(height, dtype=torch.float64) + 0.5) / height) * math.pi
        longitude = ((torch.arange(width, dtype=torch.float64) + 0.5) / width - 0.5) * 2 * math.pi
        flat = latitude.cos()[:, None]
        up = latitude.sin()[:, None].expand(height, width)
        return torch.stack([flat * longitude.sin(), up, flat * longitude.cos()], -1)

    def _seen_by(self, view: int, rays: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where a view's picture holds rays [..., 3], and the fractional (y, x) of its pixels that they meet."""
        (h, w), (azimuth, elevation, fov) = self.window, self.cameras[view]
        x, y, z = (rays @ _turn(azimuth, elevation)).unbind(-1)
        focal, ahead = w / 2 / math.tan(math.radians(fov) / 2), z > 1e-6
        z = z.where(ahead, torch.ones_like(z))
        column, row = x / z * focal + w / 2 - 0.5, h / 2 - 0.5 - y / z * focal
        inside = ahead & (column > -0.5) & (column < w - 0.5) & (row > -0.5) & (row < h - 0.5)
        return inside, row.clamp(0, h - 1), column.clamp(0, w - 1)

    def _check_canvas(self, z: Any) -> None:
        if not isinstance(z, torch.Tensor) or z.ndim != 4 or z.shape[0] != 1 or tuple(z.shape[2:]) != self.size:
            got = shape_text(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
            raise ValueError(f"z must be a canvas [1, C, {self.size[0]}, {self.size[1]}], got {got}.")

    def _check_views(self, views: Any) -> None:
        right = isinstance(views, torch.Tensor) and views.ndim == 4
        if not right or (len(views), *views.shape[2:]) != (self.num_views, *self.window):
            got = shape_text(views.shape) if isinstance(views, torch.Tensor) else type(views).__name__
            raise ValueError(f"views must be [{self.num_views}, C, {self.window[0]}, {self.window[1]}], got {got}.")

    def _on(self, device: torch.device) -> ops.Taps:
        """The views' table on a device; moved there once."""
        if self._taps.index.device != device:
            self._taps = self._taps.to(device)
        return self._taps


_NEAR = range(-RADIUS, RADIUS + 1)


def _turn(azimuth: float, elevation: float) -> torch.Tensor:
    """Rotation float64 [3, 3] from a camera's axes to the world's."""
    a, e = math.radians(azimuth), math.radians(elevation)
    up = [[1, 0, 0], [0, math.cos(e), math.sin(e)], [0, -math.sin(e), math.cos(e)]]
    around = [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]]
    return torch.tensor(around, dtype=torch.float64) @ torch.tensor(up, dtype=torch.float64)
