"""Meshes as arrays, and how they are read from files."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import shown

FORMATS = ("obj", "glb", "gltf", "ply", "stl", "off")


def need(module: str) -> Any:
    """An optional module; ImportError in one sentence where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"meshes need the package {module.partition('.')[0]}, which does not import here ({error}): "
            "pip install 'fastsync[mesh]'."
        ) from error


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles, and where they lie in the texture. Cameras see it ``placed`` in the unit sphere.

    The arrays are copies of what was given, and cannot be written to. Corners have texture coordinates of their own, so
    that a seam needs no vertex twice.

    Attributes:
        vertices: float64 [V, 3], y up, in the user's units.
        faces: int64 [F, 3], whose corners run counter-clockwise seen from outside. Degenerate faces are legal; nobody
            sees them.
        uv: float64 [T, 2], u to the right and v upward in the texture, which is [0, 1] x [0, 1]; None: there are none.
        uv_faces: int64 [F, 3], which of ``uv`` each corner has; as ``faces`` if only ``uv`` is given.

    Raises:
        ValueError: no faces, indices beyond the vertices, numbers that are not finite, a mesh without area.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None = None
    uv_faces: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._set("vertices", _table("vertices", self.vertices, 3, np.float64))
        self._set("faces", _table("faces", self.faces, 3, np.int64))
        if self.uv is not None:
            self._set("uv", _table("uv", self.uv, 2, np.float64))
            uv_faces = self.faces if self.uv_faces is None else self.uv_faces
            self._set("uv_faces", _table("uv_faces", uv_faces, 3, np.int64))
        if not len(self.faces):
            raise ValueError("the mesh has no faces, so nothing to paint: give a surface, not points or lines.")
        _check_indices("faces", self.faces, "vertices", self.vertices)
        if self.uv is not None and self.uv_faces is not None:
            if len(self.uv_faces) != len(self.faces):
                raise ValueError(
                    f"uv_faces must have a row for each of the {len(self.faces)} faces, got {len(self.uv_faces)}."
                )
            _check_indices("uv_faces", self.uv_faces, "uv", self.uv)
        if not self.areas.max() > 0:
            raise ValueError(
                "all faces of the mesh are degenerate (their corners coincide or lie on a line), so it has no area: "
                "give a mesh with at least one real triangle."
            )

    def _set(self, name: str, value: np.ndarray) -> None:
        object.__setattr__(self, name, value)

    @cached_property
    def crosses(self) -> np.ndarray:
        """float64 [F, 3], the faces' normals, as long as their areas are large twice."""
        a, b, c = self.vertices[self.faces].swapaxes(0, 1)
        return np.cross(b - a, c - a)

    @cached_property
    def areas(self) -> np.ndarray:
        """float64 [F]."""
        return np.linalg.norm(self.crosses, axis=1) / 2

    @cached_property
    def uv_areas(self) -> np.ndarray:
        """float64 [F], shares of the texture; needs uv."""
        assert self.uv is not None and self.uv_faces is not None
        (ax, ay), (bx, by), (cx, cy) = self.uv[self.uv_faces].transpose(1, 2, 0)
        return np.abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2

    @cached_property
    def normals(self) -> np.ndarray:
        """float64 [F, 3], unit length; 0 for degenerate faces."""
        return self.crosses / np.maximum(2 * self.areas, np.finfo(np.float64).tiny)[:, None]

    @cached_property
    def middle(self) -> np.ndarray:
        """float64 [3], of the faces' bounding box."""
        used = self.vertices[self.faces].reshape(-1, 3)
        return (used.min(0) + used.max(0)) / 2

    @cached_property
    def radius(self) -> float:
        """Of the smallest sphere around the middle that holds all faces."""
        return float(np.linalg.norm(self.vertices[self.faces] - self.middle, axis=2).max())

    @cached_property
    def placed(self) -> np.ndarray:
        """float64 [V, 3], the vertices moved and scaled, middle and radius, into the unit sphere at the origin."""
        return (self.vertices - self.middle) / self.radius

    @cached_property
    def digest(self) -> str:
        """A name for the geometry, without the texture coordinates: the same for the same vertices and faces."""
        state = hashlib.sha256()
        for array in (self.vertices, self.faces):
            state.update(array.tobytes())
        return state.hexdigest()[:32]

    def with_uv(self, uv: np.ndarray, uv_faces: np.ndarray) -> Mesh:
        """The same geometry with other texture coordinates."""
        return replace(self, uv=uv, uv_faces=uv_faces)


def load(source: Any) -> Mesh:
    """A mesh from a file, a trimesh object or a :class:`Mesh`.

    Scenes become one mesh, each part at its place; faces of more than three corners become triangles. Vertices are
    neither merged nor reordered beyond what the file format asks for (OBJ: a vertex twice where it has two texture
    coordinates). Texture coordinates are kept if all parts have finite ones.

    Args:
        source: path of an OBJ, glTF (GLB), PLY, STL or OFF file, ``trimesh.Trimesh``, ``trimesh.Scene`` or ``Mesh``.

    Raises:
        FileNotFoundError, ValueError: no such file; a format that is not read, a broken file, or no surface in it.
        ImportError: without trimesh.
    """
    if isinstance(source, Mesh):
        return source
    prefix = f"{source}: " if isinstance(source, (str, Path)) else ""
    return _of_parts(parts_of(scene_of(source)), prefix)


def scene_of(source: Any) -> Any:
    """What :func:`load` takes as a ``trimesh.Scene``; errors as there."""
    if isinstance(source, (str, Path)):
        return _read(Path(source))
    trimesh = need("trimesh")
    if isinstance(source, trimesh.Scene):
        return source
    if isinstance(source, trimesh.Trimesh):
        return trimesh.Scene(source)
    raise TypeError(f"mesh must be a file's path, a trimesh object or a fastsync.geometry.Mesh, got {shown(source)}.")


def parts_of(scene: Any) -> list[Any]:
    """Copies of a scene's ``trimesh.Trimesh`` objects, each at its place, in the order in which `load` joins them.

    What has no faces is left out. ``metadata`` names the ``node`` and the geometry (``name``) of each; a geometry that
    stands at two nodes comes twice.
    """
    parts = []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        if len(getattr(scene.geometry[name], "faces", ())):
            part = scene.geometry[name].copy(include_cache=True)  # where trimesh keeps a file's normals
            part.apply_transform(transform)
            part.metadata.update(node=node, name=name)
            parts.append(part)
    return parts


def _read(path: Path) -> Any:
    """The file as a trimesh.Scene."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no mesh file {path}: check its name.")
    if path.suffix.lower()[1:] not in FORMATS:
        raise ValueError(
            f"{path}: meshes are read from {', '.join('.' + name for name in FORMATS)} files, got "
            f"{path.suffix or 'no ending'}: convert it."
        )
    trimesh = need("trimesh")
    try:
        # process would merge vertices, which changes the user's arrays.
        return trimesh.load_scene(path, process=False)
    except Exception as error:  # the readers raise whatever they stumble over
        raise ValueError(
            f"{path} cannot be read as a mesh ({type(error).__name__}: {shown(str(error))}): it is broken, or of "
            "another format than its ending says; export it anew."
        ) from error


def _of_parts(parts: list[Any], prefix: str) -> Mesh:
    """One mesh of what `parts_of` gives."""
    if not parts:
        raise ValueError(f"{prefix}there are no faces in it, so nothing to paint: give a surface, not points or lines.")
    first = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    faces = np.concatenate([np.asarray(part.faces) + start for part, start in zip(parts, first, strict=True)])
    uv = [getattr(part.visual, "uv", None) for part in parts]
    kept = all(
        u is not None and len(u) == len(part.vertices) and np.isfinite(u).all()
        for u, part in zip(uv, parts, strict=True)
    )
    try:
        vertices = np.concatenate([part.vertices for part in parts])
        return Mesh(vertices, faces, np.concatenate([np.asarray(u) for u in uv]) if kept else None)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error


def _table(name: str, value: Any, columns: int, dtype: type) -> np.ndarray:
    """A read-only copy [n, columns] in a dtype."""
    given = np.asarray(value)
    if given.ndim != 2 or given.shape[1] != columns:
        raise ValueError(f"{name} must be an array [n, {columns}], got {list(given.shape)}.")
    whole = dtype is np.int64
    if not np.issubdtype(given.dtype, np.integer if whole else np.number):
        raise TypeError(f"{name} must hold {'whole ' if whole else ''}numbers, got {given.dtype}.")
    table: np.ndarray = np.array(given, dtype=dtype, order="C")
    if not np.isfinite(table).all():
        raise ValueError(f"{name} has values that are NaN or infinite: repair the mesh.")
    table.flags.writeable = False
    return table


def _check_indices(name: str, indices: np.ndarray, of_name: str, of: np.ndarray) -> None:
    if indices.min() < 0 or indices.max() >= len(of):
        bad = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(f"{name} name row {bad} of {of_name}, which has {len(of)} rows: repair the mesh.")
