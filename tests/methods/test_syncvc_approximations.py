"""SyncVC's approximations: what each leaves out, counted, and where it changes nothing."""

import pytest
import torch
from exact_priors import Counting, Gaussian, ddim, flow, nonlinear, randn, relative

import fastsync as fs

SHAPE, STEPS, N = (2, 4, 6), 6, 4


def setup(eps_fn=nonlinear, scheduler=None, **config):
    scheduler = scheduler or ddim(steps_offset=1, **config)
    counter = Counting(eps_fn)
    prior = fs.FunctionPrior(counter, scheduler, SHAPE, dtype=torch.float64)
    canvas = fs.WideCanvas((4, 6 + 3 * 4), (4, 6), 4)
    cond = randn(N, *SHAPE, seed=1)

    def run(method, guided=False, **options):
        counter.rows = counter.calls = counter.backward_rows = 0
        uncond = torch.zeros_like(cond) if guided else None
        out = fs.sample(
            prior, canvas, method, cond=cond, uncond=uncond, guidance_scale=2.0, num_inference_steps=STEPS,
            latents=randn(1, 2, 4, 18, seed=2), **options,
        )  # fmt: skip
        assert counter.rows == out.stats.evaluations and counter.calls == out.stats.calls
        return out

    return run


# ---- jacobian="identity" ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [ddim(steps_offset=1), flow()], ids=["vp", "flow"])
def test_identity_is_the_gradient_where_views_are_white_noise(scheduler):
    """On x0 ~ N(mu, 1) the velocity a eps - b x0 does not depend on x (on VP; on flow schedules nearly so)."""
    gauss = Gaussian(scheduler, SHAPE, variance=1.0)
    if isinstance(scheduler, type(flow())):

        def network(x, t, cond):
            s = (t.double() / 1000)[:, None, None, None]
            a, b = 1 - s, s
            x0 = cond + a / (a**2 + b**2) * (x - a * cond)
            return (x - a * x0) / b.clamp_min(1e-9) - x0

        run = setup(network, scheduler)
    else:
        run = setup(gauss, scheduler)
    settings = {"iterations": 3, "lr": 0.05}
    full, identity = run(fs.SyncVC(**settings)), run(fs.SyncVC(**settings, jacobian="identity"))
    assert relative(identity.canvas, full.canvas) < 1e-7
    assert identity.stats.gradients == 0 and full.stats.gradients == 3 * (N - 1) * STEPS
    assert relative(run(fs.SyncVC(iterations=0)).canvas, full.canvas) > 1e-3


def test_identity_is_only_near_elsewhere():
    scheduler = ddim(steps_offset=1)
    run = setup(Gaussian(scheduler, SHAPE, correlated=True), scheduler)
    full, identity, none = (run(fs.SyncVC(**s)).canvas for s in ({}, {"jacobian": "identity"}, {"iterations": 0}))
    assert 1e-4 < relative(identity, full) < relative(none, full)


# ---- guidance_gradient="cond" -------------------------------------------------------------------------------------


def test_without_an_unconditional_gradient_half_of_it_is_the_whole():
    def network(x, t, cond):
        """The unconditional half (cond = 0) does not look at x."""
        own = nonlinear(x, t, cond)
        blind = (cond == 0).flatten(1).all(1)[:, None, None, None]
        return torch.where(blind, 0.1 * torch.ones_like(x), own)

    run = setup(network)
    both, cond = run(fs.SyncVC(), guided=True), run(fs.SyncVC(guidance_gradient="cond"), guided=True)
    assert relative(cond.canvas, both.canvas) < 1e-10
    assert cond.stats.gradients == both.stats.gradients // 2 == 5 * (N - 1) * STEPS
    assert cond.stats.evaluations == both.stats.evaluations


def test_elsewhere_it_is_another_gradient_and_without_guidance_the_same():
    run = setup()
    both, cond = (run(fs.SyncVC(guidance_gradient=g), guided=True).canvas for g in ("both", "cond"))
    assert relative(cond, both) > 1e-5
    both, cond = (run(fs.SyncVC(guidance_gradient=g)).canvas for g in ("both", "cond"))
    assert torch.equal(cond, both)


def test_a_prior_that_clips_is_refused():
    run = setup(clip_sample=True)
    with pytest.raises(ValueError, match="guidance_gradient='cond' needs a prior"):
        run(fs.SyncVC(guidance_gradient="cond"), guided=True)


# ---- control_window -----------------------------------------------------------------------------------------------


def test_controls_only_in_the_window():
    run = setup()
    full = run(fs.SyncVC())
    assert torch.equal(run(fs.SyncVC(control_window=(1000, 0))).canvas, full.canvas)
    times = [int(t) for t in _times()]
    middle = run(fs.SyncVC(control_window=(times[1], times[3])))
    assert middle.stats.gradients == 3 * 5 * (N - 1)
    assert middle.stats.evaluations == STEPS * N + 3 * 5 * (N - 1)
    none = run(fs.SyncVC(control_window=(times[-1] - 0.5, 0)))
    assert none.stats.gradients == 0
    assert torch.equal(none.canvas, run(fs.SyncVC(iterations=0)).canvas)


def _times():
    scheduler = ddim(steps_offset=1)
    scheduler.set_timesteps(STEPS)
    return scheduler.timesteps


# ---- tolerance ----------------------------------------------------------------------------------------------------


def test_tolerance_stops_views_that_have_arrived():
    run = setup()
    full = run(fs.SyncVC(iterations=8))
    last = 0
    for tolerance in (1.0, 0.03, 0.01):
        some = run(fs.SyncVC(iterations=8, tolerance=tolerance))
        assert last < some.stats.gradients <= full.stats.gradients
        last = some.stats.gradients
    # Nothing falls by all of itself: two iterations, which it takes to see that.
    eager = run(fs.SyncVC(iterations=8, tolerance=1.0))
    assert eager.stats.gradients == 2 * (N - 1) * STEPS
    assert relative(eager.canvas, run(fs.SyncVC(iterations=2)).canvas) < 1e-12


@pytest.mark.parametrize("tolerance", [0.02, 0.2])
def test_tolerance_does_not_depend_on_the_order(tolerance):
    run = setup()
    method = fs.SyncVC(iterations=6, tolerance=tolerance)
    wave, chain = (run(method, order=order) for order in ("wavefront", "sequential"))
    assert relative(wave.canvas, chain.canvas) < 1e-10
    assert wave.stats.evaluations == chain.stats.evaluations and wave.stats.gradients == chain.stats.gradients


# ---- bad settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"control_window": 500}, TypeError, "control_window must be"),
        ({"control_window": (200, 800)}, ValueError, "high above low"),
        ({"control_window": (2000, 0)}, ValueError, "control_window must be"),
        ({"jacobian": "none"}, ValueError, "jacobian must be one of"),
        ({"guidance_gradient": "uncond"}, ValueError, "guidance_gradient must be one of"),
        ({"tolerance": -0.1}, ValueError, "tolerance must be"),
        ({"tolerance": 0.1, "rewards": [lambda x0, earlier, i: x0.sum()]}, ValueError, "tolerance=None"),
    ],
)
def test_settings_are_checked(settings, error, words):
    with pytest.raises(error, match=words):
        fs.SyncVC(**settings)
