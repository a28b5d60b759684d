"""A prior that knows what is beside the object: its estimate there, its steps, its gradients, and every method."""

import pytest
import torch
from exact_priors import Gaussian, ddim, flow, nonlinear, randn
from shapes import sphere

import fastsync as fs
from fastsync.priors.backdrop import BackdropPrior

SHAPE = (3, 8, 8)
SCHEDULERS = {
    "epsilon": ddim(),
    "v_prediction": ddim(prediction_type="v_prediction"),
    "sample": ddim(prediction_type="sample"),
    "flow": flow(),
}


def setting(kind="epsilon", count=2):
    prior = BackdropPrior(fs.FunctionPrior(nonlinear, scheduler=SCHEDULERS[kind], view_shape=SHAPE))
    beside = torch.zeros(count, 1, *SHAPE[1:], dtype=torch.bool)
    beside[:, :, :3] = True
    backdrop = randn(count, *SHAPE, seed=5)
    pattern = randn(count, *SHAPE, seed=6)
    return prior, prior.with_backdrop(pattern, backdrop, beside), backdrop, beside


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_estimate_beside_is_the_backdrop_and_elsewhere_the_priors(kind, guidance):
    prior, cond, backdrop, beside = setting(kind)
    own_cond = cond["cond"]
    uncond = prior.with_backdrop(-own_cond, backdrop, beside)
    t = torch.tensor([701, 20]).to(torch.float32 if kind == "flow" else torch.int64)
    x = randn(2, *SHAPE, seed=7)
    got = prior.predict(x, t, cond, uncond, guidance)
    own = prior.prior.predict(x, t, own_cond, -own_cond, guidance)
    torch.testing.assert_close(got.x0, torch.where(beside, backdrop, own.x0), atol=1e-9, rtol=0)
    a, b = (c[:, None, None, None] for c in prior.schedule.coefficients(t))
    torch.testing.assert_close(got.eps, torch.where(beside, (x - a * backdrop) / b, own.eps), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_it_is_differentiable(kind):
    prior, cond, *_ = setting(kind)
    t = torch.tensor([500, 30]).to(torch.float32 if kind == "flow" else torch.int64)
    x = randn(2, *SHAPE, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: prior.raw(x, t, cond), x, fast_mode=True)


def test_steps_carry_the_backdrop_with_its_own_noise():
    """Beside the object every state is the backdrop at its time, of the noise that the run began with."""
    prior, cond, backdrop, beside = setting()
    start = randn(1, 3, 8, 16, seed=9)
    canvas = fs.WideCanvas((8, 16), (8, 8), 8)
    states = []
    out = fs.sample(
        prior, canvas, fs.Independent(), cond=cond, latents=start, num_inference_steps=5,
        callback=lambda step, t, state: states.append(state["latents"].clone()),
    )  # fmt: skip
    table = prior.schedule.steps(5)
    # Pure noise is not a noised backdrop: the first step's noise is what is left of it there.
    a, b = table.a[0], table.b[0]
    noise = (canvas.project(start) - a * backdrop) / b
    expected = table.a_next[2] * backdrop + table.b_next[2] * noise
    mask = beside.expand_as(backdrop)
    torch.testing.assert_close(states[2][mask], expected[mask], atol=1e-9, rtol=0)
    final = table.a_next[-1] * backdrop + table.b_next[-1] * noise
    torch.testing.assert_close(out.views[mask], final[mask], atol=1e-9, rtol=0)


@pytest.fixture(scope="module")
def globe():
    return fs.MeshCanvas(sphere(12, 24), [(0.0, 0.0), (60.0, 0.0), (120.0, 20.0)], view_size=12)


METHODS = {
    "independent": fs.Independent(),
    "synctweedies": fs.SyncTweedies(),
    "syncsde": fs.SyncSDE(),
    "syncvc": fs.SyncVC(iterations=2),
    "stochsync": fs.StochSync(steps=6),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_leaves_the_backdrop_beside_a_mesh(globe, method):
    prior = BackdropPrior(fs.FunctionPrior(Gaussian(ddim(), (3, 12, 12)), scheduler=ddim(), view_shape=(3, 12, 12)))
    backdrop = torch.tensor([0.8, -0.5, 0.2], dtype=torch.float64).reshape(1, 3, 1, 1).expand(3, 3, 12, 12)
    cond = prior.with_backdrop(torch.zeros(3, 3, 12, 12, dtype=torch.float64), backdrop, ~globe.foreground)
    out = fs.sample(prior, globe, method, cond=cond, num_inference_steps=8, generator=torch.Generator().manual_seed(0))
    # At the last step of this schedule b is 0.03.
    beside = ~globe.foreground.expand_as(out.views)
    assert float((out.views - backdrop)[beside].abs().max()) < 0.2
    assert float(out.views[~beside].abs().max()) > 0.5


def test_methods_that_wait_give_the_same_in_every_order_with_a_backdrop(globe):
    prior = BackdropPrior(fs.FunctionPrior(nonlinear, scheduler=ddim(), view_shape=(3, 12, 12)))
    cond = prior.with_backdrop(randn(3, 3, 12, 12, seed=1), randn(3, 3, 12, 12, seed=2), ~globe.foreground)
    found = [
        fs.sample(
            prior, globe, fs.SyncVC(iterations=2), cond=cond, uncond=cond.updated(cond=cond["cond"] * 0),
            guidance_scale=2.0, num_inference_steps=4, latents=randn(1, 3, *globe.size, seed=3), order=order,
        ).views
        for order in ("sequential", "wavefront")
    ]  # fmt: skip
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-10


def test_conditions_without_a_backdrop_are_refused_in_one_sentence():
    prior, cond, *_ = setting()
    with pytest.raises(ValueError, match="cond has no backdrop: pass prior.with_backdrop"):
        prior.predict(randn(2, *SHAPE), torch.tensor([5, 5]), cond["cond"], None, 1.0)
    with pytest.raises(ValueError, match="cond has no backdrop"):
        fs.sample(prior, fs.WideCanvas((8, 16), (8, 8), 8), fs.Independent(), cond=cond["cond"], num_inference_steps=2)
