"""The wavefront gives the numbers of the published order: any number of views, iterations, canvas and batch split."""

import pytest
import torch
from exact_priors import ddim, nonlinear, relative
from shapes import sphere

import fastsync as fs
from fastsync.geometry import ring as around

SHAPE = (2, 4, 6)


def row(n):
    return fs.WideCanvas((4, 6 + 4 * (n - 1)), (4, 6), 4)


def ring(n):
    return fs.WideCanvas((4, 4 * n), (4, 6), 4, loop=True)


CANVASES = {
    "grid": lambda: fs.WideCanvas((10, 14), (4, 6), (3, 4)),
    "torus": lambda: fs.WideCanvas((9, 16), (4, 6), (3, 4), loop="xy"),
    "flush": lambda: fs.WideCanvas((4, 21), (4, 6), 4),
    "panorama": lambda: fs.PanoramaCanvas((16, 32), [(60.0 * i, 0.0, 80.0) for i in range(6)], (4, 6)),
    "illusion": lambda: fs.IllusionCanvas(["identity", "flip", "negate", "flip_horizontal"], shape=SHAPE),
    "mesh": lambda: fs.MeshCanvas(sphere(), around(5, elevation=20.0), view_size=SHAPE[1:]),
    "masks": lambda: fs.MaskCanvas(torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(1))),
}


def nearest(x0, earlier, i):
    """A reward with a memory of all earlier views."""
    return -sum((x0 - view).square().mean() for view in earlier)


def run(canvas, method, order, dtype=torch.float64, **settings):
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), SHAPE, dtype=dtype)
    # Masks have a view more where views follow one another.
    views = canvas.chained().num_views
    cond = torch.sin(torch.arange(views * 48, dtype=dtype)).reshape(views, *SHAPE)
    return fs.sample(
        prior, canvas, method, cond=cond, uncond=-cond[:1], guidance_scale=2.0, num_inference_steps=4, eta=0.5,
        generator=torch.Generator().manual_seed(0), order=order, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
@pytest.mark.parametrize("views", range(1, 26))
def test_rows_of_windows(views, iterations):
    method = fs.SyncVC(iterations=iterations)
    chain, wave = (run(row(views), method, order) for order in ("sequential", "wavefront"))
    assert relative(wave.canvas, chain.canvas) < 1e-10
    assert relative(wave.views, chain.views) < 1e-10
    assert wave.stats.evaluations == chain.stats.evaluations and wave.stats.gradients == chain.stats.gradients
    # T N batches in a chain, T + N - 1 in a wavefront; all but the first view's and the first front's have controls.
    assert chain.stats.calls == 4 * views + iterations * 4 * (views - 1)
    assert wave.stats.calls == 3 + views + (iterations * (views + 2) if views > 1 else 0)


@pytest.mark.parametrize("views", [2, 3, 4, 9, 25])
def test_rings_whose_last_window_has_two_neighbours(views):
    method = fs.SyncVC(iterations=2)
    chain, wave = (run(ring(views), method, order) for order in ("sequential", "wavefront"))
    assert relative(wave.canvas, chain.canvas) < 1e-10


@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize("name", CANVASES)
def test_every_canvas(name, iterations):
    method = fs.SyncVC(iterations=iterations)
    canvas = CANVASES[name]()
    chain = run(canvas, method, "sequential")
    for settings in ({}, {"max_batch": 2}, {"fixed_batches": True}):
        assert relative(run(canvas, method, "wavefront", **settings).canvas, chain.canvas) < 1e-10


@pytest.mark.parametrize("views", [2, 7, 25])
def test_rewards_that_look_at_all_earlier_views(views):
    method = fs.SyncVC(iterations=2, rewards=[nearest])
    chain, wave = (run(row(views), method, order) for order in ("sequential", "wavefront"))
    assert relative(wave.canvas, chain.canvas) < 1e-10


@pytest.mark.parametrize("views", [3, 8, 25])
def test_single_precision(views):
    method = fs.SyncVC(iterations=3)
    chain, wave = (run(row(views), method, order, torch.float32) for order in ("sequential", "wavefront"))
    assert chain.canvas.dtype == torch.float32
    assert relative(wave.canvas, chain.canvas) < 1e-5


@pytest.mark.parametrize("method", [fs.SyncSDE(), fs.SyncVC(search=3), fs.SyncVC(iterations=2, jacobian="identity")])
def test_other_methods_of_the_same_dependence(method):
    order = "batched" if isinstance(method, fs.SyncSDE) else "wavefront"
    chain, wave = (run(row(6), method, o) for o in ("sequential", order))
    assert relative(wave.canvas, chain.canvas) < 1e-10
