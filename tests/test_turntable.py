"""The turntable: the texture's colours at their places, from all around."""

import numpy as np
import pytest
import shapes
from PIL import Image

from fastsync.geometry import Camera, Mesh
from fastsync.geometry.shading import SHADE, corner_normals
from fastsync.turntable import save_turntable, turntable

SIDES = {0: (200, 0, 0), 1: (0, 200, 0), 2: (0, 0, 200), 3: (200, 200, 0), 4: (200, 0, 200), 5: (0, 200, 200)}


@pytest.fixture(scope="module")
def paint():
    """A colour for each side of the cube: -x, +x, -y, +y, -z, +z."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    for side, colour in SIDES.items():
        row, column = 1 - side // 3, side % 3
        pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = colour
    return Image.fromarray(pixels)


def hue(pixel):
    """The side whose colour a pixel has, whatever the light."""
    pixel = np.asarray(pixel, float)
    return min(SIDES, key=lambda side: np.abs(pixel / pixel.max() - np.array(SIDES[side]) / 200).sum())


def test_it_turns_once_around(paint):
    frames = turntable(shapes.cube(), paint, frames=4, size=48, background="#102030", elevation=0)
    assert [frame.size for frame in frames] == [(48, 48)] * 4
    assert [hue(frame.getpixel((24, 24))) for frame in frames] == [5, 1, 4, 0]  # front, right, back, left
    assert {frame.getpixel((0, 0)) for frame in frames} == {(16, 32, 48)}
    (above,) = turntable(shapes.cube(), paint, frames=1, size=48, elevation=90)
    assert hue(above.getpixel((24, 24))) == 3


def test_colours_are_read_between_texels_and_shaded_mildly():
    """A plate that faces the camera: one light for all of it, and the texture upright."""
    y, x = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    texture = Image.fromarray(np.stack([2 * x + 100, 2 * y + 100, 0 * x + 200], -1).astype(np.uint8))
    plate = shapes.plates(0.0)
    (frame,) = turntable(plate, texture, frames=1, size=40, elevation=0)
    pixels = np.array(frame).astype(float)
    seen = np.abs(pixels - pixels[0, 0]).sum(-1) > 3
    inner = pixels[seen.any(1)][2:-2, seen.any(0)][:, 2:-2]
    light = inner[..., 2].mean() / 200
    assert SHADE < light < 1 and np.ptp(inner[..., 2]) <= 1
    steps = np.diff(inner[..., 0], axis=1), np.diff(inner[..., 1], axis=0)
    assert all(step.min() > 0 and np.ptp(step) <= 2 for step in steps)  # u to the right, rows downward
    camera = Camera()
    row, column, _ = (part.item() for part in camera.look(plate_point(plate), (40, 40)))
    expected = np.array([2 * 31.5 + 100, 2 * 31.5 + 100, 200]) * light
    np.testing.assert_allclose(pixels[round(row), round(column)], expected, atol=6)


def plate_point(plate):
    import torch

    return torch.from_numpy(plate.placed.mean(0))


def test_normals_are_smooth_but_on_creases():
    globe = shapes.sphere(16, 32)
    smooth = corner_normals(globe)[32:-32]  # without the poles' degenerate faces
    at = globe.placed[globe.faces][32:-32]
    assert (smooth * at).sum(-1).min() > 0.98
    cube = shapes.cube()
    np.testing.assert_allclose(corner_normals(cube), np.repeat(cube.normals[:, None], 3, 1))


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_file(suffix, paint, tmp_path):
    frames = turntable(shapes.cube(), paint, frames=5, size=96)
    save_turntable(frames, tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert image.n_frames == 5 and image.info["loop"] == 0 and image.size == (96, 96)
        assert np.abs(np.array(image.convert("RGB")).astype(int) - np.array(frames[0])).mean() < 5


def test_bad_input_gets_a_sentence(paint, tmp_path):
    cube = shapes.cube()
    with pytest.raises(ValueError, match="no texture coordinates.*unwrap"):
        turntable(Mesh(cube.vertices, cube.faces), paint)
    with pytest.raises(ValueError, match="frames must be at least 1"):
        turntable(cube, paint, frames=0)
    with pytest.raises(ValueError, match="elevation must be"):
        turntable(cube, paint, elevation=91)
    with pytest.raises(ValueError, match="an animation needs one of .gif, .webp"):
        save_turntable([paint], tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())
