"""Meshes are read as they are: nothing merged, moved or lost, and what is no mesh is told in one sentence."""

import sys

import numpy as np
import pytest
import shapes

from fastsync.geometry import Mesh, load

trimesh = pytest.importorskip("trimesh")
TRIANGLE = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])


def textured():
    mesh = shapes.cube()
    visual = trimesh.visual.TextureVisuals(uv=mesh.uv.copy())
    return trimesh.Trimesh(mesh.vertices.copy(), mesh.faces.copy(), visual=visual, process=False)


@pytest.mark.parametrize("ending", ["obj", "glb", "gltf", "ply", "stl", "off"])
def test_formats(ending, tmp_path):
    path = tmp_path / f"cube.{ending}"
    if ending == "gltf":
        for name, data in trimesh.exchange.gltf.export_gltf(trimesh.Scene(textured())).items():
            (tmp_path / (path.name if name == "model.gltf" else name)).write_bytes(data)
    else:
        textured().export(path)
    mesh = load(path)
    assert mesh.faces.shape == (12, 3)
    expected = shapes.cube()
    np.testing.assert_allclose(
        mesh.vertices[mesh.faces], expected.vertices[expected.faces], atol=1e-6
    )  # corners in their order
    if ending in ("obj", "glb", "gltf"):
        np.testing.assert_allclose(mesh.uv[mesh.uv_faces], expected.uv[expected.uv_faces], atol=1e-6)
    if ending in ("stl", "off"):
        assert mesh.uv is None


def test_scenes_are_put_together_where_their_parts_are(tmp_path):
    scene = trimesh.Scene()
    moved = np.eye(4)
    moved[:3, 3] = [5, 0, 0]
    scene.add_geometry(textured())
    scene.add_geometry(textured(), transform=moved)
    scene.add_geometry(trimesh.PointCloud(np.zeros((4, 3))))
    scene.export(tmp_path / "two.glb")
    for source in (scene, tmp_path / "two.glb"):
        mesh = load(source)
        assert mesh.faces.shape == (24, 3) and mesh.uv.shape == (48, 2)
        np.testing.assert_allclose(mesh.vertices.max(0), [6, 1, 1], atol=1e-6)
    scene.add_geometry(trimesh.creation.box())
    assert load(scene).uv is None  # a part without


def test_quads_become_triangles_and_normals_are_not_needed(tmp_path):
    path = tmp_path / "quad.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n")
    mesh = load(path)
    assert mesh.faces.shape == (2, 3) and np.isclose(mesh.areas.sum(), 1)


def test_the_users_arrays_stay_as_they_are():
    given = textured()
    before = [np.array(a).tobytes() for a in (given.vertices, given.faces, given.visual.uv)]
    mesh = load(given)
    assert [np.array(a).tobytes() for a in (given.vertices, given.faces, given.visual.uv)] == before
    assert [a.tobytes() for a in (mesh.vertices, mesh.faces, mesh.uv)] == before
    for array in (mesh.vertices, mesh.faces, mesh.uv, mesh.uv_faces):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    given.vertices[:] = 7.0
    assert mesh.vertices.tobytes() == before[0]


def test_coordinates_that_are_no_numbers_are_as_if_missing():
    given = textured()
    given.visual.uv[3] = np.nan
    assert load(given).uv is None


def test_placing_and_digest():
    mesh = Mesh(100 * TRIANGLE + [3, 4, 5], [[0, 1, 2]])
    assert np.isclose(np.linalg.norm(mesh.placed, axis=1).max(), 1) and np.isclose(mesh.areas[0], 5000)
    unused = Mesh(np.concatenate([mesh.vertices, [[1e6, 0, 0]]]), mesh.faces)
    np.testing.assert_array_equal(unused.placed[:3], mesh.placed)
    assert mesh.digest == Mesh(mesh.vertices, mesh.faces, np.zeros((3, 2))).digest != unused.digest


@pytest.mark.parametrize(
    "content, name",
    [
        (b"", "a.obj"), (b"", "a.glb"), (b"", "a.ply"), (b"", "a.stl"), (b"no mesh at all", "a.obj"),
        (b"glTF\x02\0\0\0\xff\xff\0\0", "a.glb"), (b"ply\nformat ascii 1.0\nelem", "a.ply"), (b"solid\0\xff", "a.stl"),
        (b"{}", "a.gltf"), (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "a.obj"), (b"v 0 0 0\nv 1 1 nan\n", "a.obj"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "a.obj"), (bytes(range(256)), "a.stl"),
    ],
)  # fmt: skip
def test_broken_files(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*: ") as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short(tmp_path):
    textured().export(tmp_path / "whole.glb")
    data = (tmp_path / "whole.glb").read_bytes()
    for length in (11, 30, len(data) // 2):
        (tmp_path / "cut.glb").write_bytes(data[:length])
        with pytest.raises(ValueError, match="cannot be read as a mesh|no faces"):
            load(tmp_path / "cut.glb")


def test_what_is_no_mesh():
    with pytest.raises(FileNotFoundError, match="there is no mesh file"):
        load("nowhere.glb")
    with pytest.raises(ValueError, match="meshes are read from .obj, .glb.*got .py"):
        load(__file__)
    with pytest.raises(TypeError, match="mesh must be a file's path, a trimesh object"):
        load(3)
    with pytest.raises(ValueError, match="no faces"):
        Mesh(TRIANGLE, np.zeros((0, 3), int))
    with pytest.raises(ValueError, match="no faces"):
        load(trimesh.Trimesh())
    with pytest.raises(ValueError, match="faces name row 3 of vertices, which has 3 rows"):
        Mesh(TRIANGLE, [[0, 1, 3]])
    with pytest.raises(ValueError, match="faces name row -1"):
        Mesh(TRIANGLE, [[0, 1, -1]])
    with pytest.raises(ValueError, match="vertices has values that are NaN"):
        Mesh(TRIANGLE * np.nan, [[0, 1, 2]])
    with pytest.raises(ValueError, match="all faces of the mesh are degenerate"):
        Mesh(TRIANGLE, [[0, 1, 1], [2, 2, 2]])
    with pytest.raises(ValueError, match=r"vertices must be an array \[n, 3\], got \[3, 2\]"):
        Mesh(TRIANGLE[:, :2], [[0, 1, 2]])
    with pytest.raises(TypeError, match="faces must hold whole numbers, got float64"):
        Mesh(TRIANGLE, [[0.0, 1.0, 2.0]])
    with pytest.raises(ValueError, match="uv_faces must have a row for each of the 1 faces, got 2"):
        Mesh(TRIANGLE, [[0, 1, 2]], TRIANGLE[:, :2], [[0, 1, 2], [0, 1, 2]])


def test_trimesh_is_asked_for_only_where_it_is_needed(monkeypatch, tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\n")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match=r"meshes need the package trimesh.*pip install 'fastsync\[mesh\]'"):
        load(tmp_path / "a.obj")
    assert load(shapes.cube()).faces.shape == (12, 3)
