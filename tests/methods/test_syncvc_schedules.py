"""SyncVC whose step sizes and costs depend on the step; NDTM, where its controls come from, in one call."""

import pytest
import torch
from exact_priors import Gaussian, ddim, nonlinear, randn, relative

import fastsync as fs

SHAPE, STEPS, N = (2, 4, 6), 6, 4


def run(method, **options):
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), SHAPE, dtype=torch.float64)
    given = {"cond": randn(N, *SHAPE, seed=1), "num_inference_steps": STEPS, "latents": randn(1, 2, 4, 18, seed=2)}
    return fs.sample(prior, fs.WideCanvas((4, 18), (4, 6), 4), method, **{**given, **options}).canvas


def test_functions_of_the_step_that_do_not_look_at_it():
    rates = [0.05, 0.02, 0.01]
    for settings in ({}, {"control_strength": 0.7, "control_cost": 0.4, "tolerance": 0.02}):
        by_step = {**settings, "lr": lambda step, iteration: rates[iteration]}
        if settings:
            by_step["control_cost"] = lambda step: 0.4
        expected = run(fs.SyncVC(iterations=3, lr=rates, **settings))
        assert relative(run(fs.SyncVC(iterations=3, lr=lambda i: rates[i], **settings)), expected) == 0
        assert relative(run(fs.SyncVC(iterations=3, **by_step)), expected) == 0  # all steps alike: the same path


@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_every_order_has_each_views_own_step(tolerance):
    method = fs.SyncVC(
        iterations=4, lr=lambda step, iteration: 0.1 * (1 - step / STEPS) / (1 + iteration), tolerance=tolerance,
        control_cost=lambda step: 0.3 + step, control_strength=0.8,
    )  # fmt: skip
    wave, chain = (run(method, order=order) for order in ("wavefront", "sequential"))
    assert relative(wave, chain) < 1e-11
    for changes in ({"lr": 0.05}, {"control_cost": 0.3}):
        settings = {"iterations": 4, "lr": method.lr, "control_cost": method.control_cost, "control_strength": 0.8}
        assert relative(run(fs.SyncVC(**{**settings, **changes})), wave) > 1e-4


def test_steps_of_a_schedule_are_steps_of_constant_settings():
    """A session that changes its settings from step to step says the same."""
    rates, costs = [0.1, 0.05, 0.02, 0.1, 0.0, 0.03], [0.0, 2.0, 0.5, 0.1, 1.0, 0.0]
    method = fs.SyncVC(
        iterations=3,
        lr=lambda step, iteration: rates[step],
        control_cost=lambda step: costs[step],
        control_strength=0.7,
    )
    expected = run(method)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), SHAPE, dtype=torch.float64)
    session = fs.Session(
        prior, fs.WideCanvas((4, 18), (4, 6), 4), fs.SyncVC(iterations=3, control_strength=0.7), order="sequential",
        cond=randn(N, *SHAPE, seed=1), num_inference_steps=STEPS, latents=randn(1, 2, 4, 18, seed=2),
    )  # fmt: skip
    for rate, cost in zip(rates, costs, strict=True):
        session._bound._rates, session._bound._costs = [rate] * 3, cost
        next(session)
    assert relative(session.result().canvas, expected) < 1e-11


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ndtm_in_one_call(eta):
    """Pandey 2025, with its linear step size and DDIM weights: an inverse problem y = H x0 of one view."""
    steps, iterations, lr, gamma, terminal = 8, 3, 0.01, 4.0, 50.0
    scheduler = ddim(clip_sample=True)
    network = Gaussian(scheduler, SHAPE, variance=0.3, correlated=True)
    mu, h = 0.2 * randn(1, *SHAPE, seed=1), randn(7, 48, seed=4) / 7
    y, x = h @ randn(48, seed=5).clamp(-1, 1), randn(1, *SHAPE, seed=6)
    scheduler.set_timesteps(steps)
    abar = scheduler.alphas_cumprod.double()
    times = scheduler.timesteps.tolist()
    after = [t - 1000 // steps for t in times]
    alphas = [(abar[t], abar[s] if s >= 0 else torch.tensor(1.0).double()) for t, s in zip(times, after, strict=True)]

    def mismatch(x0):
        return (y - h @ x0.flatten()).square().sum()

    out = fs.sample(
        fs.FunctionPrior(network, scheduler, SHAPE, dtype=torch.float64), fs.WideCanvas((4, 6), (4, 6), 4),
        fs.SyncVC(
            iterations=iterations,
            lr=lambda step, iteration: lr * (1 - step / steps),
            control_cost=lambda step: gamma**2 * float(alphas[step][0] / alphas[step][1]),
            control_strength=gamma,
            kl_scheme="ddim",
            inv_lambda=0.0,
            rewards=[lambda x0, earlier, i: -terminal * mismatch(x0)],
        ),
        cond=mu, latents=x, num_inference_steps=steps, eta=eta, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for k, (t, (alpha, alpha_s)) in enumerate(zip(times, alphas, strict=True)):
        sigma = eta * ((1 - alpha / alpha_s) * (1 - alpha_s) / (1 - alpha)).sqrt()
        direction = (1 - alpha_s - sigma**2).sqrt()
        of_score = (direction - (alpha_s / alpha * (1 - alpha)).sqrt()) ** 2

        def estimates(view, t=t, alpha=alpha):
            eps = network(view, torch.tensor([t]), mu)
            return eps, ((view - (1 - alpha).sqrt() * eps) / alpha.sqrt()).clamp(-1, 1)

        free = estimates(x)[0]
        control = torch.zeros_like(x, requires_grad=True)
        optimizer = torch.optim.Adam([control], lr=lr * (1 - k / steps))
        for _ in range(iterations):
            eps, x0 = estimates(x + gamma * control)
            loss = of_score * (free - eps).square().sum() + terminal * mismatch(x0)
            loss = loss + alpha / alpha_s * gamma**2 * (gamma * control).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            eps, x0 = estimates(x + gamma * control)
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = alpha_s.sqrt() * x0 + direction * eps + sigma * noise
    assert relative(out.views, x) < 1e-6
    plain = fs.sample(
        fs.FunctionPrior(network, scheduler, SHAPE, dtype=torch.float64), fs.WideCanvas((4, 6), (4, 6), 4),
        fs.Independent(), cond=mu, latents=randn(1, *SHAPE, seed=6), num_inference_steps=steps,
    )  # fmt: skip
    assert mismatch(out.views) < 0.5 * mismatch(plain.views)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"lr": lambda step, iteration, more: 0.1}, TypeError, "of the step and the iteration, got .* of 3 arguments"),
        ({"lr": lambda step, iteration: -1.0}, ValueError, "lr must be at least 0"),
        ({"lr": lambda step, iteration: None}, TypeError, "lr must be a number"),
        ({"lr": [0.1]}, ValueError, "lr must be one number or 3"),
        ({"control_cost": lambda step: -float(step)}, ValueError, "control_cost must be at least 0, got -1"),
        ({"control_cost": "high"}, TypeError, "control_cost must be a number"),
    ],
)
def test_mistakes_are_told(settings, error, words):
    with pytest.raises(error, match=words):
        run(fs.SyncVC(iterations=3, **settings))


def test_defaults_of_a_function_do_not_count():
    expected = run(fs.SyncVC(iterations=3, lr=0.05))
    assert relative(run(fs.SyncVC(iterations=3, lr=lambda i, base=0.05: base)), expected) == 0
    assert relative(run(fs.SyncVC(iterations=3, lr=lambda step, i, base=0.05: base)), expected) == 0
