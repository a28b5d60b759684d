import pytest
import torch
from exact_priors import Gaussian, ddim, nonlinear, randn, relative, signal_noise

import fastsync as fs
from fastsync.run import Noise


def gaussian_setup(loop=False):
    canvas = fs.WideCanvas((5, 12), (4, 6), (2, 4), loop=loop)
    shape, scheduler = (2, 4, 6), ddim(steps_offset=1)
    gauss = Gaussian(scheduler, shape, correlated=True)
    prior = fs.FunctionPrior(gauss, scheduler, shape, dtype=torch.float64)
    return prior, canvas, gauss, randn(canvas.num_views, *shape, seed=1), randn(1, 2, 5, 12, seed=2)


def bell(h, w):
    y = torch.arange(h, dtype=torch.float64)[:, None] - (h - 1) / 2
    x = torch.arange(w, dtype=torch.float64)[None, :] - (w - 1) / 2
    return torch.exp(-0.5 * (4 * y / h) ** 2 - 0.5 * (4 * x / w) ** 2)


@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("order", ["batched", "sequential"])
def test_a_gaussian_prior_step_by_step(weights, loop, order):
    # One step of a view is linear: x_s = a_s (x - b eps)/a + b_s eps, eps = G_t (x - a mu); then the weighted mean.
    prior, canvas, gauss, mu, z = gaussian_setup(loop)
    seen = []
    steps = 6
    out = fs.sample(
        prior,
        canvas,
        fs.MultiDiffusion(weights),
        cond=mu,
        latents=z,
        num_inference_steps=steps,
        order=order,
        callback=lambda step, t, state: seen.append(state["latents"]),
    )
    weight = torch.ones(4, 6, dtype=torch.float64) if weights == "uniform" else bell(4, 6)
    expected = z
    scheduler = ddim(steps_offset=1)
    scheduler.set_timesteps(steps)
    for k, t in enumerate(scheduler.timesteps):
        a, b = signal_noise(scheduler, t.reshape(1))
        previous = t - 1000 // steps
        a_s, b_s = signal_noise(scheduler, previous.reshape(1)) if previous >= 0 else (torch.ones(1), torch.zeros(1))
        top, bottom = torch.zeros_like(z), torch.zeros(5, 12, dtype=torch.float64)
        crops = []
        for i, (y, x) in enumerate(canvas.origins):
            rows, columns = torch.arange(y, y + 4)[:, None], torch.arange(x, x + 6) % 12
            crops.append((rows, columns))
            view = expected[0][:, rows, columns].flatten()
            eps = gauss.matrix(t) @ (view - a * mu[i].flatten())
            view = (a_s * (view - b * eps) / a + b_s * eps).reshape(2, 4, 6)
            top[0].index_put_((torch.arange(2)[:, None, None], rows, columns), weight * view, accumulate=True)
            bottom.index_put_((rows, columns), weight, accumulate=True)
        expected = top / bottom
        views = torch.stack([expected[0][:, rows, columns] for rows, columns in crops])
        assert relative(seen[k], views) < 1e-10, f"step {k}"
    assert len(seen) == steps
    assert relative(out.canvas, expected) < 1e-10
    assert relative(out.views, views) < 1e-10


def test_weights_matter():
    prior, canvas, _, mu, z = gaussian_setup()
    common = {"cond": mu, "latents": z, "num_inference_steps": 3}
    uniform, gaussian = (fs.sample(prior, canvas, fs.MultiDiffusion(w), **common) for w in ("uniform", "gaussian"))
    assert relative(gaussian.canvas, uniform.canvas) > 1e-3
    with pytest.raises(ValueError, match="weights must be one of 'uniform', 'gaussian', got 'triangle'"):
        fs.MultiDiffusion("triangle")


@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_loop_turns_with_its_noise(weights, eta):
    canvas = fs.WideCanvas((4, 12), (4, 6), 4, loop=True)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, 4, 6), dtype=torch.float64)
    cond, z = randn(1, 2, 4, 6, seed=1), randn(1, 2, 4, 12, seed=2)
    draw = Noise.draw  # the noise of stochastic steps turns with the canvas
    results = []
    for shift in (0, -4, 8):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Noise, "draw", lambda self, shape, shift=shift: draw(self, shape).roll(shift, -1))
            out = fs.sample(
                prior,
                canvas,
                fs.MultiDiffusion(weights),
                cond=cond,
                latents=z.roll(shift, -1),
                num_inference_steps=4,
                eta=eta,
                generator=torch.Generator().manual_seed(1),
            )
        results.append(out.canvas.roll(-shift, -1))
    assert relative(results[1], results[0]) < 1e-12 and relative(results[2], results[0]) < 1e-12
