import pytest
import torch
from exact_priors import Counting, ddim, flow, nonlinear, randn, relative

import fastsync as fs
from bench import reference

CANVASES = {
    "chain": lambda: fs.WideCanvas((4, 13), (4, 6), 4),
    "loop": lambda: fs.WideCanvas((4, 12), (4, 6), 4, loop=True),
    "grid": lambda: fs.WideCanvas((6, 7), (4, 5), (2, 2)),
}


def setup(name):
    canvas = CANVASES[name]()
    shape = (2, *canvas.window)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), shape, dtype=torch.float64)
    return prior, canvas, 0.5 * randn(canvas.num_views, *shape, seed=1), randn(1, 2, *canvas.size, seed=3)


@pytest.mark.parametrize("order", ["batched", "sequential"])
def test_a_chain_step_by_step(order):
    # Each view reads the one before it, shifted, as it was before the step.
    prior, canvas, cond, z = setup("chain")
    steps, scheduler = 5, ddim(steps_offset=1)
    scheduler.set_timesteps(steps)
    starts = [0, 4, 7]
    x = torch.stack([z[0, :, :, s : s + 6] for s in starts])
    for t in scheduler.timesteps:
        b = (1 - scheduler.alphas_cumprod.double()[t]).sqrt()
        eps = nonlinear(x, t.expand(3), cond)
        for i in (1, 2):
            shift = starts[i] - starts[i - 1]
            difference = x[i, :, :, : 6 - shift] - x[i - 1, :, :, shift:]
            eps[i, :, :, : 6 - shift] += difference * 2.0 * (t / scheduler.timesteps[0]) / b
        x = scheduler.step(eps, t, x).prev_sample
    out = fs.sample(prior, canvas, fs.SyncSDE(2.0), cond=cond, latents=z, num_inference_steps=steps, order=order)
    assert relative(out.views, x) < 1e-6  # diffusers computes its coefficients in float32
    # Later views lie on top.
    assert torch.equal(out.canvas[0, :, :, 7:], out.views[2])
    assert torch.equal(out.canvas[0, :, :, 4:7], out.views[1, :, :, :3])


@pytest.mark.parametrize("name", CANVASES)
@pytest.mark.parametrize("coupling", ["published", "stable"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_it_is_syncvc_without_iterations(name, coupling, eta):
    prior, canvas, cond, z = setup(name)
    steps = 4
    common = {"cond": cond, "latents": z, "num_inference_steps": steps, "eta": eta}
    out = fs.sample(prior, canvas, fs.SyncSDE(3.0, coupling), generator=torch.Generator().manual_seed(7), **common)
    method = fs.SyncVC(iterations=0, inv_lambda=3.0, coupling=coupling)
    other = fs.sample(prior, canvas, method, generator=torch.Generator().manual_seed(7), **common)
    assert relative(out.views, other.views) < 1e-12 and relative(out.canvas, other.canvas) < 1e-12
    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(1, 2, *canvas.size, generator=generator, dtype=torch.float64) for _ in range(steps)]
    place = reference.Cells.of_windows(canvas.origins, canvas.window, canvas.size)
    settings = {"inv_lambda": 3.0, "coupling": coupling, "eta": eta, "noise": noise}
    for function, more in ((reference.syncvc, {"iterations": 0}), (reference.syncsde, {})):
        model = reference.Model(nonlinear, ddim(steps_offset=1), cond)
        picture, expected = function(model, canvas.project(z), place, steps, **settings, **more)
        assert relative(out.views, expected) < 1e-9 and relative(out.canvas, picture) < 1e-9


def test_all_views_of_a_step_are_one_call():
    _, canvas, cond, z = setup("grid")
    counter = Counting(nonlinear)
    prior = fs.FunctionPrior(counter, ddim(steps_offset=1), (2, 4, 5), dtype=torch.float64)
    out = fs.sample(prior, canvas, fs.SyncSDE(), cond=cond, latents=z, num_inference_steps=3)
    assert out.stats.calls == counter.calls == 3
    assert out.stats.evaluations == counter.rows == 3 * canvas.num_views


def test_without_strength_it_is_independent():
    prior, canvas, cond, z = setup("chain")
    common = {"cond": cond, "latents": z, "num_inference_steps": 3}
    plain = fs.sample(prior, canvas, fs.Independent(), **common)
    assert torch.equal(fs.sample(prior, canvas, fs.SyncSDE(0.0), **common).views, plain.views)


def test_flow_models_take_the_stable_coupling():
    canvas = CANVASES["chain"]()
    prior = fs.FunctionPrior(nonlinear, flow(), (2, 4, 6), dtype=torch.float64)
    common = {"cond": 0.5 * randn(3, 2, 4, 6, seed=1), "latents": randn(1, 2, 4, 13, seed=3), "num_inference_steps": 4}
    out = fs.sample(prior, canvas, fs.SyncSDE(), **common)
    assert torch.equal(out.views, fs.sample(prior, canvas, fs.SyncSDE(coupling="stable"), **common).views)
    with pytest.raises(ValueError, match="use coupling='stable'"):
        fs.sample(prior, canvas, fs.SyncSDE(coupling="published"), **common)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="inv_lambda"):
        fs.SyncSDE(-1.0)
    with pytest.raises(ValueError, match="coupling"):
        fs.SyncSDE(coupling="strong")
