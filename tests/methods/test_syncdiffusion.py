import pytest
import torch
from exact_priors import Counting, ddim, nonlinear, randn, relative

import fastsync as fs
from fastsync.rewards import Overlap, Perceptual, Style


def looks(a, b):
    """A made-up perceptual distance of two pictures."""
    return (a.mean((2, 3)) - b.mean((2, 3))).square().sum() + 0.1 * (a.abs().mean() - b.abs().mean()).square()


def decode(x0):
    """A made-up decoder with a clamp: [B, 2, h, w] to [B, 3, 2h, w]."""
    mixed = torch.stack([x0[:, 0] + 0.5 * x0[:, 1], x0[:, 1], x0[:, 0] * x0[:, 1]], 1)
    return torch.cat([mixed, -mixed], 2).clamp(-1, 1)


def setup(eps_fn=nonlinear, count=4):
    canvas = fs.WideCanvas((4, 2 + 4 * count), (4, 6), 4)
    prior = fs.FunctionPrior(eps_fn, ddim(steps_offset=1), (2, 4, 6), dtype=torch.float64)
    return prior, canvas, 0.5 * randn(count, 2, 4, 6, seed=1), randn(1, 2, *canvas.size, seed=2)


@pytest.mark.parametrize("order", ["batched", "sequential"])
@pytest.mark.parametrize("options", [{}, {"until": 2}, {"every": 2, "decay": 4.0}])
def test_step_by_step(order, options):
    prior, canvas, cond, z = setup()
    steps, scheduler, anchor = 5, ddim(steps_offset=1), 2
    scheduler.set_timesteps(steps)
    method = fs.SyncDiffusion(weight=3.0, perceptual=looks, decode=decode, **options)
    canvas_state = z
    for k, t in enumerate(scheduler.timesteps):
        abar = scheduler.alphas_cumprod.double()[t]
        a, b = abar.sqrt(), (1 - abar).sqrt()

        def clean(x, i, t=t, a=a, b=b):
            return (x - b * nonlinear(x, t.reshape(1), cond[i : i + 1])) / a

        x = torch.stack([canvas_state[0, :, :, s : s + 6] for s in range(0, 16, 4)])
        target = decode(clean(x[anchor : anchor + 1], anchor))
        moved = x.clone()
        if k < options.get("until", 99) and (k + 1) % options.get("every", 1) == 0:
            for i in (0, 1, 3):
                leaf = x[i : i + 1].clone().requires_grad_()
                looks(decode(clean(leaf, i)), target).backward()
                moved[i] -= 3.0 * options.get("decay", 0.95) ** k * leaf.grad[0]
        views = scheduler.step(nonlinear(moved, t.expand(4), cond), t, moved).prev_sample
        total, weight = torch.zeros_like(z), torch.zeros(18).double()
        for i in range(4):
            total[0, :, :, 4 * i : 4 * i + 6] += views[i]
            weight[4 * i : 4 * i + 6] += 1
        canvas_state = total / weight
    out = fs.sample(prior, canvas, method, cond=cond, latents=z, num_inference_steps=steps, order=order)
    assert relative(out.canvas, canvas_state) < 1e-6  # diffusers computes its coefficients in float32
    plain = fs.sample(prior, canvas, fs.MultiDiffusion(), cond=cond, latents=z, num_inference_steps=steps)
    assert relative(out.canvas, plain.canvas) > 1e-3


def test_without_weight_it_is_multidiffusion():
    prior, canvas, cond, z = setup()
    common = {"cond": cond, "latents": z, "num_inference_steps": 4, "eta": 0.5}
    zero = fs.sample(prior, canvas, fs.SyncDiffusion(0.0), generator=torch.Generator().manual_seed(1), **common)
    multi = fs.sample(prior, canvas, fs.MultiDiffusion(), generator=torch.Generator().manual_seed(1), **common)
    assert relative(zero.canvas, multi.canvas) < 1e-12
    assert zero.stats.evaluations == multi.stats.evaluations and zero.stats.gradients == 0


@pytest.mark.parametrize("guided", [False, True])
def test_what_it_spends(guided):
    counter = Counting(nonlinear)
    prior, canvas, cond, z = setup(counter)
    uncond = randn(1, 2, 4, 6, seed=5) if guided else None
    method = fs.SyncDiffusion(perceptual=looks, decode=decode, until=2)
    out = fs.sample(
        prior, canvas, method, cond=cond, uncond=uncond, guidance_scale=2.0, latents=z, num_inference_steps=5
    )
    halves = 2 if guided else 1
    # The anchor is never asked twice; the other three are, in the two steps that move them.
    assert out.stats.evaluations == counter.rows == halves * (5 * 4 + 2 * 3)
    assert out.stats.gradients == counter.backward_rows == halves * 2 * 3
    assert out.stats.calls == counter.calls == 5 * 2 + 2


def colours(x0):
    """A made-up decoder without a clamp: [B, 2, h, w] to [B, 3, h, w]."""
    return torch.tanh(torch.stack([x0[:, 0] + 0.5 * x0[:, 1], x0[:, 1], x0[:, 0] * x0[:, 1]], 1))


def layers(pictures):
    return [torch.tanh(pictures.roll(1, -1) - 0.5 * pictures + 0.2), pictures[..., ::2, ::2].sin()]


def test_rewards_stand_for_the_distance():
    prior, canvas, cond, z = setup()
    alike, style = Perceptual(layers, 2.0), Style(torch.sigmoid(randn(3, 8, 8)), features=layers)
    common = {"cond": cond, "latents": z, "num_inference_steps": 3}
    pairs = [
        (alike, lambda a, b: 2.0 * alike.distance(a / 2 + 0.5, b / 2 + 0.5)),
        (style, lambda a, b: -style(a[0] / 2 + 0.5, [], 0)),
    ]
    plain = fs.sample(prior, canvas, fs.SyncDiffusion(0.0), **common)
    for reward, distance in pairs:
        outs = [
            fs.sample(prior, canvas, fs.SyncDiffusion(5.0, perceptual=p, decode=colours), **common)
            for p in (reward, distance)
        ]
        assert relative(outs[0].views, outs[1].views) < 1e-12 < 1e-6 < relative(outs[0].views, plain.views)


def test_by_default_it_looks_with_the_embedded_features():
    method = fs.SyncDiffusion(5.0, decode=colours)
    assert isinstance(method.perceptual, Perceptual) and fs.SyncDiffusion(0.0).perceptual is None
    prior, canvas, cond, z = setup()
    out = fs.sample(prior, canvas, method, cond=cond, latents=z, num_inference_steps=2)
    plain = fs.sample(prior, canvas, fs.MultiDiffusion(), cond=cond, latents=z, num_inference_steps=2)
    assert torch.isfinite(out.views).all() and relative(out.views, plain.views) > 1e-6


def test_settings_are_checked():
    with pytest.raises(ValueError, match="must judge pictures, with a gradient, and Overlap does not"):
        fs.SyncDiffusion(perceptual=Overlap())
    with pytest.raises(TypeError, match="perceptual must be callable"):
        fs.SyncDiffusion(perceptual=3)
    with pytest.raises(ValueError, match="weight"):
        fs.SyncDiffusion(weight=-1.0)
    with pytest.raises(ValueError, match="every"):
        fs.SyncDiffusion(perceptual=looks, every=0)


def test_gradients_that_are_not_finite_are_named():
    prior, canvas, cond, z = setup()
    method = fs.SyncDiffusion(perceptual=lambda a, b: torch.sqrt(0 * a).sum(), decode=decode)
    with pytest.raises(FloatingPointError, match="view 0, step 0"):
        fs.sample(prior, canvas, method, cond=cond, latents=z, num_inference_steps=2)
