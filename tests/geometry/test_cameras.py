"""Cameras look where they say, and rays are the inverse of looking."""

import math

import pytest
import torch

from fastsync.geometry import CAMERAS, Camera, ring

SIZE = (13, 17)


@pytest.mark.parametrize("orthographic", [False, True])
@pytest.mark.parametrize("angles", [(0, 0), (90, 0), (200, 30), (10, -60), (45, 90), (0, -90)])
def test_rays_go_through_the_points_that_are_looked_at(angles, orthographic):
    camera = Camera(*angles, distance=2.5, fov=50, orthographic=orthographic)
    start, direction = camera.rays(SIZE)
    depth = 1.0 + torch.rand(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = start + depth[..., None] * direction
    row, column, found = camera.look(points, SIZE)
    y, x = torch.meshgrid(torch.arange(13.0), torch.arange(17.0), indexing="ij")
    for got, expected in ((row, y), (column, x), (found, depth)):
        torch.testing.assert_close(got, expected.double(), atol=1e-9, rtol=0)
    towards = torch.nn.functional.normalize(-direction, dim=-1)
    torch.testing.assert_close(camera.towards(points), towards, atol=1e-9, rtol=0)


def test_what_is_where_in_the_picture():
    right, top, front = torch.eye(3, dtype=torch.float64)
    for camera, out, aside in ((Camera(0), front, right), (Camera(90), right, -front), (Camera(180), -front, -right)):
        row, column, depth = camera.look(torch.stack([0.5 * out, 0.5 * aside, 0.5 * top]), (9, 9))
        assert float(depth[0]) == pytest.approx(2.5) and float(row[0]) == float(column[0]) == pytest.approx(4)
        assert column[1] > 5 and float(row[1]) == pytest.approx(4)
        assert row[2] < 3 and float(column[2]) == pytest.approx(4)
    row, column, depth = Camera(30, 90).look(0.5 * top, (9, 9))  # straight from above
    assert float(depth) == pytest.approx(2.5) and float(row) == float(column) == pytest.approx(4)


def test_the_unit_sphere_fits_and_kinds_agree_at_the_origin():
    near = Camera(0, distance=3.0, fov=40)
    assert near.distance * math.sin(math.radians(near.fov / 2)) >= 1
    for size in ((64, 64), (64, 96), (96, 64)):
        step = torch.tensor([0.1, 0.2, 0.0], dtype=torch.float64)
        for a, b in zip(near.look(step, size), Camera(0, orthographic=True).look(step, size), strict=True):
            torch.testing.assert_close(a, b)


def test_sets():
    assert len(CAMERAS) == 10 and [c.elevation for c in CAMERAS] == [0.0] * 8 + [30.0] * 2
    assert [c.azimuth for c in ring(4, 10.0, start=5.0, fov=30.0)] == [5.0, 95.0, 185.0, 275.0]


def test_what_makes_no_sense_is_refused():
    assert Camera.of((10, 20)) == Camera(10, 20) and Camera.of([10, 20, 4, 30]) == Camera(10, 20, 4, 30)
    with pytest.raises(TypeError, match="a camera must be a fastsync.geometry.Camera or"):
        Camera.of((1.0,))
    with pytest.raises(ValueError, match="elevation must be at least -90 and at most 90, got 91"):
        Camera(0, 91)
    with pytest.raises(ValueError, match="distance must be above 1, got 1"):
        Camera(distance=1.0)
    with pytest.raises(ValueError, match="fov must be"):
        Camera(fov=0.5)
    with pytest.raises(TypeError, match="azimuth must be a number"):
        Camera("front")
