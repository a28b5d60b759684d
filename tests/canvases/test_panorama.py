"""PanoramaCanvas: cameras see where they look, no meridian and no pole is special, noise stays white."""

import math

import pytest
import torch
from exact_priors import ddim, nonlinear, randn, relative
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsync as fs
from fastsync.canvases import CAMERAS, POLES, ring

SIZE, WINDOW = (48, 96), (12, 12)


def sphere(size):
    """A picture [1, 3, H, W] whose colour is the direction: (right, up, forward at azimuth 0)."""
    latitude = (0.5 - (torch.arange(size[0], dtype=torch.float64) + 0.5) / size[0]) * math.pi
    longitude = ((torch.arange(size[1], dtype=torch.float64) + 0.5) / size[1] - 0.5) * 2 * math.pi
    flat = latitude.cos()[:, None]
    return torch.stack([flat * longitude.sin(), latitude.sin()[:, None].expand(size), flat * longitude.cos()])[None]


@pytest.mark.parametrize("camera", [*CAMERAS, *POLES, (10.0, 90.0, 80.0), (0.0, -90.0, 80.0), (180.0, 0.0, 60.0)])
def test_cameras_see_where_they_look(camera):
    azimuth, elevation, fov = (math.radians(angle) for angle in camera)
    seen = fs.PanoramaCanvas((192, 384), [camera], (11, 11)).project(sphere((192, 384)))[0]
    forward = [math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)]
    assert torch.allclose(seen[:, 5, 5], torch.tensor(forward, dtype=torch.float64), atol=1e-3)
    # The outermost pixel centres of the middle row are 10/11 of the picture's width apart.
    angle = torch.acos((seen[:, 5, 0] @ seen[:, 5, 10]).clamp(-1, 1))
    assert math.isclose(float(angle), 2 * math.atan(10 / 11 * math.tan(fov / 2)), abs_tol=2e-3)
    # Upright: pixels above look higher up.
    above = seen[1, 4, 5] - seen[1, 6, 5]
    assert above > 0 or abs(abs(camera[1]) - 90) < 1e-9


@given(st.floats(-400, 400), st.floats(-90, 90), st.floats(40, 120), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_maps_are_linear_and_adjoint(azimuth, elevation, fov, seed):
    canvas = fs.PanoramaCanvas(SIZE, [(azimuth, elevation, fov), (0.0, 0.0, 90.0)], (6, 8))
    z, x = randn(1, 2, *SIZE, seed=seed), randn(2, 2, 6, 8, seed=seed + 1)
    # Weights are float32 numbers.
    torch.testing.assert_close((canvas.project(z) * x).sum(), (z * canvas.adjoint(x)).sum(), rtol=1e-9, atol=1e-9)
    ones = torch.ones(1, 1, *SIZE, dtype=torch.float64)
    torch.testing.assert_close(canvas.project(ones), torch.ones(2, 1, 6, 8, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert math.isclose(float(canvas.coverage.sum()), 2 * 6 * 8, rel_tol=1e-4)


@given(st.floats(-180, 180), st.floats(-90, 90), st.floats(60, 120))
@settings(max_examples=25, deadline=None)
def test_noise_stays_white(azimuth, elevation, fov):
    canvas = fs.PanoramaCanvas(SIZE, [(azimuth, elevation, fov)], (8, 8))
    # Cells numbered: each pixel has a cell of its own, near the one that it looks at.
    cells = torch.arange(SIZE[0] * SIZE[1], dtype=torch.float64).reshape(1, 1, *SIZE)
    own = canvas.project_noise(cells)[0, 0].long()
    assert len(own.unique()) == 64
    directions = sphere(SIZE)[0].flatten(1)[:, own.flatten()]
    looked = canvas.project(sphere(SIZE))[0].flatten(1)
    assert float((directions * looked).sum(0).clamp(-1, 1).acos().max()) < math.radians(6 * 180 / SIZE[0])


def test_views_that_overlap_share_their_noise():
    canvas = fs.PanoramaCanvas(SIZE, [(0.0, 0.0, 90.0), (10.0, 0.0, 90.0)], (12, 12))
    one, other = canvas.project_noise(torch.arange(48.0 * 96).reshape(1, 1, *SIZE))
    assert len(set(one.flatten().tolist()) & set(other.flatten().tolist())) > 12


@pytest.mark.parametrize("solver", ["splat", "cg"])
def test_a_smooth_picture_comes_back(solver):
    canvas = fs.PanoramaCanvas((96, 192), [*CAMERAS, *POLES], (24, 24))
    z = sphere((96, 192))
    seen = canvas.coverage[0, 0] > 0.5
    assert seen.float().mean() > 0.1
    back = canvas.merge(canvas.project(z), solver=solver)
    assert float((back - z)[..., seen].abs().max()) < (0.08 if solver == "splat" else 0.03)


def test_least_squares_repeats_what_it_projected():
    canvas = fs.PanoramaCanvas(SIZE, CAMERAS, (12, 12))
    views = canvas.project(randn(1, 2, *SIZE))
    assert relative(canvas.project(canvas.merge(views, solver="cg", iterations=200)), views) < 1e-3
    assert relative(canvas.project(canvas.merge(views)), views) > 0.1  # the splat blurs
    # The least squares of views that contradict each other is no worse than any other canvas.
    x = randn(canvas.num_views, 2, 12, 12, seed=2)
    best = canvas.merge(x, solver="cg", iterations=200)
    error = float((canvas.project(best) - x).square().sum())
    for other in (canvas.merge(x), best + 0.01 * randn(1, 2, *SIZE, seed=3)):
        assert error < float((canvas.project(other) - x).square().sum())


def test_cells_between_pixels_are_filled_in():
    # Four times as many cells as pixels each way: most lie between.
    canvas, z = fs.PanoramaCanvas((144, 288), CAMERAS, (16, 16)), sphere((144, 288))
    back = canvas.merge(canvas.project(z), previous=torch.full_like(z, 9.0))
    latitude = sphere((144, 288))[0, 1, :, 0].asin().rad2deg()
    ring_of_views = latitude.abs() < 28  # inside the pictures of all cameras
    assert float((canvas.coverage[0, 0][ring_of_views] == 0).float().mean()) > 0.4
    assert float((back - z)[:, :, ring_of_views].abs().max()) < 0.08
    assert bool((back[:, :, latitude.abs() > 40] == 9.0).all())


def test_cells_that_nobody_sees_keep_what_they_had():
    canvas = fs.PanoramaCanvas(SIZE, CAMERAS, (12, 12))
    previous = randn(1, 2, *SIZE)
    z = canvas.merge(randn(10, 2, 12, 12, seed=1), previous=previous)
    unseen = canvas.coverage[0, 0] == 0
    unseen[8:-8] = False  # what lies between pixels is filled in
    assert bool(unseen[0].all()) and torch.equal(z[..., unseen], previous[..., unseen])


METHODS = {"SyncTweedies": fs.SyncTweedies, "SyncSDE": fs.SyncSDE, "SyncVC": lambda: fs.SyncVC(iterations=2)}


def panorama(turn, method, z, cond, surface):
    """A run with everything turned down and to the right by some rows and columns of the canvas."""
    (down, right), (height, width) = turn, z.shape[2:]
    cameras = [
        (azimuth + 360 * right / width, (elevation - 360 * down / height + 180) % 360 - 180, fov)
        for azimuth, elevation, fov in CAMERAS
    ]
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, *WINDOW), dtype=torch.float64)
    canvas = fs.PanoramaCanvas((height, width), cameras, WINDOW, surface)
    return fs.sample(prior, canvas, METHODS[method](), cond=cond, latents=z.roll(turn, (2, 3)), num_inference_steps=3)


@pytest.mark.parametrize("surface", ["sphere", "cylinder", "torus"])
@pytest.mark.parametrize("method", METHODS)
def test_the_seam_is_no_special_place(method, surface):
    z, cond = randn(1, 2, 96 if surface == "torus" else 48, 96), 0.5 * randn(10, 2, *WINDOW, seed=1)
    still = panorama((0, 0), method, z, cond, surface)
    for turn in [(0, 8), (0, 52)] + [(44, 0), (50, 90)] * (surface == "torus"):
        turned = panorama(turn, method, z, cond, surface)
        assert relative(turned.canvas, still.canvas.roll(turn, (2, 3))) < 1e-6
        assert relative(turned.views, still.views) < 1e-6


@pytest.mark.parametrize("order", ["wavefront", "sequential"])
def test_syncvc_agrees_on_overlaps(order):
    canvas = fs.PanoramaCanvas(SIZE, ring(8, fov=90.0), WINDOW)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, *WINDOW), dtype=torch.float64)
    common = {"cond": 0.5 * randn(8, 2, *WINDOW, seed=1), "latents": randn(1, 2, *SIZE), "num_inference_steps": 8}
    synced = fs.sample(prior, canvas, fs.SyncVC(), order=order, **common)
    apart = fs.sample(prior, canvas, fs.Independent(), **common)
    table = canvas.neighbours(list(range(8)))

    def disagreement(views):
        return sum(float(((table.target(i, views) - views[i]) * table.mask(i)).abs().sum()) for i in range(1, 8))

    assert disagreement(synced.views) < 0.5 * disagreement(apart.views)


def test_neighbours_read_the_pixel_that_looks_the_same_way():
    canvas = fs.PanoramaCanvas((192, 384), [(0.0, 0.0, 90.0), (40.0, 20.0, 90.0), (60.0, -10.0, 80.0)], (32, 32))
    views = canvas.project(sphere((192, 384)))
    table = canvas.neighbours([0, 1, 2])
    assert table.sources[0] == () and table.sources[1] == (0,) and set(table.sources[2]) <= {0, 1}
    for i in (1, 2):
        mask = table.mask(i)
        assert 0.1 < float(mask.mean()) < 1
        assert float(((table.target(i, views) - views[i]) * mask).norm(dim=0).max()) < 0.06
    painted = canvas.composite(views, [0, 1, 2])
    seen = canvas.coverage[0, 0] > 0.3
    assert float((painted - sphere((192, 384)))[..., seen].abs().max()) < 0.06


def test_what_makes_no_sense_is_refused():
    canvas = fs.PanoramaCanvas(SIZE, CAMERAS, WINDOW)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, *WINDOW), dtype=torch.float64)
    with pytest.raises(ValueError, match="MultiDiffusion merges noisy states.*use SyncTweedies, SyncSDE or SyncVC"):
        fs.sample(prior, canvas, fs.MultiDiffusion(), cond=randn(1, 2, *WINDOW))
    with pytest.raises(ValueError, match=r"\(12, 24\) is too coarse for windows of \(32, 32\)"):
        fs.PanoramaCanvas((12, 24), [(0.0, 0.0, 60.0)], (32, 32))
    with pytest.raises(TypeError, match="a camera must be"):
        fs.PanoramaCanvas(SIZE, [(0.0, 0.0)], WINDOW)
    with pytest.raises(ValueError, match="elevation must be at least -90 and at most 90, got 91"):
        fs.PanoramaCanvas(SIZE, [(0.0, 91.0, 60.0)], WINDOW)
    with pytest.raises(TypeError, match="cameras must be a list"):
        fs.PanoramaCanvas(SIZE, [], WINDOW)
    with pytest.raises(ValueError, match="z must be a canvas"):
        canvas.project(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="views must be"):
        canvas.merge(torch.zeros(3, 2, 12, 12))
    with pytest.raises(ValueError, match="solver must be one of"):
        canvas.merge(torch.zeros(10, 2, 12, 12), solver="qr")
