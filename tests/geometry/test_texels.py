"""The raster of a texture: each texel knows the point of the surface that it shows."""

import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsync.geometry import Mesh
from fastsync.geometry import texels as texels_module
from fastsync.geometry.texels import overlap, places, rasterize


def brute(mesh, size):
    """Texels inside each face, by three edge functions at every texel; those within rounding of an edge are unsure."""
    y, x = np.mgrid[: size[0], : size[1]]
    sure, unsure = np.zeros(size, bool), np.zeros(size, bool)
    for corners in places(mesh, size):
        sides = []
        for k in range(3):
            (y0, x0), (y1, x1) = corners[k], corners[(k + 1) % 3]
            length = max(np.hypot(y1 - y0, x1 - x0), 1e-12)
            sides.append(((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length)
        least = np.maximum(np.min(sides, 0), np.min(np.negative(sides), 0))
        sure |= least > 1e-6
        unsure |= np.abs(least) <= 1e-6
    return sure, unsure


@given(
    st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 50, 1 << 22])
)
@settings(max_examples=60, deadline=None)
def test_texels_in_faces(seed, count, height, width, chunk):
    random = np.random.default_rng(seed)
    uv = random.uniform(-0.3, 1.3, (3 * count, 2)).round(2)
    mesh = Mesh(random.standard_normal((3 * count, 3)), np.arange(3 * count).reshape(-1, 3), uv)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texels_module, "CHUNK", chunk)
        found = rasterize(mesh, (height, width))
    drawn = np.zeros((height, width), bool)
    drawn.flat[found.cell] = True
    sure, unsure = brute(mesh, (height, width))
    assert not (drawn ^ sure)[~unsure].any()
    # The place of the barycentrics is the texel's own.
    place = np.einsum("mk,mkd->md", found.barycentric, places(mesh, (height, width))[found.face])
    assert np.abs(place - np.stack(np.divmod(found.cell, width), 1)).max(initial=0) < 1e-3
    np.testing.assert_allclose(found.barycentric.sum(1), 1, atol=1e-5)


def test_a_whole_texture_and_its_upper_row():
    mesh = shapes.grid(7, 5, lambda u, v: np.stack([u, v, 0 * u], -1))
    found = rasterize(mesh, (20, 30))
    assert np.array_equal(found.cell, np.arange(600))
    at = np.einsum("mk,mkd->md", found.barycentric, mesh.vertices[mesh.faces][found.face]).reshape(20, 30, 3)
    np.testing.assert_allclose(at[..., 0], np.broadcast_to((np.arange(30) + 0.5) / 30, (20, 30)), atol=1e-6)
    np.testing.assert_allclose(at[:, 0, 1], 1 - (np.arange(20) + 0.5) / 20, atol=1e-6)  # row 0 is v = 1


def test_overlap():
    assert overlap(shapes.sphere(), (64, 64)) == 0 and overlap(shapes.cube(), (64, 64)) == 0
    twice = shapes.plates(0.0, -1.0)
    stacked = Mesh(twice.vertices, twice.faces, np.tile(twice.uv[:4], (2, 1)))
    assert overlap(stacked, (64, 64)) > 0.95
