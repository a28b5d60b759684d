"""Every method on every canvas and every kind of prior: it runs, or one sentence says why it makes no sense."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from exact_priors import Counting, nonlinear, relative
from shapes import sphere

import fastsync as fs
from fastsync.geometry import ring

SHAPE = (3, 8, 8)
STEPS = 4
GUIDED = 2


def scheduler(kind):
    if kind == "flow":
        return FlowMatchEulerDiscreteScheduler()
    return DDIMScheduler(clip_sample=False, prediction_type=kind, timestep_spacing="trailing")


METHODS = {
    "independent": fs.Independent(),
    "multidiffusion": fs.MultiDiffusion(),
    "gaussian": fs.MultiDiffusion("gaussian"),
    "synctweedies": fs.SyncTweedies(),
    "syncsde": fs.SyncSDE(),
    "syncdiffusion": fs.SyncDiffusion(0.1, perceptual=lambda a, b: (a.mean((2, 3)) - b.mean((2, 3))).square().sum()),
    "stochsync": fs.StochSync(steps=9, start=900, stop=300),
    "syncvc": fs.SyncVC(iterations=2),
    "search": fs.SyncVC(search=2),
}


def _masks():
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, :, :4, :5] = 1.0
    masks[1, :, 3:, 2:7] = 0.7
    return masks


CANVASES = {
    "wide": lambda: fs.WideCanvas((8, 19), (8, 8), 5),
    "grid": lambda: fs.WideCanvas((13, 14), (8, 8), (5, 6), loop="xy"),
    "panorama": lambda: fs.PanoramaCanvas((28, 56), fs.canvases.ring(5, fov=90.0), (8, 8)),
    "torus": lambda: fs.PanoramaCanvas((48, 48), [(0, 0, 80), (40, 10, 80), (10, 45, 80)], (8, 8), surface="torus"),
    "illusion": lambda: fs.IllusionCanvas(["identity", "rotate_cw", "negate"], SHAPE),
    "mask": lambda: fs.MaskCanvas(_masks()),
    "mesh": lambda: fs.MeshCanvas(sphere(), ring(3, elevation=20.0), view_size=8),
}
RESAMPLED = ("panorama", "torus", "mesh")
SENSELESS = {(name, canvas) for name in ("multidiffusion", "gaussian", "syncdiffusion") for canvas in RESAMPLED}


def run(method, canvas, kind, **options):
    prior = fs.FunctionPrior(nonlinear, scheduler(kind), SHAPE, dtype=torch.float64)
    prior.eps_fn = counter = Counting(nonlinear)
    views = canvas.num_views + (isinstance(canvas, fs.MaskCanvas) and method.noise_use == "read")
    cond = torch.sin(torch.arange(views * 3 * 64, dtype=torch.float64)).reshape(views, *SHAPE)
    out = fs.sample(
        prior, canvas, method, cond=cond, uncond=torch.zeros_like(cond[:1]), guidance_scale=2.0,
        num_inference_steps=STEPS, generator=torch.Generator().manual_seed(3), **options,
    )  # fmt: skip
    return out, counter, views


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("name", METHODS)
def test_it_runs_or_says_why_not(name, canvas, kind):
    canvas_object = CANVASES[canvas]()
    if (name, canvas) in SENSELESS:
        with pytest.raises(ValueError, match="merges noisy states, which a canvas that resamples them"):
            run(METHODS[name], canvas_object, kind)
        return
    out, counter, views = run(METHODS[name], canvas_object, kind)
    assert out.canvas.shape == (1, 3, *canvas_object.size) and out.canvas.dtype == torch.float64
    assert out.views.shape == (views, *SHAPE)
    assert torch.isfinite(out.canvas).all() and out.canvas.std() > 0.01
    # What it says that it spends is what the network was asked.
    assert counter.rows == out.stats.evaluations and counter.calls == out.stats.calls
    # The same seed gives the same numbers in every order, and in any split of the batches.
    for order in METHODS[name].orders:
        again, _, _ = run(METHODS[name], CANVASES[canvas](), kind, order=order, max_batch=2)
        assert relative(again.canvas, out.canvas) < 1e-9, order


@pytest.mark.parametrize("canvas", [name for name in CANVASES if name not in RESAMPLED])
def test_what_a_step_spends(canvas):
    """Rows a run, guidance's two halves counted: from the number of views, levels and iterations alone."""
    built = CANVASES[canvas]()
    n = built.num_views
    whole = n + (canvas == "mask")
    sources = (built.chained() if canvas == "mask" else built).neighbours(range(whole)).sources
    followers = sum(1 for read in sources if read)
    expected = {
        "independent": n,
        "multidiffusion": n,
        "synctweedies": n,
        "syncsde": whole,
        "syncdiffusion": n + (n - 1),
        "syncvc": whole + 2 * followers,
        "search": whole + 1 * followers,
    }
    for name, rows in expected.items():
        out, _, _ = run(METHODS[name], CANVASES[canvas](), "epsilon")
        assert out.stats.evaluations == GUIDED * STEPS * rows, name


def test_stochsync_of_one_view_and_one_step_is_sdedit():
    """Noise a picture (here the empty one) to one time, and take the deterministic steps down from it."""
    prior = fs.FunctionPrior(nonlinear, scheduler("epsilon"), SHAPE, dtype=torch.float64)
    noise = torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cond = torch.zeros(1, *SHAPE, dtype=torch.float64)
    out = fs.sample(
        prior, fs.WideCanvas((8, 8), (8, 8), 8), fs.StochSync(steps=1, start=599, stop=100, blend_steps=0), cond=cond,
        num_inference_steps=10, latents=noise, guidance_scale=1.0,
    )  # fmt: skip
    ddim = scheduler("epsilon")
    ddim.set_timesteps(10)
    assert 599 in ddim.timesteps.tolist()
    abar = ddim.alphas_cumprod.double()
    x = (1 - abar[599]).sqrt() * noise
    for t in (t for t in ddim.timesteps if t <= 599):
        x = ddim.step(nonlinear(x, t.reshape(1), cond), t, x).prev_sample
    assert relative(out.canvas, x) < 1e-6


def test_multidiffusion_step_by_step_on_a_network_that_is_not_linear():
    canvas, steps = fs.WideCanvas((8, 14), (8, 8), 3), 5
    prior = fs.FunctionPrior(nonlinear, scheduler("epsilon"), SHAPE, dtype=torch.float64)
    cond = torch.sin(torch.arange(3 * 3 * 64, dtype=torch.float64)).reshape(3, *SHAPE)
    z = torch.randn(1, 3, 8, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = fs.sample(prior, canvas, fs.MultiDiffusion(), cond=cond, num_inference_steps=steps, latents=z)
    ddim = scheduler("epsilon")
    ddim.set_timesteps(steps)
    for t in ddim.timesteps:
        value, count = torch.zeros_like(z), torch.zeros_like(z)
        for i, left in enumerate((0, 3, 6)):
            view = z[..., left : left + 8]
            value[..., left : left + 8] += ddim.step(
                nonlinear(view, t.reshape(1), cond[i : i + 1]), t, view
            ).prev_sample
            count[..., left : left + 8] += 1
        z = value / count
    assert relative(out.canvas, z) < 1e-6
