"""A mesh's texture coordinates as a raster: which point of the surface each texel shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .meshes import Mesh

CHUNK = 1 << 22  # texels that are worked on at a time, which bounds the memory


@dataclass(frozen=True, eq=False)
class Texels:
    """The texels whose centres lie in a face, one row each.

    Attributes:
        cell: int64 [M], flat texels, ascending. Row 0 of a texture is its top, v = 1.
        face: int32 [M].
        barycentric: float32 [M, 3].
    """

    cell: np.ndarray
    face: np.ndarray
    barycentric: np.ndarray


def places(mesh: Mesh, size: tuple[int, int]) -> np.ndarray:
    """float64 [F, 3, 2], the fractional (row, column) of the corners in a texture (H, W); centres are whole numbers."""
    assert mesh.uv is not None and mesh.uv_faces is not None
    u, v = mesh.uv[mesh.uv_faces].transpose(2, 0, 1)
    return np.stack([(1 - v) * size[0] - 0.5, u * size[1] - 0.5], -1)


def rasterize(mesh: Mesh, size: tuple[int, int]) -> Texels:
    """The texels (H, W) of a mesh's charts; where faces overlap, the last face's."""
    face_of = np.full(size[0] * size[1], -1, np.int32)
    barycentric_of = np.zeros((size[0] * size[1], 3), np.float32)
    for cell, face, barycentric in _inside(places(mesh, size), size):
        face_of[cell], barycentric_of[cell] = face, barycentric
    cell = np.flatnonzero(face_of >= 0)
    return Texels(cell, face_of[cell], barycentric_of[cell])


def overlap(mesh: Mesh, size: tuple[int, int]) -> float:
    """Share of the used texels (H, W) that lie inside two faces or more; common edges do not count."""
    count = np.zeros(size[0] * size[1], np.int64)
    for cell, _, barycentric in _inside(places(mesh, size), size):
        count += np.bincount(cell[barycentric.min(1) > 1e-3], minlength=len(count))
    return float((count > 1).sum() / max(1, (count > 0).sum()))


def _inside(corners: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Flat texels int64 [m], faces int64 [m] and barycentrics float64 [m, 3] of all pairs of a face and a texel in it.

    A face is cut into its rows and a row into its texels, so large faces and slivers cost what they cover.
    """
    height, width = size
    row = corners[..., 0]
    first = np.clip(np.ceil(row.min(1)), 0, height).astype(np.int64)
    last = np.clip(np.floor(row.max(1)), -1, height - 1).astype(np.int64)
    faces, rows = _runs(first, last)
    for part in range(0, len(faces), CHUNK):
        face, y = faces[part : part + CHUNK], rows[part : part + CHUNK]
        left, right = _crossings(corners[face], y)
        start = np.clip(np.ceil(left), 0, width).astype(np.int64)
        stop = np.clip(np.floor(right), -1, width - 1).astype(np.int64)
        total = np.maximum(stop - start + 1, 0).cumsum()
        # Whole rows, as many as hold about CHUNK texels.
        ends = np.unique(np.searchsorted(total, np.arange(CHUNK, total[-1] + CHUNK, CHUNK)) + 1)
        begin = 0
        for end in np.minimum(ends, len(face)).tolist():
            line, x = _runs(start[begin:end], stop[begin:end])
            line += begin
            barycentric = _barycentric(corners[face[line]], y[line], x)
            yield y[line] * width + x, face[line], barycentric
            begin = end


def _runs(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All whole numbers from each ``first`` to its ``last``: which pair each is of, and the number, int64 [m] each."""
    count = np.maximum(last - first + 1, 0)
    owner = np.repeat(np.arange(len(count)), count)
    before = np.repeat(count.cumsum() - count, count)
    return owner, first[owner] + np.arange(len(owner)) - before


def _crossings(corners: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns [m] at which row y enters and leaves triangles [m, 3, 2]."""
    left, right = np.full(len(y), np.inf), np.full(len(y), -np.inf)
    for k in range(3):
        (y0, x0), (y1, x1) = corners[:, k].T, corners[:, (k + 1) % 3].T
        rise = np.where(y1 == y0, 1.0, y1 - y0)
        part = (y - y0) / rise
        meets = (y1 != y0) & (part >= 0) & (part <= 1)
        x = x0 + part * (x1 - x0)
        left, right = np.where(meets, np.minimum(left, x), left), np.where(meets, np.maximum(right, x), right)
    # A row that meets no edge (rounding) has no texel.
    empty = left > right
    return np.where(empty, 0.0, left), np.where(empty, -1.0, right)


def _barycentric(corners: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """float64 [m, 3] of points in triangles [m, 3, 2]; sums to 1, not negative."""
    (ay, ax), (by, bx), (cy, cx) = corners.transpose(1, 2, 0)
    area = (by - ay) * (cx - ax) - (bx - ax) * (cy - ay)
    area = np.where(area == 0, 1.0, area)
    b = np.clip(((y - ay) * (cx - ax) - (x - ax) * (cy - ay)) / area, 0, 1)
    c = np.clip(((by - ay) * (x - ax) - (bx - ax) * (y - ay)) / area, 0, 1 - b)
    return np.stack([1 - b - c, b, c], -1)
