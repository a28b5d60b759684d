"""A mesh's texture, seen by cameras around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import ops
from ..errors import check_choice, check_number, check_pair, shown
from ..geometry import CAMERAS, Camera, Mesh, Sight, see, unwrap
from ..geometry.meshes import need
from ..geometry.sight import GRAZING, Rasterizer, normals, points
from ..geometry.texels import rasterize
from .base import UNITS, Units
from .resampled import ResampledCanvas, Solver, covered, stacked

DAMPING = 0.1  # of the least squares: what it takes that views which contradict each other leave no speckles
LARGEST = 4096  # side of a texture that is chosen here


class MeshCanvas(ResampledCanvas):
    """The texture of a mesh, H x W texels, and the views of cameras around the mesh.

    What each pixel sees is found once, by ray casting. From it follow tables, through which everything goes: a pixel
    reads the four texels around its place in the texture, with bilinear weights (``project``), and the views are put
    together by the tables' adjoint (``merge``), in which each pixel counts as much as it looks straight at the surface,
    ``cosine ** cosine_power`` (as in TEXTure, Richardson 2023, and SyncMVD, Liu 2024). Both are linear.

    Pixels beside the mesh (``foreground`` is False) read and paint nothing: ``project`` gives 0 there, and
    ``project_noise`` noise of their own.

    Views agree through the texels that they share. Texels much smaller than pixels are shared by nobody, much larger
    ones blur: for sampling leave ``texture_size`` None. A final texture may be as fine as one likes.

    Args:
        mesh: a file's path, a trimesh object or a :class:`fastsync.geometry.Mesh`. Without texture coordinates of its
            own that serve it is unwrapped (:func:`fastsync.geometry.unwrap`, which can also be asked beforehand).
        cameras: :class:`fastsync.geometry.Camera` objects, or tuples (azimuth, elevation[, distance[, fov]]), degrees;
            the mesh is thought to fill the unit sphere. None: :data:`fastsync.geometry.CAMERAS`, eight around it and
            two from above.
        texture_size: (H, W), or one number for both. None: square, texels about as large as the views' pixels.
        view_size: (h, w) of a view, or one number for both.
        rasterizer: ``"auto"``, ``"embree"`` or ``"nvdiffrast"`` (:func:`fastsync.geometry.see`).
        cosine_power: at least 0, how much slanted views count less; at 0 all count alike.
        progress: show progress bars while the tables are built.
        units: of the views, ``"cells"`` or ``"pixels"`` (:class:`fastsync.Canvas`).

    Attributes:
        num_views, view_shape, size, units, cameras: ``view_shape`` is (h, w), ``size`` (H, W).
        mesh: the mesh with the texture coordinates that are used.
        sight: the views' face, depth, normal and cosine maps (:class:`fastsync.geometry.Sight`).

    Raises:
        TypeError, ValueError, FileNotFoundError: what is no mesh; settings out of range; cameras that see nothing; a
            texture with fewer texels than a view has pixels, which has no noise for all of them.
        ImportError: without the packages of ``fastsync[mesh]``.
    """

    def __init__(
        self,
        mesh: Any,
        cameras: Sequence[Camera | tuple[float, ...]] | None = None,
        texture_size: int | tuple[int, int] | None = None,
        view_size: int | tuple[int, int] = (64, 64),
        rasterizer: Rasterizer = "auto",
        cosine_power: float = 4.0,
        progress: bool = False,
        *,
        units: Units = "cells",
    ) -> None:
        check_choice("units", units, UNITS)  # before anything takes long
        self.cameras = _cameras(CAMERAS if cameras is None else cameras)
        window = _sides("view_size", view_size)
        size = None if texture_size is None else _sides("texture_size", texture_size)
        cosine_power = check_number("cosine_power", cosine_power, minimum=0.0)
        self.mesh: Mesh = unwrap(mesh, progress=progress)
        self.sight: Sight = see(self.mesh, self.cameras, window, rasterizer, progress)
        self.size = fitting_size(self.sight) if size is None else size
        if math.prod(self.size) < math.prod(window):
            raise ValueError(
                f"texture_size {self.size} has fewer texels than a view of {window} has pixels, so they would not all "
                "have noise of their own: enlarge texture_size, or leave it None."
            )
        texels = rasterize(self.mesh, self.size)
        self._cell = torch.from_numpy(texels.cell)
        face = torch.from_numpy(texels.face)
        self._at = points(self.mesh, face, torch.from_numpy(texels.barycentric))
        self._normal = normals(self.mesh, face)
        taps = _bilinear(self.sight, self.size).sort()
        coverage = covered(taps).flatten()
        # What no pixel reaches, but a view shows, is read between that view's pixels.
        rows = (coverage[self._cell] <= 0).nonzero()[:, 0]
        found, index, weight = self._reading(rows, range(len(self.cameras)), straightest=True)
        holes = self._cell[rows[found]]
        self._seen = coverage > 0
        self._seen[holes] = True
        if not bool(self._seen[self._cell].any()):
            raise ValueError(
                f"texture_size {self.size} is too coarse for this mesh, no texel lies inside what the cameras see: "
                "enlarge it."
            )
        own = _own_cells(taps, self.sight.foreground, progress)
        hole_taps = self._stacked_taps(index[found], weight[found])
        super().__init__(self.size, window, taps, own, holes, hole_taps, damping=DAMPING, units=units)
        self._confidence = self.sight.cosine.clamp_min(GRAZING).pow(cosine_power)[:, None]
        self._pairs: dict[tuple[int, int], torch.Tensor] = {}

    @property
    def foreground(self) -> torch.Tensor:
        """bool [N, 1, h, w], where a view sees the mesh."""
        return self.sight.foreground[:, None]

    def bake(
        self, views: torch.Tensor, weights: torch.Tensor | None = None, solver: Solver = "cg", iterations: int = 10
    ) -> torch.Tensor:
        """The whole texture [1, C, H, W] of clean views: :meth:`merge`, and :meth:`fill` for what no view sees.

        Ten iterations settle the damped least squares.
        """
        return self.fill(self.merge(views, weights, solver=solver, iterations=iterations))

    def fill(self, z: torch.Tensor) -> torch.Tensor:
        """A texture [1, C, H, W] of which only what views see is painted, painted everywhere.

        The surface that no view sees takes the nearest seen point's colour, nearest in space: charts that lie beside
        each other in the texture may be far apart on the mesh. What is outside all charts takes the nearest chart's
        border, so that neither bilinear reading nor smaller copies of the texture pull the background in.
        """
        self._check_canvas(z)
        self._fill_from = self._fill_from.to(z.device)
        return ops.transform(z, self._fill_from)

    def _composite(self, views: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """A view paints what it sees, unless it looks along the surface (cosine up to 0.1); the rest is their merge."""
        weights = views.new_zeros(self.num_views, 1, *self.window)
        weights[list(order)] = 1.0
        z = self.merge(views, weights).flatten(2)
        found, index, weight = self._reading(torch.arange(len(self._cell)), order)
        taps = self._stacked_taps(index[found], weight[found]).to(views.device)
        z[:, :, self._cell[found].to(z.device)] = ops.resample(stacked(views), taps)[..., 0]
        # Texels beside a chart, which the pixels along its border read as well.
        beside = self._seen.clone()
        beside[self._cell] = False
        beside = beside.nonzero()[:, 0]
        z[:, :, beside.to(z.device)] = z[:, :, self._nearest_in_charts[beside].to(z.device)]
        return z.unflatten(2, self.size)

    def _weighted(self, weights: torch.Tensor) -> torch.Tensor:
        self._confidence = self._confidence.to(weights.device)
        return weights * self._confidence.to(weights.dtype)

    def _read(self, i: int, j: int) -> torch.Tensor:
        if (i, j) not in self._pairs:
            seen = self.sight.foreground[i]
            pixel = torch.full(self.window, -1)
            normal = normals(self.mesh, self.sight.face[i][seen])
            pixel[seen] = self.sight.nearest(j, self.sight.points[i][seen], normal)
            self._pairs[i, j] = pixel.int()
        return self._pairs[i, j].long()

    def _reading(
        self, rows: torch.Tensor, order: Sequence[int], straightest: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which chart texels [M] (``rows`` of them) some view shows, and where they read it.

        That is the last view of ``order`` that shows them, or the one that looks at them most straight.

        Returns:
            bool [M], and the pixels int64 [M, 4] of the stacked views with their weights float32 [M, 4].
        """
        owner, pixel, weight = self.sight.read(order, self._at[rows], self._normal[rows], straightest)
        return owner >= 0, pixel + owner[:, None] * math.prod(self.sight.size), weight

    def _stacked_taps(self, index: torch.Tensor, weight: torch.Tensor) -> ops.Taps:
        """A table [1, M, 1, 4] of the views below one another, from what :meth:`_reading` returns."""
        h, w = self.sight.size
        return ops.Taps(index.int()[None, :, None], weight[None, :, None], (len(self.cameras) * h, w))

    @cached_property
    def _nearest_in_charts(self) -> torch.Tensor:
        """int64 [H W], for each texel the nearest one inside a chart."""
        outside = np.ones(self.size, bool)
        outside.flat[self._cell.numpy()] = False
        ndimage = need("scipy.ndimage")
        row, column = ndimage.distance_transform_edt(outside, return_distances=False, return_indices=True)
        return torch.from_numpy(row.astype(np.int64) * self.size[1] + column).flatten()

    @cached_property
    def _fill_from(self) -> torch.Tensor:
        """int64 [1, H, W], the seen texel that each texel takes its colour from; seen ones keep theirs."""
        seen = self._seen[self._cell]
        tree = need("scipy.spatial").KDTree(self._at[seen].numpy())
        source = torch.arange(len(self._seen))
        nearest = torch.from_numpy(tree.query(self._at[~seen].numpy())[1])
        source[self._cell[~seen]] = self._cell[seen][nearest]
        outside = ~self._seen
        outside[self._cell] = False
        source[outside] = source[self._nearest_in_charts[outside]]
        return source.reshape(1, *self.size)


def fitting_size(sight: Sight) -> tuple[int, int]:
    """The square texture (H, W) whose texels are, in the middle, as large as the pixels that see them."""
    seen = sight.foreground
    face = sight.face[seen].long()
    area = np.maximum(sight.mesh.areas, np.finfo(np.float64).tiny) / sight.mesh.radius**2
    density = sight.mesh.uv_areas / area
    footprint = sight.footprint[seen].double() ** 2 / sight.cosine[seen].clamp_min(GRAZING)
    share = float((footprint * torch.from_numpy(density)[face]).median())
    least = math.ceil(math.sqrt(math.prod(sight.size)))
    side = min(LARGEST, max(least, round(share**-0.5))) if share > 0 else max(least, LARGEST)
    return side, side


def _bilinear(sight: Sight, size: tuple[int, int]) -> ops.Taps:
    """Each pixel's four texels and their weights; none for the background. Beyond the texture its border goes on."""
    assert sight.mesh.uv is not None and sight.mesh.uv_faces is not None
    height, width = size
    seen = sight.foreground
    corners = torch.from_numpy(sight.mesh.uv[sight.mesh.uv_faces])[sight.face[seen].long()]
    u, v = torch.einsum("mk,mkd->md", sight.barycentric[seen].double(), corners).unbind(-1)
    row, column = (1 - v) * height - 0.5, u * width - 0.5
    top, left = row.floor(), column.floor()
    around = torch.empty(len(row), 4, dtype=torch.int32)
    part = torch.empty(len(row), 4)
    for k, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        around[:, k] = (top + dy).clamp(0, height - 1) * width + (left + dx).clamp(0, width - 1)
        part[:, k] = (1 - (row - top - dy).abs()) * (1 - (column - left - dx).abs())
    index = torch.full((*seen.shape, 4), -1, dtype=torch.int32)
    weight = torch.zeros(*seen.shape, 4)
    index[seen], weight[seen] = around, part
    return ops.Taps(index, weight, size)


def _own_cells(taps: ops.Taps, foreground: torch.Tensor, progress: bool) -> torch.Tensor:
    """For each pixel of a view a cell int64 [N, h, w] that no other pixel of the view has.

    Pixels on the mesh take one of their four texels, the nearest that is left; the others, and the background's, any
    that the view does not use, mixed so that they have nothing to do with one another.
    """
    count, h, w = foreground.shape
    cells = taps.size[0] * taps.size[1]
    order = taps.weight.argsort(-1, descending=True)
    choices = taps.index.gather(-1, order).reshape(count, h * w, 4).numpy()
    mixed = np.random.default_rng(0).permutation(cells)
    own = np.full((count, h * w), -1)
    for i in tqdm(range(count), desc="Tables of the mesh", disable=not progress):
        taken = np.full(cells, -1, np.int32)
        left = np.flatnonzero(foreground[i].flatten().numpy())
        for k in range(4):
            wanted = choices[i, left, k]
            free = taken[wanted] < 0
            taken[wanted[free]] = left[free]  # where several want one cell, one of them has it
            won = taken[wanted] == left
            own[i, left[won]] = wanted[won]
            left = left[~won]
        left = np.flatnonzero(own[i] < 0)
        rest = np.roll(mixed, i * h * w)
        own[i, left] = rest[taken[rest] < 0][: len(left)]
    return torch.from_numpy(own).reshape(count, h, w)


def _cameras(value: Any) -> list[Camera]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise TypeError(f"cameras must be a list of fastsync.geometry.Camera objects, got {shown(value)}.")
    return [Camera.of(camera) for camera in value]


def _sides(name: str, value: Any) -> tuple[int, int]:
    return check_pair(name, (value, value) if isinstance(value, int) else value)
