"""OBJ files with a texture, and the MTL files beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .meshes import Mesh

_NAME = "painted"


def from_arrays(mesh: Mesh, parts: list[Any], library: str, texture: str) -> tuple[bytes, bytes]:
    """The OBJ and MTL files of a mesh, each of ``parts`` (of `parts_of`) an object of its own.

    Numbers are written so that they are read as the same float64. Corners name vertices and texture coordinates apart,
    so no vertex comes twice.
    """
    assert mesh.uv is not None and mesh.uv_faces is not None
    lines = [f"mtllib {library}", *_table("v %r %r %r", mesh.vertices), *_table("vt %r %r", mesh.uv)]
    names = [mesh.faces + 1, mesh.uv_faces + 1]
    # trimesh has the file's normals in its cache, and would make some up if asked.
    if all("vertex_normals" in part._cache.cache for part in parts):
        lines += _table("vn %r %r %r", np.concatenate([part.vertex_normals for part in parts]))
        names.append(mesh.faces + 1)
    corners = np.stack(names, -1).reshape(len(mesh.faces), -1)
    form = "f " + " ".join(["/".join(["%d"] * len(names))] * 3)
    lines.append(f"usemtl {_NAME}")
    start = 0
    for part in parts:
        lines.append("o " + ("_".join(str(part.metadata.get("name", "")).split()) or "mesh"))
        lines += _table(form, corners[start : start + len(part.faces)])
        start += len(part.faces)
    return _joined(lines), _joined(_new_material(_NAME, texture))


def from_file(source: Path, folder: Path, library: str, texture: str) -> tuple[bytes, bytes]:
    """An OBJ file and its MTL file for another folder: the lines that name materials' colours change, and no others."""
    kept, materials = [], []
    used: list[str] = []
    for line in _lines(source):
        word, _, rest = line.strip().partition(" ")
        if word == "mtllib":
            materials += _materials(source.parent, rest.strip())
            continue
        if word == "f" and not used:
            kept.append(f"usemtl {_NAME}")
            used.append(_NAME)
        if word == "usemtl":
            used.append(rest.strip())
        kept.append(line)
    described = []
    told = set()
    for line in materials:
        word, _, rest = line.strip().partition(" ")
        if word in ("Kd", "map_Kd"):
            continue
        if word.startswith("map_") or word in ("bump", "disp", "decal", "norm", "refl"):
            line = _moved(line, source.parent, folder)
        described.append(line)
        if word == "newmtl":
            told.add(rest.strip())
            described += _colour(texture)
    for name in dict.fromkeys(used):
        if name not in told:
            described += _new_material(name, texture)
    return _joined([f"mtllib {library}", *kept]), _joined(described)


def _table(form: str, rows: np.ndarray) -> list[str]:
    """All rows in one piece: a formatting for each would take minutes for a million."""
    return ["\n".join([form] * len(rows)) % tuple(rows.ravel().tolist())]


def _new_material(name: str, texture: str) -> list[str]:
    return [f"newmtl {name}", *_colour(texture), "Ka 1 1 1", "Ks 0 0 0", "d 1", "illum 1"]


def _colour(texture: str) -> list[str]:
    return ["Kd 1 1 1", f"map_Kd {texture}"]


def _materials(folder: Path, name: str) -> list[str]:
    """The lines of an MTL file; none where it is missing, as readers have it."""
    file = folder / name
    return _lines(file) if file.is_file() else []


def _lines(file: Path) -> list[str]:
    # Bytes that are no UTF-8 are kept as they are; str.splitlines would take more than line feeds for line ends.
    return file.read_text("utf-8", errors="surrogateescape").split("\n")


def _moved(line: str, folder: Path, other: Path) -> str:
    """A line of an MTL file that ends in a map's name, as seen from another folder."""
    start, _, name = line.rstrip().rpartition(" ")
    if not (folder / name).is_file() or os.path.isabs(name):
        return line
    return f"{start} {os.path.relpath(folder / name, other)}"


def _joined(lines: list[str]) -> bytes:
    return ("\n".join(lines).rstrip("\n") + "\n").encode("utf-8", errors="surrogateescape")
