"""Which point of a mesh each pixel of each view sees, by ray casting or rasterisation, once a mesh."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from ..errors import check_choice
from .cameras import Camera
from .meshes import Mesh, need

Rasterizer = Literal["auto", "embree", "nvdiffrast"]
Hits = tuple[torch.Tensor, torch.Tensor]

GRAZING = 0.1  # cosine below which a view does not answer for what it sees


@dataclass(frozen=True, eq=False)
class Sight:
    """What N views (h, w) of a mesh see. All maps are on the CPU; lengths are those of the unit sphere.

    Attributes:
        mesh, cameras, size: whose views, (h, w).
        face: int32 [N, h, w], -1 for the background.
        barycentric: float32 [N, h, w, 3], how much of each corner of the face; 0 in the background.
        depth: float32 [N, h, w], along the camera's axis; infinite in the background.
        normal: float32 [N, h, w, 3], the face's, unit length, turned to the camera's side; 0 in the background.
        cosine: float32 [N, h, w], of the angle between normal and ray, 0 to 1; 0 in the background. Surfaces are seen
            from both sides.
        footprint: float32 [N, h, w], side of the square that a pixel covers where it looks straight at the surface; 0
            in the background.
    """

    mesh: Mesh
    cameras: Sequence[Camera]
    size: tuple[int, int]
    face: torch.Tensor
    barycentric: torch.Tensor
    depth: torch.Tensor
    normal: torch.Tensor
    cosine: torch.Tensor
    footprint: torch.Tensor
    _reach: torch.Tensor

    @classmethod
    def of_hits(cls, mesh: Mesh, cameras: Sequence[Camera], size: tuple[int, int], hits: Sequence[Hits]) -> Sight:
        """From each view's faces int32 [h, w] and barycentrics float32 [h, w, 3]."""
        maps = [_maps(mesh, camera, size, *hit) for camera, hit in zip(cameras, hits, strict=True)]
        return cls(mesh, list(cameras), size, *(torch.stack(part) for part in zip(*maps, strict=True)))

    @property
    def foreground(self) -> torch.Tensor:
        """bool [N, h, w], where a view sees the mesh."""
        return self.face >= 0

    @cached_property
    def points(self) -> torch.Tensor:
        """float32 [N, h, w, 3], where the surface is that the pixels see; 0 in the background."""
        return points(self.mesh, self.face, self.barycentric)

    def beside_edges(self, pixels: int) -> torch.Tensor:
        """bool [N, h, w], where a view sees the mesh within so many pixels of something else: the background, or a
        part of the mesh before it or behind it. A decoder of latents mixes their colours."""
        depth = torch.nn.functional.pad(self.depth, (1, 1, 1, 1), mode="replicate")
        h, w = self.size
        edge = torch.zeros_like(self.foreground)
        for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
            step = (depth[:, dy : dy + h, dx : dx + w] - self.depth).abs()
            edge |= ~(step < self._reach.abs())
        reach = torch.nn.functional.max_pool2d(edge.float(), 2 * pixels - 1, 1, pixels - 1) > 0
        return reach & self.foreground

    def nearest(self, view: int, at: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """The flat pixel, int64 [M], at which a view sees each surface point; -1 where it is hidden or out of sight.

        Args:
            at, normals: float32 [M, 3], points and the unit normals of their faces.
        """
        row, column, depth, side = self._place(view, at, normals)
        pixel, inside = self._pixel(row.round(), column.round())
        return torch.where(inside & self._shows(view, pixel, depth, side), pixel, -1)

    def around(self, view: int, at: torch.Tensor, normals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The four flat pixels, int64 [M, 4], around each surface point, and their bilinear weights, float32 [M, 4].

        Pixels that see something else have no weight. The others' weights sum to 1, or to 0 where the nearest pixel is
        not among them.
        """
        row, column, depth, side = self._place(view, at, normals)
        pixel, inside = self._pixel(row.round(), column.round())
        seen = inside & self._shows(view, pixel, depth, side)
        top, left = row.floor(), column.floor()
        index = torch.empty(len(at), 4, dtype=torch.int64)
        weight = torch.empty(len(at), 4)
        for k, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            pixel, inside = self._pixel(top + dy, left + dx)
            shows = seen & inside & self._shows(view, pixel, depth, side)
            part = (1 - (row - top - dy).abs()) * (1 - (column - left - dx).abs())
            index[:, k], weight[:, k] = pixel, torch.where(shows, part, 0)
        total = weight.sum(1, keepdim=True)
        return index, weight / total.where(total > 0, 1)

    def read(
        self,
        views: Sequence[int],
        at: torch.Tensor,
        normals: torch.Tensor,
        straightest: bool = False,
        clear: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where surface points [M, 3] are shown: by the last of the views that shows them, or the straightest looking.

        Args:
            clear: bool [N, h, w], pixels that may be read; all if None.

        Returns:
            the view, int64 [M], -1 where none shows the point; its four flat pixels, int64 [M, 4], and their weights,
            float32 [M, 4].
        """
        owner = torch.full((len(at),), -1)
        pixel, weight = torch.zeros(len(at), 4, dtype=torch.int64), torch.zeros(len(at), 4)
        best = torch.zeros(len(at))
        for view in views:
            around, part = self.around(view, at, normals)
            chosen = part.sum(1) > 0
            if clear is not None:
                chosen &= (clear[view].flatten()[around] | (part == 0)).all(1)
            if straightest:
                cosine = (self.cameras[view].towards(at) * normals).sum(-1).abs()
                chosen &= cosine > best
                best = torch.where(chosen, cosine, best)
            owner[chosen], pixel[chosen], weight[chosen] = view, around[chosen], part[chosen]
        return owner, pixel, weight

    def _place(self, view: int, at: torch.Tensor, normals: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows, columns, depths, and on which side of the points' faces the camera is (1, -1; 0: it is too steep)."""
        camera = self.cameras[view]
        cosine = (camera.towards(at) * normals).sum(-1)
        return *camera.look(at, self.size), cosine.sign().where(cosine.abs() > GRAZING, 0)

    def _pixel(self, row: torch.Tensor, column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat pixels int64 of whole rows and columns, and whether they are in the picture (0 where not)."""
        h, w = self.size
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        return torch.where(inside, row * w + column, 0).long(), inside

    def _shows(self, view: int, pixel: torch.Tensor, depth: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        """Whether pixels see the surface on which points at these depths lie, and not one before it or behind it."""
        return (self.depth[view].flatten()[pixel] - depth).abs() < self._reach[view].flatten()[pixel] * side


def see(
    mesh: Mesh,
    cameras: Sequence[Camera],
    size: tuple[int, int],
    rasterizer: Rasterizer = "auto",
    progress: bool = False,
) -> Sight:
    """What cameras see of a mesh, in views (h, w).

    Args:
        rasterizer: ``"embree"``, ray casting on the CPU; ``"nvdiffrast"``, on a CUDA device, where the user has
            installed it; ``"auto"``: nvdiffrast where it is there, embree elsewhere. They differ in pixels on edges.
        progress: show a progress bar, one tick a view.

    Raises:
        ImportError: the rasterizer's package is not there.
        ValueError: no camera sees any of it.
    """
    hits = list(cast(mesh, tqdm(cameras, desc="Views of the mesh", disable=not progress), size, rasterizer))
    if not any(bool((face >= 0).any()) for face, _ in hits):
        raise ValueError("no camera sees any of the mesh: choose other azimuths and elevations, or larger views.")
    return Sight.of_hits(mesh, cameras, size, hits)


def cast(
    mesh: Mesh, cameras: Iterable[Camera], size: tuple[int, int], rasterizer: Rasterizer = "auto"
) -> Iterator[Hits]:
    """One view after the other: its faces int32 [h, w], -1 beside the mesh, and barycentrics float32 [h, w, 3]."""
    if check_choice("rasterizer", rasterizer, ("auto", "embree", "nvdiffrast")) == "auto":
        rasterizer = "embree" if _nvdiffrast_missing() else "nvdiffrast"
    caster = _Embree(mesh) if rasterizer == "embree" else _Nvdiffrast(mesh)
    return (caster.cast(camera, size) for camera in cameras)


def points(mesh: Mesh, face: torch.Tensor, barycentric: torch.Tensor) -> torch.Tensor:
    """float32 [..., 3], points in the unit sphere, of faces int32 [...] and barycentrics float32 [..., 3]."""
    corners = torch.from_numpy(mesh.placed[mesh.faces].astype(np.float32))[face.clamp_min(0).long()]
    return torch.einsum("...k,...kd->...d", barycentric, corners)


def normals(mesh: Mesh, face: torch.Tensor) -> torch.Tensor:
    """float32 [..., 3], unit normals of faces int32 [...]; anything for faces below 0."""
    return torch.from_numpy(mesh.normals.astype(np.float32))[face.clamp_min(0).long()]


def _maps(
    mesh: Mesh, camera: Camera, size: tuple[int, int], face: torch.Tensor, barycentric: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """One view's maps of :class:`Sight`, in its order."""
    seen = face >= 0
    at, normal = points(mesh, face, barycentric), normals(mesh, face)
    depth = camera.look(at, size)[2].where(seen, torch.inf)
    cosine = (camera.towards(at) * normal).sum(-1).where(seen, 0)
    side = cosine.sign()
    cosine = cosine.abs().clamp(max=1)
    # By how much depths may differ on one surface from a pixel's centre to its neighbour's, where the surface leans as
    # it does here and is a little rough. Signed by the side of the face: the other one of a thin wall is not this one.
    footprint = (depth * 0 + camera.distance if camera.orthographic else depth).where(seen, 0) / camera.focal(size)
    lean = (1 - cosine**2).sqrt() / cosine.clamp_min(GRAZING)
    reach = side * 2 * footprint * (0.5 + lean)
    return face, barycentric, depth, normal * (side * seen)[..., None], cosine, footprint, reach


class _Embree:
    """Ray casting on the CPU."""

    def __init__(self, mesh: Mesh) -> None:
        scenes, construction = need("embreex.rtcore_scene"), need("embreex.mesh_construction")
        self._scene = scenes.EmbreeScene(robust=True)
        construction.TriangleMesh(self._scene, mesh.placed.astype(np.float32), mesh.faces.astype(np.int32))

    def cast(self, camera: Camera, size: tuple[int, int]) -> Hits:
        """Faces int32 [h, w] and barycentrics float32 [h, w, 3]."""
        start, direction = (part.reshape(-1, 3).float().numpy() for part in camera.rays(size))
        hit = self._scene.run(start, direction, output=True)
        # Where nothing was hit primID is -1, and the rest means nothing.
        face = torch.from_numpy(hit["primID"].astype(np.int32))
        u, v = (torch.from_numpy(hit[name]).where(face >= 0, 0) for name in ("u", "v"))
        barycentric = torch.stack([1 - u - v, u, v], -1).where((face >= 0)[:, None], 0)
        return face.reshape(size), barycentric.reshape(*size, 3)


class _Nvdiffrast:
    """Rasterisation on a CUDA device by nvdiffrast, which is not on the package index: users install it themselves."""

    def __init__(self, mesh: Mesh) -> None:
        missing = _nvdiffrast_missing()
        if missing:
            raise ImportError(f"rasterizer='nvdiffrast' is not possible here, {missing}: use rasterizer='embree'.")
        self._dr: Any = importlib.import_module("nvdiffrast.torch")
        self._context = self._dr.RasterizeCudaContext()
        self._vertices = torch.from_numpy(mesh.placed)
        self._faces = torch.tensor(mesh.faces, dtype=torch.int32, device="cuda")

    def cast(self, camera: Camera, size: tuple[int, int]) -> Hits:
        """Faces int32 [h, w] and barycentrics float32 [h, w, 3]."""
        # Its pictures have sides of multiples of 8: ours is the first rows and columns of such a one.
        full = [-(-side // 8) * 8 for side in size]
        row, column, depth = camera.look(self._vertices, size)
        near, far = 0.999 * (camera.distance - 1), camera.distance + 1.001
        clip = [2 * (column + 0.5) / full[1] - 1, 2 * (row + 0.5) / full[0] - 1]
        if camera.orthographic:
            clip += [(2 * depth - near - far) / (far - near), torch.ones_like(depth)]
        else:
            clip = [*(c * depth for c in clip), ((far + near) * depth - 2 * far * near) / (far - near), depth]
        found, _ = self._dr.rasterize(self._context, torch.stack(clip, -1)[None].float().cuda(), self._faces, full)
        found = found[0, : size[0], : size[1]].cpu()
        face = found[..., 3].int() - 1
        u, v = found[..., 0], found[..., 1]  # of the first two corners
        barycentric = torch.stack([u, v, 1 - u - v], -1).where((face >= 0)[..., None], 0)
        return face, barycentric


def _nvdiffrast_missing() -> str:
    """Why nvdiffrast cannot be used here; empty where it can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        importlib.import_module("nvdiffrast.torch")
    except ImportError as error:
        return f"nvdiffrast does not import ({error})"
    return ""
