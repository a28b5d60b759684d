"""Every pixel sees the first surface on its way, and views know what of each other's they see."""

import math
import sys

import numpy as np
import pytest
import shapes
import torch

from fastsync.geometry import CAMERAS, Camera, Mesh, see
from fastsync.geometry.sight import normals

pytest.importorskip("embreex")


@pytest.mark.parametrize("orthographic", [False, True])
def test_a_sphere_is_where_geometry_says(orthographic):
    camera = Camera(20, 10, orthographic=orthographic)
    sight = see(shapes.sphere(200, 400), [camera], (31, 41))
    start, direction = (part.float() for part in camera.rays((31, 41)))
    # |start + depth direction| = 1
    a, b = (direction**2).sum(-1), (start * direction).sum(-1)
    root = b**2 - a * ((start**2).sum(-1) - 1)
    hit = root > 0.01
    assert bool((sight.face[0][hit] >= 0).all()) and bool((sight.face[0][root < -0.01] < 0).all())
    depth = (-b - root.clamp_min(0).sqrt()) / a
    seen = sight.foreground[0] & hit
    torch.testing.assert_close(sight.depth[0][seen], depth[seen], atol=2e-3, rtol=0)
    at = sight.points[0][seen]
    torch.testing.assert_close(at, (start + depth[..., None] * direction)[seen], atol=2e-3, rtol=0)
    assert float((sight.normal[0][seen] * at).sum(-1).min()) > 0.999
    cosine = -(at * torch.nn.functional.normalize(direction, dim=-1)[seen]).sum(-1)
    torch.testing.assert_close(sight.cosine[0][seen], cosine, atol=0.02, rtol=0)
    beside = ~sight.foreground[0]
    assert bool(torch.isinf(sight.depth[0][beside]).all()) and not bool(sight.cosine[0][beside].any())
    assert not bool(sight.barycentric[0][beside].any()) and not bool(sight.normal[0][beside].any())
    assert bool(torch.isfinite(sight.footprint).all())


def test_what_is_hidden_is_not_seen():
    sight = see(shapes.plates(0.0, -0.5), [Camera(0), Camera(180), Camera(60)], (48, 48))
    front, back, side = ({f for f in view.unique().tolist() if f >= 0} for view in sight.face)
    assert front == {0, 1} and back == {2, 3} and side == {0, 1, 2, 3}  # both sides of a plate are seen
    # What the view from behind sees, the view from the front does not show, and the other way round.
    for i, j in ((0, 1), (1, 0)):
        seen = sight.foreground[i]
        pixel = sight.nearest(j, sight.points[i][seen], normals(sight.mesh, sight.face[i][seen]))
        assert bool((pixel == -1).all())


def test_the_other_side_of_a_thin_wall_is_another_surface():
    sight = see(shapes.plates(0.0, -1e-4), [Camera(10), Camera(190)], (48, 48))
    wall = Mesh(sight.mesh.vertices, np.concatenate([sight.mesh.faces[:2], sight.mesh.faces[2:, ::-1]]))
    sight = see(wall, sight.cameras, (48, 48))
    seen = sight.foreground[0]
    pixel = sight.nearest(1, sight.points[0][seen], normals(wall, sight.face[0][seen]))
    assert bool((pixel == -1).all())


def test_a_view_shows_its_own_points_at_their_pixels():
    mesh = shapes.sphere(30, 60)
    sight = see(mesh, CAMERAS, (40, 40))
    for i in (0, 3, 9):
        seen = sight.foreground[i] & (sight.cosine[i] > 0.15)
        at, normal = sight.points[i][seen], normals(mesh, sight.face[i][seen])
        own = torch.arange(1600).reshape(40, 40)[seen]
        assert torch.equal(sight.nearest(i, at, normal), own)
        index, weight = sight.around(i, at, normal)
        torch.testing.assert_close(weight.sum(1), torch.ones(len(own)))
        assert float(weight[index == own[:, None]].min()) > 0.99


def test_points_are_found_again_in_other_views():
    """By an independent rule: on a sphere a point is visible where it faces the camera."""
    mesh = shapes.sphere(100, 200)
    sight = see(mesh, CAMERAS, (64, 64))
    for i, j in ((0, 1), (0, 4), (2, 8)):
        seen = sight.foreground[i]
        at, normal = sight.points[i][seen], normals(mesh, sight.face[i][seen])
        cosine = (sight.cameras[j].towards(at) * normal).sum(-1)
        pixel = sight.nearest(j, at, normal)
        assert bool((pixel[cosine > 0.2] >= 0).all()) and bool((pixel[cosine < 0] < 0).all())
        there = sight.points[j].reshape(-1, 3)[pixel.clamp_min(0)]
        # As far as the corner of a pixel is from its middle, on a slope.
        limit = 0.75 * float(sight.footprint[j].max()) / cosine.clamp_min(0.1)
        assert bool(((there - at).norm(dim=-1) <= limit)[pixel >= 0].all())


def test_half_a_million_faces():
    mesh = shapes.sphere(500, 500)
    assert len(mesh.faces) == 500_000
    sight = see(mesh, [Camera(0)], (33, 33))
    assert 0.4 < float(sight.foreground.float().mean()) < 0.8
    assert float(sight.depth[0, 16, 16]) == pytest.approx(2.0, abs=1e-3)


def test_one_face_and_broken_meshes():
    triangle = Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    sight = see(triangle, [Camera(0), Camera(180)], (16, 16))
    assert bool(sight.foreground.flatten(1).any(1).all())
    assert {0} == set(sight.face[sight.foreground].tolist())
    with pytest.raises(ValueError, match="no camera sees any of the mesh"):
        see(triangle, [Camera(90)], (16, 16))
    scan = shapes.scan()
    sight = see(scan, CAMERAS, (32, 32))
    assert bool((scan.areas[sight.face[sight.foreground]] > 0).all())  # degenerate faces are seen by nobody
    for name in ("barycentric", "normal", "cosine", "footprint"):
        assert bool(torch.isfinite(getattr(sight, name)).all())
    torch.testing.assert_close(sight.normal.norm(dim=-1)[sight.foreground], torch.ones(int(sight.foreground.sum())))


def test_progress_and_rasterizers(capsys, monkeypatch):
    see(shapes.cube(), CAMERAS, (8, 8), progress=True)
    assert "Views of the mesh" in capsys.readouterr().err
    with pytest.raises(ValueError, match="rasterizer must be one of 'auto', 'embree', 'nvdiffrast', got 'opengl'"):
        see(shapes.cube(), CAMERAS, (8, 8), rasterizer="opengl")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ImportError, match="torch finds no CUDA device: use rasterizer='embree'"):
        see(shapes.cube(), CAMERAS, (8, 8), rasterizer="nvdiffrast")
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    with pytest.raises(ImportError, match="meshes need the package embreex"):
        see(shapes.cube(), CAMERAS, (8, 8))


def test_footprint_is_the_pixels_side():
    camera = Camera(0, fov=40)
    sight = see(shapes.plates(0.0), [camera], (64, 64))
    across = 2 * camera.distance * math.tan(math.radians(20)) / 64
    assert float(sight.footprint[0, 32, 32]) == pytest.approx(across, rel=1e-5)
