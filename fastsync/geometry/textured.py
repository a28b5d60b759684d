"""A mesh with the texture that was painted for it, and the files that carry both."""

from __future__ import annotations

import io
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import shown
from ..files import check_writable, replacing
from . import gltf, wavefront
from .meshes import Mesh, load, need, parts_of, scene_of

SUFFIXES = (".glb", ".obj", ".png")


def check_mesh_path(path: str | Path) -> None:
    """Raises `ValueError` for a suffix that is not of `SUFFIXES`, `OSError` where a file of it cannot be written."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path} ends in {path.suffix or 'no suffix'!r}; a textured mesh needs one of {', '.join(SUFFIXES)}."
        )
    for file in _files(path):
        check_writable(file)


@dataclass(frozen=True, eq=False)
class TexturedMesh:
    """What the user gave, and the texture that was painted on it.

    Files show the user's mesh as it was, but for the base colour, which is the texture:

    - ``.glb``: nodes, transforms, names, vertices, faces, normals, animations, lines and points stay; a glTF source's
      arrays byte for byte, others' rounded to glTF's float32. Materials keep their other maps where the mesh's own
      texture coordinates were used. Where it got new ones, vertices on seams come twice: the copies are at the end, so
      the rows before them are the source's, and faces keep their number, order and corners' places. Maps that read the
      old coordinates are left out then, and a warning says so. Vertex colours would tint the texture: they are kept as
      the attribute ``_COLOR_0``.
    - ``.obj``, with an ``.mtl`` and a ``.png`` of the same name beside it: an OBJ source whose own texture coordinates
      were used keeps all of its lines but those that name the MTL file; others are written as
      :func:`fastsync.geometry.load` has them, each part at its place, in exact decimals.
    - ``.png``: the texture alone, marked as sRGB.

    Attributes:
        source: what :func:`fastsync.geometry.load` takes.
        mesh: ``source`` with the texture coordinates that were used, of :func:`fastsync.geometry.unwrap`.
        texture: sRGB, row 0 the top (v = 1); turned into RGB.

    Raises:
        TypeError, ValueError: what is no mesh or no picture; a mesh without texture coordinates.
    """

    source: Any
    mesh: Mesh
    texture: Image.Image

    def __post_init__(self) -> None:
        if not isinstance(self.mesh, Mesh):
            raise TypeError(f"mesh must be a fastsync.geometry.Mesh, got {shown(self.mesh)}: make it with unwrap.")
        if self.mesh.uv is None:
            raise ValueError("the mesh has no texture coordinates, so a texture has no place on it: unwrap it first.")
        if not isinstance(self.texture, Image.Image):
            raise TypeError(f"texture must be a PIL image, got {shown(self.texture)}: convert it with Image.fromarray.")
        object.__setattr__(self, "texture", self.texture.convert("RGB"))

    @cached_property
    def png(self) -> bytes:
        """The texture as a PNG file, marked as sRGB."""
        info, file = PngInfo(), io.BytesIO()
        info.add(b"sRGB", b"\0")  # perceptual intent
        self.texture.save(file, "PNG", pnginfo=info)
        return file.getvalue()

    def glb(self) -> bytes:
        """The GLB file. Raises `ValueError` where ``source`` is not, or no longer, what ``mesh`` was made of."""
        own = self._own_coordinates()
        if isinstance(self.source, (str, Path)) and Path(self.source).suffix.lower() in (".glb", ".gltf"):
            document, places = gltf.of_file(Path(self.source))
        else:
            document, places = gltf.of_scene(self._scene())
        gltf.paint(document, places, self.mesh, self.png, own)
        return document.glb()

    def save(self, path: str | Path) -> None:
        """Write ``.glb``, ``.obj`` (and ``.mtl`` and ``.png`` beside it) or ``.png``, whole or not at all.

        Raises:
            ValueError: another suffix; a ``source`` that is not, or no longer, what ``mesh`` was made of.
            OSError: a folder that is not there or cannot be written.
        """
        check_mesh_path(path)
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".glb":
            contents = [self.glb()]
        elif suffix == ".obj":
            contents = [*self._wavefront(path), self.png]
        else:
            contents = [self.png]
        # The stack is unwound from its end: the OBJ, which names the others, appears last.
        with ExitStack() as stack:
            for file, content in zip(_files(path), contents, strict=True):
                stack.enter_context(replacing(file)).write_bytes(content)

    def _wavefront(self, path: Path) -> tuple[bytes, bytes]:
        _, library, texture = (file.name for file in _files(path))
        own = self._own_coordinates()
        if own and isinstance(self.source, (str, Path)) and Path(self.source).suffix.lower() == ".obj":
            return wavefront.from_file(Path(self.source), path.parent, library, texture)
        return wavefront.from_arrays(self.mesh, parts_of(self._scene()), library, texture)

    def _scene(self) -> Any:
        if not isinstance(self.source, Mesh):
            return scene_of(self.source)
        return _scene_of_mesh(self.source)

    def _own_coordinates(self) -> bool:
        """Whether the mesh has its source's texture coordinates."""
        given = load(self.source)
        if not (np.array_equal(given.vertices, self.mesh.vertices) and np.array_equal(given.faces, self.mesh.faces)):
            raise ValueError(
                f"the mesh's {len(self.mesh.vertices)} vertices and {len(self.mesh.faces)} faces are not those of its "
                f"source ({len(given.vertices)} and {len(given.faces)}): give the source that it was made of."
            )
        if given.uv is None or given.uv_faces is None or self.mesh.uv is None or self.mesh.uv_faces is None:
            return False
        # trimesh's vertices have no coordinates for each corner, as a Mesh's may.
        plain = np.array_equal(given.uv_faces, given.faces)
        return plain and np.array_equal(given.uv, self.mesh.uv) and np.array_equal(given.uv_faces, self.mesh.uv_faces)


def _files(path: Path) -> list[Path]:
    """The files that are written for a path."""
    return [path, *(path.with_suffix(suffix) for suffix in (".mtl", ".png") if path.suffix.lower() == ".obj")]


def _scene_of_mesh(mesh: Mesh) -> Any:
    trimesh = need("trimesh")
    visual = None
    if mesh.uv is not None and mesh.uv_faces is not None and np.array_equal(mesh.uv_faces, mesh.faces):
        visual = trimesh.visual.TextureVisuals(uv=mesh.uv.copy())
    return trimesh.Scene(trimesh.Trimesh(mesh.vertices.copy(), mesh.faces.copy(), visual=visual, process=False))
