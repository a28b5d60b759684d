"""glTF files with another base colour texture, and otherwise as they were.

The file's JSON is edited, not written anew from what a reader understood of it: names, transforms, animations, skins,
second texture coordinates, extensions and the other maps of the materials outlive it.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import mimetypes
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from .meshes import Mesh, need, parts_of

Tree = dict[str, Any]

_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_READ_MODES = (0, 1, 4, 5)  # of primitives, of which trimesh makes a geometry: points, lines, triangles, strips
_WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_ROUGH = {"metallicFactor": 0.0, "roughnessFactor": 0.9}  # of surfaces about which nothing is known


@dataclass
class Document:
    """A glTF file: its JSON, and the bytes of each of its buffer views."""

    tree: Tree
    views: list[bytes]

    @classmethod
    def read(cls, path: Path) -> Document:
        """A .glb or .gltf file that trimesh could read, with what it names beside it."""
        data = path.read_bytes()
        return cls.of_glb(data, path.parent) if data[:4] == b"glTF" else cls._of(json.loads(data), b"", path.parent)

    @classmethod
    def of_glb(cls, data: bytes, folder: Path = Path()) -> Document:
        """The content of a GLB file."""
        chunks: dict[int, bytes] = {}
        at = 12
        while at + 8 <= len(data):
            length, kind = struct.unpack_from("<II", data, at)
            chunks.setdefault(kind, data[at + 8 : at + 8 + length])
            at += 8 + length
        return cls._of(json.loads(chunks[_JSON]), chunks.get(_BINARY, b""), folder)

    @classmethod
    def _of(cls, tree: Tree, binary: bytes, folder: Path) -> Document:
        if "EXT_meshopt_compression" in tree.get("extensionsUsed", ()):
            raise ValueError(
                "the mesh file is compressed with EXT_meshopt_compression, which cannot be painted: save it without."
            )
        buffers = [_linked(buffer["uri"], folder) if "uri" in buffer else binary for buffer in tree.get("buffers", ())]
        views = []
        for view in tree.get("bufferViews", ()):
            start = view.get("byteOffset", 0)
            views.append(buffers[view["buffer"]][start : start + view["byteLength"]])
        document = cls(tree, views)
        for image in tree.get("images", ()):
            # Pictures beside a .gltf file come into the GLB; one that is missing stays missing.
            if "uri" in image and (image["uri"].startswith("data:") or (folder / unquote(image["uri"])).is_file()):
                uri = image.pop("uri")
                kind = uri[5:].partition(";")[0] if uri.startswith("data:") else mimetypes.guess_type(uri)[0]
                image.setdefault("mimeType", kind or "image/png")
                image["bufferView"] = document.add_view(_linked(uri, folder))
        return document

    def add(self, kind: str, item: Tree) -> int:
        """Append to one of the tree's lists; the item's index."""
        items = self.tree.setdefault(kind, [])
        items.append(item)
        return len(items) - 1

    def add_view(self, data: bytes, **settings: Any) -> int:
        """A buffer view; its index."""
        self.views.append(data)
        return self.add("bufferViews", settings)

    def add_accessor(self, array: np.ndarray, kind: str, component: int, target: int) -> int:
        """An accessor of rows; its index."""
        view = self.add_view(array.tobytes(), target=target)
        return self.add(
            "accessors", {"bufferView": view, "componentType": component, "type": kind, "count": len(array)}
        )

    def rows(self, accessor: Tree) -> np.ndarray:
        """An accessor's values as uint8 [count, bytes of a row, padded to 4]."""
        if "sparse" in accessor or "bufferView" not in accessor:
            raise ValueError(
                "the mesh file needs new texture coordinates, for which vertices come twice, but holds its vertices "
                "compressed or sparse: save it without compression, or unwrap it in a modelling tool."
            )
        width = _WIDTH[accessor["type"]] * _BYTES[accessor["componentType"]]
        stride = self.tree["bufferViews"][accessor["bufferView"]].get("byteStride", width)
        data = np.frombuffer(self.views[accessor["bufferView"]], np.uint8)[accessor.get("byteOffset", 0) :]
        rows = np.lib.stride_tricks.as_strided(data, (accessor["count"], width), (stride, 1), writeable=False)
        return np.pad(rows, ((0, 0), (0, -width % 4)))

    def add_gathered(self, index: int, source: np.ndarray) -> int:
        """A copy of an accessor, whose row i is row ``source[i]``; its index."""
        accessor = self.tree["accessors"][index]
        rows = self.rows(accessor)
        view = self.add_view(rows[source].tobytes(), byteStride=rows.shape[1], target=34962)
        kept = {key: value for key, value in accessor.items() if key != "byteOffset"}
        return self.add("accessors", {**kept, "bufferView": view, "count": len(source)})

    def glb(self) -> bytes:
        """The GLB file. Buffer views to which nothing refers any more are left out."""
        tree = {**self.tree, "bufferViews": []}
        order: dict[int, int] = {}
        tree = json.loads(json.dumps(tree))
        for owner in _owners(tree, "bufferView"):
            owner["bufferView"] = order.setdefault(owner["bufferView"], len(order))
        binary = bytearray()
        for old in order:
            view = {**self.tree["bufferViews"][old], "buffer": 0, "byteLength": len(self.views[old])}
            tree["bufferViews"].append({**view, "byteOffset": len(binary)})
            binary += self.views[old] + b"\0" * (-len(self.views[old]) % 4)
        tree["buffers"] = [{"byteLength": len(binary)}]
        text = json.dumps(tree, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        whole = 12 + 8 + len(text) + 8 + len(binary)
        if whole >= 1 << 32:
            raise ValueError(f"a GLB file holds at most 4 GiB, and this mesh has {whole} bytes: write an .obj file.")
        head = struct.pack("<IIIII", _MAGIC, 2, whole, len(text), _JSON)
        return b"".join([head, text, struct.pack("<II", len(binary), _BINARY), binary])


@dataclass(frozen=True)
class Place:
    """Where one of `parts_of`'s parts stands in a document.

    Attributes:
        part: the part, ``trimesh.Trimesh``.
        node, primitive: the node's index, and the primitive's in the node's mesh.
        faces: int64 [F, 3], the primitive's own, which a node that mirrors turns over.
        turned: whether it does.
    """

    part: Any
    node: int
    primitive: int
    faces: np.ndarray
    turned: bool


def of_file(path: Path) -> tuple[Document, list[Place]]:
    """A glTF file, and where its parts stand in it."""
    document = Document.read(path)
    # trimesh tells nodes and meshes by their names, which files need not have, or have twice: so give them others.
    named = Document(copy.deepcopy(document.tree), document.views)
    for index, node in enumerate(named.tree.get("nodes", ())):
        node["name"] = str(index)
    scene = need("trimesh").load_scene(io.BytesIO(named.glb()), file_type="glb", process=False)
    read = [
        position
        for mesh in document.tree.get("meshes", ())
        for position, primitive in enumerate(mesh["primitives"])
        if primitive.get("mode", 4) in _READ_MODES
    ]
    position = dict(zip(scene.geometry, read, strict=True))  # geometries are in the file's order
    return document, [
        _place(part, scene, int(part.metadata["node"].partition("_")[0]), position[part.metadata["name"]])
        for part in parts_of(scene)
    ]


def of_scene(scene: Any) -> tuple[Document, list[Place]]:
    """A trimesh.Scene as a glTF document, and where its parts stand in it."""
    trimesh = need("trimesh")
    given, scene = scene, scene.copy()
    for name, geometry in given.geometry.items():
        if isinstance(geometry, trimesh.Trimesh):
            scene.geometry[name] = geometry.copy(include_cache=True)  # where trimesh keeps a file's normals
            _prepare(scene.geometry[name])
    document = Document.of_glb(trimesh.exchange.gltf.export_glb(scene))
    node = {node["name"]: index for index, node in enumerate(document.tree["nodes"])}
    return document, [_place(part, scene, node[part.metadata["node"]], 0) for part in parts_of(scene)]


def paint(document: Document, places: list[Place], mesh: Mesh, png: bytes, own: bool) -> None:
    """Give the parts of a mesh a texture, in place.

    Args:
        places: where the parts stand, in the order in which ``mesh`` has their faces.
        png: the texture, a PNG file.
        own: whether ``mesh.uv`` is what the document has already; else vertices on seams come twice, the copies at the
            end, so that the rows before are what they were.
    """
    if not own:
        assert mesh.uv is not None and mesh.uv_faces is not None
        _part_instances(document, places)
        replaced: dict[int, int] = {}
        ends = np.cumsum([len(place.faces) for place in places])
        for place, rows in zip(places, np.split(mesh.uv_faces, ends[:-1]), strict=True):
            _unwrap(document, place, mesh.uv * [1, -1] + [0, 1], rows[:, ::-1] if place.turned else rows, replaced)
        _drop_accessors(document, replaced)
    primitives = [_primitive(document, place) for place in places]
    sampler = document.add("samplers", {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071})
    view = document.add_view(png)
    image = document.add("images", {"bufferView": view, "mimeType": "image/png", "name": "texture"})
    texture = document.add("textures", {"source": image, "sampler": sampler})
    _paint_materials(document, primitives, texture, own)
    _drop_pictures(document, view)


def _place(part: Any, scene: Any, node: int, primitive: int) -> Place:
    faces = np.asarray(scene.geometry[part.metadata["name"]].faces)
    return Place(part, node, primitive, faces, not np.array_equal(faces, part.faces))


def _prepare(geometry: Any) -> None:
    """Give a geometry a material of glTF's kind; vertex colours stay as an attribute."""
    visual = need("trimesh.visual")
    given = geometry.visual
    material = getattr(given, "material", None)
    if not isinstance(material, visual.material.PBRMaterial):
        # Surfaces are painted from both sides, and files other than glTF's do not say which one shows.
        material = visual.material.PBRMaterial(name=getattr(material, "name", None), doubleSided=True, **_ROUGH)
        geometry.visual = visual.TextureVisuals(uv=getattr(given, "uv", None), material=material)
        if given.kind == "vertex":
            geometry.visual.vertex_attributes["color"] = given.vertex_colors


def _primitive(document: Document, place: Place) -> Tree:
    primitive: Tree = document.tree["meshes"][document.tree["nodes"][place.node]["mesh"]]["primitives"][place.primitive]
    return primitive


def _part_instances(document: Document, places: list[Place]) -> None:
    """Give each node a mesh of its own: one that stands at two nodes shows two parts of the texture."""
    owner: dict[int, int] = {}
    for place in places:
        node = document.tree["nodes"][place.node]
        if owner.setdefault(node["mesh"], place.node) != place.node:
            node["mesh"] = document.add("meshes", copy.deepcopy(document.tree["meshes"][node["mesh"]]))
            owner[node["mesh"]] = place.node


def _unwrap(document: Document, place: Place, uv: np.ndarray, uv_faces: np.ndarray, replaced: dict[int, int]) -> None:
    """Put texture coordinates [T, 2] (v downward), of which corners have rows [F, 3], into a primitive.

    ``replaced`` is told which accessors took the place of which.
    """
    primitive, count = _primitive(document, place), len(place.part.vertices)
    # One row for each pair of a vertex and a coordinate; the first of a vertex is the vertex itself.
    pair, corner = np.unique(place.faces.astype(np.int64) * len(uv) + uv_faces, return_inverse=True)
    vertex, coordinate = np.divmod(pair, len(uv))
    again = np.concatenate([[False], vertex[1:] == vertex[:-1]])
    row = np.where(again, count - 1 + again.cumsum(), vertex)
    if again.any():
        primitive.get("extensions", {}).pop("KHR_draco_mesh_compression", None)  # whose rows these are not
        source = np.concatenate([np.arange(count), vertex[again]])
        for attributes in (primitive["attributes"], *primitive.get("targets", ())):
            for name in attributes:
                if name != "TEXCOORD_0":
                    replaced[attributes[name]] = document.add_gathered(attributes[name], source)
                    attributes[name] = replaced[attributes[name]]
        faces = document.add_accessor(row[corner.reshape(-1)].astype("<u4"), "SCALAR", 5125, 34963)
        replaced[primitive.get("indices", faces)] = faces
        primitive.update(indices=faces, mode=4)
    table = np.zeros((count + again.sum(), 2), "<f4")
    table[row] = uv[coordinate]
    coordinates = document.add_accessor(table, "VEC2", 5126, 34962)
    replaced[primitive["attributes"].get("TEXCOORD_0", coordinates)] = coordinates
    primitive["attributes"]["TEXCOORD_0"] = coordinates


def _drop_accessors(document: Document, replaced: dict[int, int]) -> None:
    """Let accessors that no primitive reads any more be those that took their place, so that their bytes go."""
    read = set()
    for mesh in document.tree["meshes"]:
        for primitive in mesh["primitives"]:
            read |= {primitive.get("indices"), *primitive["attributes"].values()}
            read.update(*(target.values() for target in primitive.get("targets", ())))
    for old, new in replaced.items():
        if old not in read:
            document.tree["accessors"][old] = document.tree["accessors"][new]


def _paint_materials(document: Document, primitives: list[Tree], texture: int, own: bool) -> None:
    painted = {id(primitive): primitive for primitive in primitives}
    # What lines, points and other scenes wear stays as it is.
    elsewhere = {
        primitive.get("material")
        for mesh in document.tree["meshes"]
        for primitive in mesh["primitives"]
        if id(primitive) not in painted
    }
    lost, chosen = False, {}
    for primitive in painted.values():
        # A factor for each vertex, which would tint the texture: it stays under a name that viewers pass by.
        if "COLOR_0" in primitive["attributes"]:
            primitive["attributes"]["_COLOR_0"] = primitive["attributes"].pop("COLOR_0")
        given = primitive.get("material")
        if given not in chosen:
            materials = document.tree.setdefault("materials", [])
            chosen[given] = given
            if given is None or given in elsewhere:
                chosen[given] = document.add("materials", {} if given is None else copy.deepcopy(materials[given]))
            lost |= _repaint(materials[chosen[given]], texture, own)
        primitive["material"] = chosen[given]
    if lost:
        warnings.warn(
            "the mesh got new texture coordinates, so its materials' other maps (normals, roughness, ...) fit no "
            "longer and are left out: unwrap it in a modelling tool, without overlaps, to keep them.",
            stacklevel=2,
        )


def _repaint(material: Tree, texture: int, own: bool) -> bool:
    """Replace a material's base colour; whether other maps were lost."""
    pbr = material.setdefault("pbrMetallicRoughness", dict(_ROUGH))
    material.get("extensions", {}).pop("KHR_materials_pbrSpecularGlossiness", None)  # a base colour of its own
    pbr.pop("baseColorTexture", None)
    lost = False if own else _leave_maps_out(material)
    pbr["baseColorTexture"] = {"index": texture}
    pbr["baseColorFactor"] = [1.0, 1.0, 1.0, pbr.get("baseColorFactor", [1.0] * 4)[3]]
    return lost


def _leave_maps_out(material: Tree) -> bool:
    """Drop the maps that read TEXCOORD_0, and the factors that mean nothing without; whether there was any."""
    lost = False
    pbr, extensions = material["pbrMetallicRoughness"], material.get("extensions", {})
    for owner in (material, pbr):
        for name in [name for name, value in owner.items() if _reads_first(name, value)]:
            del owner[name]
            lost = True
            if name == "emissiveTexture":
                material.pop("emissiveFactor", None)
            if name == "metallicRoughnessTexture":
                pbr.update(_ROUGH)
    for name in [name for name, value in extensions.items() if any(_reads_first(*item) for item in value.items())]:
        del extensions[name]
        lost = True
    return lost


def _reads_first(name: str, value: Any) -> bool:
    """Whether an entry of a material is a map that reads TEXCOORD_0."""
    if not name.endswith("Texture") or not isinstance(value, dict):
        return False
    transform = value.get("extensions", {}).get("KHR_texture_transform", {})
    return int(transform.get("texCoord", value.get("texCoord", 0))) == 0


def _drop_pictures(document: Document, view: int) -> None:
    """Let textures that no material reads any more be the last one, so that the bytes of their pictures go."""
    textures, images = document.tree["textures"], document.tree["images"]
    read = {value["index"] for value in _named(document.tree, "Texture") if "index" in value}
    textures[:] = [texture if index in read else textures[-1] for index, texture in enumerate(textures)]
    shown = {owner["source"] for texture in textures for owner in _owners(texture, "source")}
    if "EXT_lights_image_based" in document.tree.get("extensionsUsed", ()):  # which reads images without textures
        return
    for index in range(len(images)):
        if index not in shown:
            images[index] = {"bufferView": view, "mimeType": "image/png"}


def _owners(tree: Any, key: str) -> Iterator[Tree]:
    """All objects below that have a key."""
    if isinstance(tree, dict) and key in tree:
        yield tree
    for value in _below(tree):
        yield from _owners(value, key)


def _named(tree: Any, ending: str) -> Iterator[Tree]:
    """All objects below whose name ends in ``ending``."""
    if isinstance(tree, dict):
        yield from (value for name, value in tree.items() if name.endswith(ending) and isinstance(value, dict))
    for value in _below(tree):
        yield from _named(value, ending)


def _below(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [value for name, value in tree.items() if name != "extras" and isinstance(value, (dict, list))]
    return [value for value in tree if isinstance(value, (dict, list))]


def _linked(uri: str, folder: Path) -> bytes:
    """What a URI of a glTF file holds: a data URI, or a file's name."""
    if uri.startswith("data:"):
        return base64.b64decode(uri.partition("base64,")[2])
    return (folder / unquote(uri)).read_bytes()
