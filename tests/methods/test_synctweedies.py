import pytest
import torch
from exact_priors import Counting, ddim, flow, nonlinear, randn, relative

import fastsync as fs


def setup(eps_fn=nonlinear, scheduler=None, loop=False):
    canvas = fs.WideCanvas((5, 12), (4, 6), (2, 4), loop=loop)
    prior = fs.FunctionPrior(eps_fn, scheduler or ddim(steps_offset=1), (2, 4, 6), dtype=torch.float64)
    return prior, canvas, 0.5 * randn(canvas.num_views, 2, 4, 6, seed=1), randn(canvas.num_views, 2, 4, 6, seed=2)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("max_batch", [None, 2])
def test_step_by_step(loop, eta, max_batch):
    # From views that do NOT agree, so that re-deriving eps from the merged x0 matters.
    prior, canvas, cond, x = setup(loop=loop)
    start, steps, scheduler = x.clone(), 5, ddim(steps_offset=1)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(3)
    places = [(torch.arange(y, y + 4)[:, None], torch.arange(s, s + 6) % 12) for y, s in canvas.origins]
    for t in scheduler.timesteps:
        abar = scheduler.alphas_cumprod.double()[t]
        a, b = abar.sqrt(), (1 - abar).sqrt()
        x0 = (x - b * nonlinear(x, t.expand(len(x)), cond)) / a
        total, count = torch.zeros(2, 5, 12).double(), torch.zeros(5, 12).double()
        for i, at in enumerate(places):
            total[:, at[0], at[1]] += x0[i]
            count[at] += 1
        merged = torch.stack([(total / count)[:, at[0], at[1]] for at in places])
        noise = torch.randn(1, 2, 5, 12, generator=generator, dtype=torch.float64) if eta else None
        x = scheduler.step(
            (x - a * merged) / b, t, x, eta=eta,
            variance_noise=torch.stack([noise[0][:, at[0], at[1]] for at in places]) if eta else None,
        ).prev_sample  # fmt: skip
    out = fs.sample(
        prior, canvas, fs.SyncTweedies(), cond=cond, latents=start, num_inference_steps=steps, eta=eta,
        max_batch=max_batch, generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    assert relative(out.views, x) < 1e-6  # diffusers computes its coefficients in float32


@pytest.mark.parametrize("scheduler", [ddim(steps_offset=1), flow()], ids=["vp", "flow"])
def test_from_one_canvas_noise_it_is_multidiffusion(scheduler):
    prior, canvas, cond, _ = setup(scheduler=scheduler)
    common = {"cond": cond, "latents": randn(1, 2, 5, 12, seed=4), "num_inference_steps": 6}
    tweedies = fs.sample(prior, canvas, fs.SyncTweedies(), **common)
    multi = fs.sample(prior, canvas, fs.MultiDiffusion(), **common)
    assert relative(tweedies.canvas, multi.canvas) < 1e-10


def test_disjoint_windows_are_independent():
    canvas = fs.WideCanvas((4, 18), (4, 6), 6)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), (2, 4, 6), dtype=torch.float64)
    common = {"cond": 0.5 * randn(3, 2, 4, 6, seed=1), "latents": randn(3, 2, 4, 6, seed=2), "num_inference_steps": 5}
    alone = fs.sample(prior, canvas, fs.Independent(), **common)
    assert relative(fs.sample(prior, canvas, fs.SyncTweedies(), **common).views, alone.views) < 1e-11


def test_one_evaluation_a_view_and_step():
    counter = Counting(nonlinear)
    prior, canvas, cond, views = setup(counter)
    out = fs.sample(prior, canvas, fs.SyncTweedies(), cond=cond, latents=views, num_inference_steps=3)
    assert out.stats.evaluations == counter.rows == 3 * canvas.num_views and out.stats.calls == 3


def test_a_canvas_in_pixels_is_merged_decoded():
    """Latents of a prior whose decoder is not linear: merged as pictures, and encoded again."""

    class Coded(fs.FunctionPrior):
        scale = 2

        def decode(self, latents):
            return torch.tanh(torch.nn.functional.interpolate(latents, scale_factor=2.0))[:, :3]

        def encode(self, pixels):
            return torch.atanh(0.999 * torch.nn.functional.avg_pool2d(pixels, 2))

    steps, scheduler = 4, ddim(steps_offset=1)
    prior = Coded(nonlinear, scheduler, (3, 4, 4), dtype=torch.float64)
    canvas = fs.WideCanvas((8, 12), (8, 8), (4, 4), units="pixels")
    cond, x = 0.5 * randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2)
    start = x.clone()
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        abar = scheduler.alphas_cumprod.double()[t]
        a, b = abar.sqrt(), (1 - abar).sqrt()
        pictures = prior.decode((x - b * nonlinear(x, t.expand(2), cond)) / a)
        wide = torch.cat(
            [pictures[0, ..., :4], (pictures[0, ..., 4:] + pictures[1, ..., :4]) / 2, pictures[1, ..., 4:]], -1
        )
        x0 = prior.encode(torch.stack([wide[..., :8], wide[..., 4:]]))
        x = scheduler.step((x - a * x0) / b, t, x).prev_sample
    out = fs.sample(prior, canvas, fs.SyncTweedies(), cond=cond, latents=start, num_inference_steps=steps)
    assert out.canvas.shape == (1, 3, 8, 12) and out.views.shape == (2, 3, 8, 8)
    assert relative(out.views, prior.decode(x)) < 1e-7
