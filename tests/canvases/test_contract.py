"""Every canvas of the package keeps the contract of tests/contracts/canvases.py, and so do canvases drawn at random."""

from functools import cache

import drawn_canvases
import pytest
import torch
from contracts.canvases import CanvasContract
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import cube, sphere

import fastsync as fs
from fastsync.canvases.illusion_views import VIEWS
from fastsync.geometry import ring


def zoom(h, w):
    return (torch.arange(h)[:, None] // 2 * w + torch.arange(w) // 2).long()


class TestWide(CanvasContract):
    canvases = {
        "one window": lambda: fs.WideCanvas((3, 4), (3, 4), 2),
        "row": lambda: fs.WideCanvas((4, 13), (4, 6), 4),
        "grid": lambda: fs.WideCanvas((9, 11), (5, 4), (3, 4)),
        "loop": lambda: fs.WideCanvas((5, 12), (4, 6), (1, 4), loop=True),
        "torus": lambda: fs.WideCanvas((7, 8), (4, 4), 3, loop="xy"),
    }


class TestIllusion(CanvasContract):
    canvases = {
        "all views": lambda: fs.IllusionCanvas(list(VIEWS), (2, 16, 16)),
        "oblong": lambda: fs.IllusionCanvas(["flip", "identity", "negate", "skew"], (1, 6, 9)),
        "cells twice": lambda: fs.IllusionCanvas(["identity", fs.View("zoom", zoom), "negate"], (2, 8, 8)),
    }


def masks():
    m = torch.zeros(2, 1, 7, 8)
    m[0, :, :4, :5] = 1.0
    m[1, :, 3:, 2:7] = 0.7
    return m


class TestMask(CanvasContract):
    canvases = {
        "regions": lambda: fs.MaskCanvas(masks()),
        "chained": lambda: fs.MaskCanvas(masks()).chained(),
    }


class TestPanorama(CanvasContract):
    canvases = {
        "sphere": lambda: fs.PanoramaCanvas((28, 56), fs.canvases.ring(5, fov=90.0), (8, 8)),
        "cylinder": lambda: fs.PanoramaCanvas((40, 96), fs.canvases.ring(5, fov=70.0), (8, 10), "cylinder"),
        "torus": lambda: fs.PanoramaCanvas((48, 48), [(0, 0, 80), (40, 10, 80), (10, 45, 80)], (8, 8), "torus"),
    }


@cache
def mesh(name):
    if name == "globe":
        return fs.MeshCanvas(sphere(), ring(3, elevation=20.0), view_size=8)
    return fs.MeshCanvas(cube(), ring(4, elevation=20.0), view_size=(12, 10), units="pixels")


class TestMesh(CanvasContract):
    canvases = {"globe": lambda: mesh("globe"), "cube": lambda: mesh("cube")}
    # Its least squares are held a little at the splat; what it paints nowhere else it merges.
    repeats = 0.3
    mixed = 0.1


@given(st.one_of(drawn_canvases.wide(), drawn_canvases.illusions(), drawn_canvases.scenes()))
@settings(max_examples=60, deadline=None)
def test_canvases_drawn_at_random(canvas):
    CanvasContract.check_all(canvas)
    assert (canvas.coverage > 0).all()  # crops without gaps, permutations and masks leave nothing out


BUILD = {
    "wide": lambda **units: fs.WideCanvas((4, 10), (4, 6), 4, **units),
    "illusion": lambda **units: fs.IllusionCanvas(["identity", "flip"], (3, 4, 6), **units),
    "mask": lambda **units: fs.MaskCanvas(masks(), **units),
    "panorama": lambda **units: fs.PanoramaCanvas((48, 96), [(0.0, 0.0, 80.0)], (8, 8), **units),
    "mesh": lambda **units: fs.MeshCanvas(cube(), ring(2), 16, 8, **units),
}


@pytest.mark.parametrize("name", BUILD)
def test_units_are_cells_unless_they_are_said_to_be_pixels(name):
    assert BUILD[name]().units == "cells"
    assert BUILD[name](units="pixels").chained().units == "pixels"
    with pytest.raises(ValueError, match="units must be one of 'cells', 'pixels', got 'inches'."):
        BUILD[name](units="inches")


def test_channels_are_fixed_by_illusions_alone():
    assert {name: build().channels for name, build in BUILD.items()} == {**dict.fromkeys(BUILD), "illusion": 3}
