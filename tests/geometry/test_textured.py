"""Painted meshes in files: the user's arrays are what they were, and the texture is where it was painted."""

import io
import json
import os
import re
import warnings

import numpy as np
import pytest
import shapes
from PIL import Image

from fastsync.geometry import Mesh, TexturedMesh, load, unwrap
from fastsync.geometry.boxes import box_projection
from fastsync.geometry.gltf import Document

trimesh = pytest.importorskip("trimesh")


@pytest.fixture(scope="module")
def texture():
    """A colour of its own at every place, upside down nowhere the same."""
    y, x = np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 128), indexing="ij")
    return Image.fromarray(np.stack([x, y, np.abs(x - y)], -1).round().astype(np.uint8))


def part(mesh, move=(0, 0, 0), uv=True, material=None):
    visual = trimesh.visual.TextureVisuals(uv=mesh.uv.copy() if uv else None, material=material) if uv else None
    return trimesh.Trimesh(mesh.vertices + move, mesh.faces.copy(), visual=visual, process=False)


def colours(image, mesh, seed=0):
    """The texture at a few points of every face, [F, 5, 3], nearest texel."""
    weights = np.random.default_rng(seed).dirichlet(np.ones(3), (len(mesh.faces), 5))
    u, v = np.einsum("fpk,fkd->dfp", weights, mesh.uv[mesh.uv_faces])
    pixels = np.array(image.convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    row, column = np.floor((1 - v) * height).astype(int), np.floor(u * width).astype(int)
    return pixels[row.clip(0, height - 1), column.clip(0, width - 1)]


def picture_of(part):
    return part.visual.material.baseColorTexture


def check_glb(data, mesh, texture):
    """Read anew by trimesh, faces and corners are as in `mesh`, and show the same colours."""
    scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
    again = load(scene)
    given = mesh.vertices[mesh.faces]
    found = again.vertices[again.faces]
    assert found.shape == given.shape
    np.testing.assert_allclose(found, given, atol=1e-5 * np.abs(given).max())
    difference = np.abs(colours(texture, again) - colours(texture, mesh))
    assert np.median(difference) == 0 and difference.max() <= 3  # rounding to float32 moves points over texels' edges
    for geometry in scene.geometry.values():
        if isinstance(geometry, trimesh.Trimesh):
            assert np.array_equal(np.array(picture_of(geometry)), np.array(texture))
            assert geometry.visual.material.baseColorFactor[:3].tolist() in ([255, 255, 255], [1, 1, 1])
    return scene


def read_obj(path):
    """v, vt and the faces' (v, vt), by the format's own words."""
    rows = {"v": [], "vt": [], "f": []}
    for line in path.read_text().splitlines():
        word, *rest = line.split()
        if word in rows:
            rows[word].append([[int(n) - 1 for n in c.split("/")[:2]] for c in rest] if word == "f" else rest)
    corners = np.array(rows["f"])
    return np.array(rows["v"], float), np.array(rows["vt"], float), corners[..., 0], corners[..., 1]


@pytest.mark.parametrize(
    "ending, made_by",
    [(ending, by) for ending in ("obj", "glb", "ply", "stl", "off") for by in ("own", "xatlas", "boxes")
     if by != "own" or ending not in ("stl", "off")],  # which have no texture coordinates
)  # fmt: skip
def test_arrays_are_the_users(ending, made_by, texture, tmp_path):
    path = tmp_path / f"globe.{ending}"
    part(shapes.sphere(8, 16, bumps=0.1)).export(path)
    given = load(path)
    mesh = {"own": unwrap, "xatlas": lambda m: unwrap(m, reunwrap=True), "boxes": box_projection}[made_by](given)
    textured = TexturedMesh(path, mesh, texture)
    before = path.read_bytes()
    beside = {file.name for file in tmp_path.iterdir()}
    scene = check_glb(textured.glb(), mesh, texture)
    (geometry,) = scene.geometry.values()
    count = len(given.vertices)
    assert geometry.vertices[:count].astype("f4").tobytes() == given.vertices.astype("f4").tobytes()
    assert len(np.unique(geometry.vertices[count:], axis=0)) <= count
    if made_by == "own":
        assert geometry.faces.astype(int).tobytes() == given.faces.tobytes()
        assert np.array_equal(np.float32(1 - geometry.visual.uv), np.float32(1 - given.uv))
    textured.save(tmp_path / "out.obj")
    vertices, uv, faces, uv_faces = read_obj(tmp_path / "out.obj")
    if made_by != "own" or ending != "obj":
        assert vertices.tobytes() == given.vertices.tobytes()
        assert faces.astype(int).tobytes() == given.faces.tobytes()
        assert uv.tobytes() == mesh.uv.tobytes() and np.array_equal(uv_faces, mesh.uv_faces)
    again = load(tmp_path / "out.obj")
    np.testing.assert_array_equal(again.vertices[again.faces], given.vertices[given.faces])
    np.testing.assert_array_equal(colours(texture, again), colours(texture, mesh))
    assert np.array_equal(np.array(trimesh.load(tmp_path / "out.obj").visual.material.image), np.array(texture))
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} - beside == {"out.obj", "out.mtl", "out.png"}


def test_glb_bytes_of_the_source_survive(texture, tmp_path):
    """Vertices, normals, faces and coordinates are not even converted; names and unknown entries stay."""
    source = part(shapes.cube())
    source.vertex_normals  # noqa: B018  makes trimesh write them
    source.export(tmp_path / "a.glb")
    document = Document.read(tmp_path / "a.glb")
    document.tree["nodes"][-1]["name"] = "my crate"
    document.tree["extras"] = {"bufferView": "no index", "author": "me"}
    document.tree["animations"] = [{"channels": [], "samplers": [], "name": "wave"}]
    (tmp_path / "a.glb").write_bytes(document.glb())
    mesh = unwrap(tmp_path / "a.glb")
    written = Document.of_glb(TexturedMesh(tmp_path / "a.glb", mesh, texture).glb())
    for old, new in zip(document.tree["accessors"], written.tree["accessors"], strict=True):
        assert document.views[old.pop("bufferView")] == written.views[new.pop("bufferView")]
    for tree in (document.tree, written.tree):
        del tree["meshes"][0]["primitives"][0]["material"]
    for key in ("nodes", "meshes", "accessors", "scenes", "extras", "animations", "asset"):
        assert written.tree[key] == document.tree[key]
    document = Document.read(tmp_path / "a.glb")
    wrapped = Document.of_glb(TexturedMesh(tmp_path / "a.glb", box_projection(mesh), texture).glb())
    (old,), (new,) = (d.tree["meshes"][0]["primitives"] for d in (document, wrapped))
    for name in ("POSITION", "NORMAL"):
        rows = [d.rows(d.tree["accessors"][p["attributes"][name]]) for d, p in ((document, old), (wrapped, new))]
        assert rows[1][: len(rows[0])].tobytes() == rows[0].tobytes()


def scene_of_many():
    """Three parts, one of them at two places, one of them mirrored, and points; nested transforms."""
    scene = trimesh.Scene()
    turned = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3], [0.5, 0, 0])
    mirrored = np.diag([-1.0, 2.0, 1.0, 1.0])
    mirrored[:3, 3] = [0, 0, 4]
    scene.add_geometry(part(shapes.cube()), "crate a", "crate", transform=turned)
    scene.graph.update("crate b", "crate a", geometry="crate", matrix=mirrored)
    scene.add_geometry(part(shapes.sphere(6, 8), (5, 0, 0)), "globe", "globe", transform=mirrored)
    scene.add_geometry(trimesh.PointCloud(np.eye(3), colors=[[1, 2, 3, 4]] * 3), "dots", "dots")
    scene.add_geometry(part(shapes.plates(0.0)), "plate", "plate")
    return scene


@pytest.mark.parametrize("as_file", [False, True])
def test_scenes_with_instances_and_mirrors(as_file, texture, tmp_path):
    source = scene_of_many()
    if as_file:
        source.export(tmp_path / "scene.glb")
        source = tmp_path / "scene.glb"
    with pytest.warns(UserWarning, match="overlap"):
        mesh = unwrap(source)
    textured = TexturedMesh(source, mesh, texture)
    data = textured.glb()
    document = Document.of_glb(data)
    scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
    # trimesh's order of nodes changes with every export, so each node is held against its own part.
    parts = {p.metadata["node"]: p for p in scene.dump() if hasattr(p, "faces")}
    start = 0
    for given in load_parts(source):
        rows = slice(start, start + len(given.faces))
        start += len(given.faces)
        found = parts[given.metadata["node"]]
        np.testing.assert_allclose(found.triangles, given.triangles, atol=1e-5)
        one = Mesh(given.vertices, given.faces, mesh.uv, mesh.uv_faces[rows])
        difference = np.abs(colours(texture, load(found)) - colours(texture, one))
        assert np.median(difference) == 0 and difference.max() <= 3
    assert {mesh["name"] for mesh in document.tree["meshes"]} >= {"crate", "globe", "plate", "dots"}
    dots = scene.geometry["dots"]
    assert np.array_equal(dots.vertices, np.eye(3)) and np.array_equal(dots.colors, [[1, 2, 3, 4]] * 3)
    textured.save(tmp_path / "out.obj")
    vertices, _, faces, _ = read_obj(tmp_path / "out.obj")
    assert vertices.tobytes() == mesh.vertices.tobytes() and np.array_equal(faces, mesh.faces)


def load_parts(source):
    from fastsync.geometry.meshes import parts_of, scene_of

    return parts_of(scene_of(source))


def shiny():
    """Two materials on parts that share no texels, with all kinds of maps, and a line that wears the first."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    maps = {name: Image.fromarray(noise + k) for k, name in enumerate(["normalTexture", "baseColorTexture"])}
    metal = trimesh.visual.material.PBRMaterial(
        "metal", metallicFactor=0.7, roughnessFactor=0.2, baseColorFactor=[9, 99, 199, 128], **maps
    )
    lamp = trimesh.visual.material.PBRMaterial(
        "lamp", emissiveFactor=[1, 1, 1], emissiveTexture=Image.fromarray(noise + 5), doubleSided=True
    )
    left, right = shapes.plates(0.0), shapes.plates(0.0)
    left, right = (Mesh(m.vertices, m.faces, m.uv * [0.5, 1] + [0.5 * k, 0]) for k, m in enumerate((left, right)))
    return trimesh.Scene({"a": part(left, material=metal), "b": part(right, (3, 0, 0), material=lamp)})


def test_other_maps_and_factors_survive(texture, tmp_path):
    path = tmp_path / "two.glb"
    shiny().export(path)
    document = Document.read(path)
    # A line that wears the first part's material, and a texture on second coordinates.
    line = {"attributes": {"POSITION": document.tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]}}
    wearer = document.tree["meshes"][0]["primitives"][0]
    document.tree["meshes"][0]["primitives"].append({**line, "mode": 1, "material": wearer["material"]})
    path.write_bytes(document.glb())
    mesh = unwrap(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = Document.of_glb(TexturedMesh(path, mesh, texture).glb()).tree
    before = {m["name"]: m for m in document.tree["materials"]}
    first, second = (tree["materials"][m["primitives"][0]["material"]] for m in tree["meshes"])
    pbr = first["pbrMetallicRoughness"]
    assert (pbr["metallicFactor"], pbr["roughnessFactor"]) == (0.7, 0.2)
    assert pbr["baseColorFactor"] == [1, 1, 1, pytest.approx(128 / 255)]
    assert first["normalTexture"] == before["metal"]["normalTexture"]
    assert second["emissiveTexture"] == before["lamp"]["emissiveTexture"] and second["doubleSided"]
    worn = tree["materials"][tree["meshes"][0]["primitives"][1]["material"]]
    assert worn == before["metal"]


def test_new_coordinates_leave_maps_out_and_say_so(texture, tmp_path):
    path = tmp_path / "two.glb"
    shiny().export(path)
    document = Document.read(path)
    for material in document.tree["materials"]:
        if "emissiveTexture" in material:
            material["occlusionTexture"] = {**material["emissiveTexture"], "texCoord": 1}
            material["extensions"] = {"KHR_materials_clearcoat": {"clearcoatTexture": {"index": 0}}}
    path.write_bytes(document.glb())
    mesh = box_projection(load(path))
    with pytest.warns(UserWarning, match="other maps .* are left out") as caught:
        data = TexturedMesh(path, mesh, texture).glb()
    assert len(caught) == 1
    check_glb(data, mesh, texture)
    metal, lamp = Document.of_glb(data).tree["materials"]
    assert "normalTexture" not in metal and metal["pbrMetallicRoughness"]["metallicFactor"] == 0.7
    assert not {"emissiveTexture", "emissiveFactor"} & set(lamp), "a factor without its map would glow"
    assert lamp["occlusionTexture"]["texCoord"] == 1 and not lamp["extensions"]


def test_pictures_that_nobody_shows_any_more_go(texture, tmp_path):
    path = tmp_path / "old.glb"
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(noise))
    part(shapes.cube(), material=material).export(path)
    data = TexturedMesh(path, unwrap(path), texture).glb()
    assert len(data) < 80_000 < path.stat().st_size


def test_arrays_that_nobody_reads_any_more_go(texture, tmp_path):
    path, globe = tmp_path / "a.glb", shapes.sphere(8, 16)
    part(globe).export(path)
    textured = TexturedMesh(path, box_projection(load(path)), texture)
    document = Document.of_glb(textured.glb())
    (primitive,) = document.tree["meshes"][0]["primitives"]
    accessors = [document.tree["accessors"][k] for k in (primitive["indices"], *primitive["attributes"].values())]
    held = sum(len(document.views[view]) for view in {a["bufferView"] for a in accessors})
    assert sum(map(len, document.views)) == held + len(textured.png)


def test_vertex_colours_do_not_tint(texture, tmp_path):
    globe = shapes.sphere(4, 6)
    tint = np.random.default_rng(0).integers(0, 256, (len(globe.vertices), 4), dtype=np.uint8)
    trimesh.Trimesh(globe.vertices, globe.faces, vertex_colors=tint, process=False).export(tmp_path / "a.ply")
    mesh = unwrap(tmp_path / "a.ply")
    scene = check_glb(TexturedMesh(tmp_path / "a.ply", mesh, texture).glb(), mesh, texture)
    (geometry,) = scene.geometry.values()
    assert np.array_equal(geometry.vertex_attributes["_COLOR_0"][: len(tint)], tint)
    assert "color" not in geometry.visual.vertex_attributes
    material = geometry.visual.material
    assert (material.metallicFactor, material.roughnessFactor, material.doubleSided) == (0.0, 0.9, True)


def test_gltf_with_files_beside_it(texture, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=noise, normalTexture=noise)
    for name, data in trimesh.exchange.gltf.export_gltf(trimesh.Scene(part(shapes.cube(), material=material))).items():
        (tmp_path / name).write_bytes(data)
    document = json.loads((tmp_path / "model.gltf").read_text())
    (tmp_path / "bumps 1.png").write_bytes(TexturedMesh(shapes.cube(), shapes.cube(), noise).png)
    document["images"] = [{"uri": "bumps%201.png"} for _ in document["images"]]
    (tmp_path / "model.gltf").write_text(json.dumps(document))
    mesh = unwrap(tmp_path / "model.gltf")
    scene = check_glb(TexturedMesh(tmp_path / "model.gltf", mesh, texture).glb(), mesh, texture)
    (geometry,) = scene.geometry.values()
    assert np.array_equal(np.array(geometry.visual.material.normalTexture), np.array(noise))


@pytest.mark.parametrize("mesh", [shapes.cube(), box_projection(shapes.scan())], ids=["plain", "corners"])
def test_arrays_as_source(mesh, texture, tmp_path):
    textured = TexturedMesh(mesh, mesh, texture)
    check_glb(textured.glb(), mesh, texture)
    textured.save(tmp_path / "a.obj")
    vertices, uv, faces, uv_faces = read_obj(tmp_path / "a.obj")
    assert vertices.tobytes() == mesh.vertices.tobytes() and np.array_equal(faces, mesh.faces)
    assert uv.tobytes() == mesh.uv.tobytes() and np.array_equal(uv_faces, mesh.uv_faces)


OBJ = """# a table, by \xe4 hand
mtllib table.mtl
v 0 0 0 0.5 0.5 0.5
v 1.10 0 0
v 1.1 1 0.000
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
g top
usemtl wood
s 1
f 1/1 2/2 3/3 4/4
"""
MTL = """newmtl wood
Ns 12
Kd 0.3 0.2 0.1
map_Kd old.png
map_Bump -bm 0.5 bumps.png
"""


def test_an_obj_file_keeps_its_lines(texture, tmp_path):
    """Quads, groups, comments, decimals and bytes that are no UTF-8; its other maps are found from the new place."""
    (tmp_path / "table.obj").write_bytes(OBJ.encode("latin-1"))
    (tmp_path / "table.mtl").write_text(MTL)
    (tmp_path / "bumps.png").write_bytes(b"")
    (tmp_path / "out").mkdir()
    source = tmp_path / "table.obj"
    TexturedMesh(source, unwrap(source), texture).save(tmp_path / "out" / "tisch \u00e4.obj")
    lines = (tmp_path / "out" / "tisch \u00e4.obj").read_bytes().split(b"\n")
    assert lines[0] == "mtllib tisch \u00e4.mtl".encode()
    assert lines[1:] == [line for line in OBJ.encode("latin-1").split(b"\n") if not line.startswith(b"mtllib")]
    material = (tmp_path / "out" / "tisch \u00e4.mtl").read_text("utf-8").splitlines()
    bumps = f"map_Bump -bm 0.5 {os.path.join('..', 'bumps.png')}"
    assert material == ["newmtl wood", "Kd 1 1 1", "map_Kd tisch \u00e4.png", "Ns 12", bumps]


def test_normals_of_an_obj_stay(texture, tmp_path):
    globe = part(shapes.sphere(4, 6))
    globe.export(tmp_path / "a.obj", include_normals=True)
    mesh = box_projection(load(tmp_path / "a.obj"))
    TexturedMesh(tmp_path / "a.obj", mesh, texture).save(tmp_path / "b.obj")
    found = re.findall(r"^vn (\S+) (\S+) (\S+)$", (tmp_path / "b.obj").read_text(), re.MULTILINE)
    given = trimesh.load(tmp_path / "a.obj", process=False).vertex_normals
    data = TexturedMesh(tmp_path / "a.obj", mesh, texture).glb()
    (written,) = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False).geometry.values()
    assert "vertex_normals" in written._cache.cache
    np.testing.assert_allclose(written.vertex_normals[: len(given)], given, atol=1e-6)
    np.testing.assert_allclose(np.array(found, float), given, atol=1e-12)


def test_png(texture, tmp_path):
    mesh = shapes.cube()
    TexturedMesh(mesh, mesh, texture).save(tmp_path / "t.PNG")
    with Image.open(tmp_path / "t.PNG") as image:
        assert image.info["srgb"] == 0 and np.array_equal(np.array(image), np.array(texture))


def test_what_cannot_be_written_leaves_nothing(texture, tmp_path):
    mesh = shapes.cube()
    textured = TexturedMesh(mesh, mesh, texture)
    for name in ("a.fbx", "a", "no/a.glb"):
        with pytest.raises((ValueError, FileNotFoundError), match="needs one of .glb|there is no folder"):
            textured.save(tmp_path / name)
    (tmp_path / "b.mtl").mkdir()
    with pytest.raises(IsADirectoryError, match=r"b.mtl is a folder"):
        textured.save(tmp_path / "b.obj")
    other = TexturedMesh(shapes.plates(0.0), mesh, texture)
    for name in ("a.glb", "a.obj"):
        with pytest.raises(ValueError, match="not those of its source"):
            other.save(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["b.mtl"]


def test_bad_input_gets_a_sentence(texture):
    mesh = shapes.cube()
    with pytest.raises(TypeError, match=r"mesh must be a fastsync.geometry.Mesh, got 'a.glb'"):
        TexturedMesh("a.glb", "a.glb", texture)
    with pytest.raises(ValueError, match="no texture coordinates.*unwrap"):
        TexturedMesh(mesh, Mesh(mesh.vertices, mesh.faces), texture)
    with pytest.raises(TypeError, match="texture must be a PIL image"):
        TexturedMesh(mesh, mesh, np.zeros((4, 4, 3)))
