"""Texture coordinates: the user's where they serve, and new ones that always come back in time."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import shapes

from fastsync.geometry import Mesh, load, unwrap
from fastsync.geometry import unwrap as unwrap_function
from fastsync.geometry.boxes import box_projection
from fastsync.geometry.unwrap import cache_folder, uv_problem

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("xatlas")
module = sys.modules[unwrap_function.__module__]

PRIMITIVES = {
    "box": trimesh.creation.box,
    "icosphere": lambda: trimesh.creation.icosphere(subdivisions=2),
    "cylinder": lambda: trimesh.creation.cylinder(1, 2),
    "cone": lambda: trimesh.creation.cone(1, 2),
    "torus": lambda: trimesh.creation.torus(1, 0.3),
    "annulus": lambda: trimesh.creation.annulus(0.5, 1, 1),
    "scan": shapes.scan,
    "triangle": lambda: Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]),
    "non-manifold": lambda: Mesh(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]], [[0, 1, 2], [0, 1, 3], [0, 1, 4]]
    ),
    "soup": lambda: Mesh(
        shapes.sphere().vertices[shapes.sphere().faces].reshape(-1, 3), np.arange(6912).reshape(-1, 3)
    ),
}


@pytest.mark.parametrize("rule", [unwrap, box_projection])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_face_gets_a_place_of_its_own(name, rule):
    mesh = load(PRIMITIVES[name]())
    found = rule(mesh)
    assert uv_problem(mesh) == "are missing" and uv_problem(found) == ""
    assert found.vertices.tobytes() == mesh.vertices.tobytes() and found.faces.tobytes() == mesh.faces.tobytes()
    assert found.uv.min() >= 0 and found.uv.max() <= 1 and 0.1 < found.uv_areas.sum() <= 1
    # One scale for all: areas in the texture are in proportion to those on the mesh (box projection: to what the axis
    # sees of them, at least 1/sqrt(3)).
    real = mesh.areas > 1e-6
    ratio = found.uv_areas[real] / mesh.areas[real]
    assert np.quantile(ratio, 0.9) / np.quantile(ratio, 0.1) < (2.0 if rule is box_projection else 6.0)


def test_the_users_coordinates_are_kept_where_they_serve():
    mesh = shapes.cube()
    assert unwrap(mesh) is mesh
    anew = unwrap(mesh, reunwrap=True)
    assert anew.uv.shape != mesh.uv.shape or not np.allclose(anew.uv, mesh.uv)
    assert anew.vertices.tobytes() == mesh.vertices.tobytes()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda uv: 2 * uv, r"reach from .* to .*, beyond \[0, 1\]"),
        (lambda uv: uv * [3, 2] % 1, "overlap on [0-9]+% of the texels that they use"),
        (np.zeros_like, "have no place for 100% of the surface"),
    ],
)
def test_coordinates_that_do_not_serve_are_made_anew(change, said):
    mesh = shapes.cube()
    bad = Mesh(mesh.vertices, mesh.faces, change(mesh.uv))
    with pytest.warns(UserWarning, match=f"the mesh's texture coordinates {said}, so that views could not"):
        found = unwrap(bad)
    assert uv_problem(found) == ""


def test_rounding_beyond_the_border_is_no_reason():
    mesh = shapes.sphere()
    assert uv_problem(Mesh(mesh.vertices, mesh.faces, mesh.uv * (1 + 1e-6))) == ""


def test_results_are_kept_by_geometry(cache, monkeypatch):
    mesh = load(trimesh.creation.box())
    first = unwrap(mesh)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("xatlas was asked again"))
        again = unwrap(load(trimesh.creation.box()), reunwrap=True)
        np.testing.assert_allclose(again.uv, first.uv, atol=1e-6)
        np.testing.assert_array_equal(again.uv_faces, first.uv_faces)
    for damage in (b"", b"PK no archive", next(cache.iterdir()).read_bytes()[:60]):
        next(cache.iterdir()).write_bytes(damage)
        np.testing.assert_allclose(unwrap(mesh).uv, first.uv, atol=1e-6)
    unwrap(trimesh.creation.box(extents=(1, 2, 3)))
    assert len(list(cache.iterdir())) == 2
    assert all(file.suffix == ".npz" for file in cache.iterdir())


def test_folders(tmp_path, cache, monkeypatch):
    unwrap(trimesh.creation.box(), cache=tmp_path / "mine" / "deep")
    assert list((tmp_path / "mine" / "deep").iterdir()) and not cache.exists()
    (tmp_path / "file").write_text("")
    assert unwrap(trimesh.creation.box(), cache=tmp_path / "file" / "in").uv is not None  # cannot be written
    assert cache_folder() == cache
    monkeypatch.delenv("FASTSYNC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "fastsync"


def test_what_takes_too_long_falls_back_and_leaves_no_process(cache, monkeypatch, tmp_path):
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    _work_with(monkeypatch, sleeper)
    with pytest.warns(
        UserWarning, match="xatlas did not unwrap 12 faces in 2 seconds, so box projection takes its place"
    ):
        found = unwrap(trimesh.creation.box(), timeout=2)
    assert uv_problem(found) == "" and not cache.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_breaks_down_falls_back(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('charts ran out')")
    _work_with(monkeypatch, broken)
    with pytest.warns(UserWarning, match=r"xatlas broke down \(exit code 1: charts ran out\)"):
        assert uv_problem(unwrap(trimesh.creation.box())) == ""


def _work_with(monkeypatch, script):
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **rest: start([command[0], str(script)], **rest))


def test_progress(capsys):
    unwrap(trimesh.creation.box(), progress=True)
    assert "xatlas unwraps 12 faces" in capsys.readouterr().err


def test_missing_and_bad_settings(monkeypatch):
    with pytest.raises(ValueError, match="timeout must be at least 0"):
        unwrap(shapes.cube(), timeout=-1)
    monkeypatch.setitem(sys.modules, "xatlas", None)
    assert unwrap(shapes.cube()) is not None
    with pytest.raises(ImportError, match="meshes need the package xatlas"):
        unwrap(trimesh.creation.box())


def test_no_warning_without_a_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unwrap(trimesh.creation.box())
