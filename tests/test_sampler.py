import pytest
import torch
from exact_priors import Counting, ddim, flow, nonlinear, randn, relative

import fastsync as fs
from fastsync import scheduling

METHODS = {
    "independent": fs.Independent,
    "multidiffusion": fs.MultiDiffusion,
    "synctweedies": fs.SyncTweedies,
    "syncsde": fs.SyncSDE,
    "syncvc": lambda: fs.SyncVC(iterations=2),
}
SHAPE = (2, 4, 6)


def make_canvas(views=3):
    return fs.WideCanvas((4, 6 + 4 * (views - 1)), (4, 6), 4)


def make_prior(dtype=torch.float64, scheduler=None, eps_fn=nonlinear):
    return fs.FunctionPrior(eps_fn, scheduler or ddim(steps_offset=1), SHAPE, dtype=dtype)


def conditions(n=3, dtype=torch.float64):
    return 0.5 * randn(n, *SHAPE, seed=1, dtype=dtype), 0.5 * randn(1, *SHAPE, seed=2, dtype=dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- one view is plain diffusers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_view_is_the_loop_of_diffusers(method, eta, scale, dtype):
    cond, uncond = conditions(1, dtype)
    out = fs.sample(
        make_prior(dtype),
        make_canvas(1),
        method(),
        cond=cond,
        uncond=uncond,
        guidance_scale=scale,
        num_inference_steps=10,
        eta=eta,
        generator=seeded(),
    )
    scheduler, generator = ddim(steps_offset=1), seeded()
    scheduler.set_timesteps(10)
    x = torch.randn(1, *SHAPE, generator=generator, dtype=dtype)
    for t in scheduler.timesteps:
        eps, eps_u = nonlinear(x, t.expand(1), cond), nonlinear(x, t.expand(1), uncond)
        x = scheduler.step(eps_u + scale * (eps - eps_u), t, x, eta=eta, generator=generator).prev_sample
    assert out.views.dtype == out.canvas.dtype == dtype
    assert relative(out.views, x) < 1e-5
    assert relative(out.canvas, x) < 1e-5


@pytest.mark.parametrize("stochastic", [False, True])
def test_one_view_is_the_flow_loop_of_diffusers(stochastic):
    scheduler = flow(shift=3.0, stochastic_sampling=stochastic)
    cond, _ = conditions(1, torch.float32)
    prior = make_prior(torch.float32, scheduler)
    out = fs.sample(prior, make_canvas(1), fs.SyncVC(), cond=cond, num_inference_steps=8, generator=seeded())
    generator = seeded()
    scheduler.set_timesteps(8)
    x = torch.randn(1, *SHAPE, generator=generator)
    for t in scheduler.timesteps:
        x = scheduler.step(nonlinear(x, t.expand(1), cond), t, x, generator=generator).prev_sample
    assert relative(out.views, x) < 1e-5


# ---- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("eta", [0.0, 0.8])
def test_orders_and_batches_give_the_same_numbers(method, eta):
    cond, uncond = conditions()
    canvas, results = make_canvas(), []
    for order in method().orders:
        for max_batch in (None, 1, 2):
            common = {
                "num_inference_steps": 4,
                "eta": eta,
                "generator": seeded(3),
                "order": order,
                "max_batch": max_batch,
            }
            results.append(fs.sample(make_prior(), canvas, method(), cond=cond, uncond=uncond, **common))
    assert len(results) == 6
    for other in results[1:]:
        assert relative(other.views, results[0].views) < 1e-11
        assert other.stats.evaluations == results[0].stats.evaluations
        assert other.stats.gradients == results[0].stats.gradients
    again = fs.sample(
        make_prior(), canvas, method(), cond=cond, uncond=uncond, num_inference_steps=4, eta=eta, generator=seeded(4)
    )
    assert relative(again.views, results[0].views) > 1e-2


@pytest.mark.parametrize("order", ["sequential", "wavefront"])
def test_noise_is_one_canvas_a_step(monkeypatch, order):
    drawn, original = [], torch.randn

    def spy(*args, **kwargs):
        drawn.append(original(*args, **kwargs))
        return drawn[-1]

    canvas, (cond, _) = make_canvas(), conditions()
    prior = make_prior()
    monkeypatch.setattr(torch, "randn", spy)
    generator = seeded(3)
    common = {"cond": cond, "num_inference_steps": 4}
    fs.sample(prior, canvas, fs.SyncVC(iterations=1), eta=0.5, generator=generator, order=order, **common)
    assert [tuple(d.shape) for d in drawn] == [(1, 2, 4, 14)] * 5  # z_T, then one a step
    reference = seeded(3)
    for noise in drawn:
        assert torch.equal(noise, original(1, 2, 4, 14, generator=reference, dtype=torch.float64))
    drawn.clear()
    fs.sample(prior, canvas, fs.SyncVC(iterations=1), eta=0.0, generator=generator, order=order, **common)
    assert len(drawn) == 1  # deterministic steps draw nothing


def test_noise_of_a_step_is_cropped_to_the_views():
    # A prior that sees nothing: with eta = 1 the views are sums of scaled noise, equal wherever they overlap.
    prior = make_prior(eps_fn=lambda x, t, c: torch.zeros_like(x))
    canvas = make_canvas()
    out = fs.sample(prior, canvas, fs.Independent(), num_inference_steps=5, eta=1.0, generator=seeded())
    assert relative(canvas.project(out.canvas), out.views) < 1e-14
    assert float(out.views.std()) > 0.1


def test_latents_of_both_shapes():
    prior, canvas, (cond, _) = make_prior(), make_canvas(), conditions()
    common = {"cond": cond, "num_inference_steps": 3}
    z = torch.randn(1, 2, 4, 14, generator=seeded(), dtype=torch.float64)
    drawn = fs.sample(prior, canvas, fs.SyncVC(iterations=1), generator=seeded(), **common)
    given = fs.sample(prior, canvas, fs.SyncVC(iterations=1), latents=z, **common)
    views = fs.sample(prior, canvas, fs.SyncVC(iterations=1), latents=canvas.project(z), **common)
    assert torch.equal(drawn.views, given.views) and torch.equal(given.views, views.views)
    free = randn(3, *SHAPE, seed=9)
    before = free.clone()
    fs.sample(prior, canvas, fs.SyncVC(iterations=1), latents=free.requires_grad_(), **common)
    assert torch.equal(free, before) and free.grad is None
    assert not fs.sample(prior, canvas, fs.Independent(), latents=free, **common).canvas.requires_grad


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_precision_follows_the_input(method):
    seen = set()

    def eps_fn(x, t, cond):
        seen.add(x.dtype)
        assert t.dtype == torch.int64 and t.shape == (len(x),)
        return nonlinear(x, t, cond.to(x.dtype))

    (cond, _), canvas = conditions(), make_canvas()
    for latents, prior_dtype, expected in [
        (randn(1, 2, 4, 14), torch.float32, torch.float64),
        (randn(1, 2, 4, 14).half(), torch.float32, torch.float32),
        (None, torch.float64, torch.float64),
    ]:
        seen.clear()
        prior = make_prior(prior_dtype, eps_fn=eps_fn)
        out = fs.sample(prior, canvas, method(), cond=cond, latents=latents, num_inference_steps=2)
        assert out.views.dtype == out.canvas.dtype == expected and seen == {expected}


# ---- what it costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [None, 1.0, 5.0])
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize(("name", "k"), [("independent", 0), ("multidiffusion", 0), ("syncvc", 0), ("syncvc", 3)])
def test_cost_is_the_formula_and_not_one_more(name, k, n, guidance):
    counter, canvas, (cond, uncond) = Counting(nonlinear), make_canvas(n), conditions(n)
    steps, halves = 3, 2 if guidance == 5.0 else 1
    method = fs.SyncVC(iterations=k) if name == "syncvc" else METHODS[name]()
    expected_calls = {
        ("independent", "batched"): steps,
        ("independent", "sequential"): steps * n,
        ("multidiffusion", "batched"): steps,
        ("multidiffusion", "sequential"): steps * n,
        ("syncvc", "sequential"): steps * (1 + (n - 1) * (k + 1)),
        # A front has its final call, and K more if a view with a neighbour is in it.
        ("syncvc", "wavefront"): steps + n - 1 + (k * (steps + n - 2) if n > 1 else 0),
    }
    for order in method.orders:
        counter.calls = counter.rows = counter.backward_rows = 0
        out = fs.sample(
            make_prior(eps_fn=counter),
            canvas,
            method,
            cond=cond,
            uncond=None if guidance is None else uncond,
            guidance_scale=guidance or 7.5,
            num_inference_steps=steps,
            latents=randn(1, 2, *canvas.size, seed=4),
            order=order,
        )
        forward = halves * steps * (1 + (n - 1) * (k + 1))
        backward = halves * steps * (n - 1) * k
        assert out.stats.evaluations == counter.rows == forward
        assert out.stats.gradients == counter.backward_rows == backward
        assert out.stats.calls == counter.calls == expected_calls[name, order]
        assert out.stats.padded == 0 and out.stats.seconds > 0


def test_guidance_puts_the_unconditional_half_first():
    counter, (cond, uncond) = Counting(nonlinear), conditions()
    fs.sample(
        make_prior(eps_fn=counter), make_canvas(), fs.Independent(), cond=cond, uncond=uncond, num_inference_steps=1
    )
    (times, seen), *_ = counter.seen
    assert torch.equal(seen, torch.cat([uncond.expand(3, -1, -1, -1), cond]))
    assert len(times) == 6 and len(set(times.tolist())) == 1


# ---- callbacks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("order", scheduling.ORDERS)
def test_callback_sees_each_step_once_in_order(name, order):
    method, (cond, _), canvas = METHODS[name](), conditions(), make_canvas()
    if order not in method.orders:
        with pytest.raises(ValueError, match=f"order='{order}' is not possible with"):
            fs.sample(make_prior(), canvas, method, cond=cond, order=order)
        return
    seen, plain = [], {"cond": cond, "latents": randn(1, 2, 4, 14), "num_inference_steps": 4, "order": order}

    def callback(step, t, state):
        seen.append((step, int(t), state["latents"].clone()))
        state["latents"].zero_()  # its own copy

    out = fs.sample(make_prior(), canvas, method, callback=callback, **plain)
    assert [s for s, _, _ in seen] == [0, 1, 2, 3]
    assert [t for _, t, _ in seen] == make_prior().schedule.steps(4).timesteps.tolist()
    assert torch.equal(seen[-1][2], out.views)
    assert torch.equal(fs.sample(make_prior(), canvas, method, **plain).views, out.views)
    if name != "multidiffusion":  # the other orders show the same states
        other = []
        again = {**plain, "order": "sequential"}
        fs.sample(make_prior(), canvas, method, callback=lambda *a: other.append(a[2]["latents"]), **again)
        assert all(relative(a[2], b) < 1e-11 for a, b in zip(seen, other, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_callback_may_replace_the_latents(name):
    (cond, _), canvas = conditions(), make_canvas()
    new = randn(3, *SHAPE, seed=8)

    def callback(step, t, state):
        return {"latents": new} if step == 1 else {}

    # A run that starts at step 2 from `new`: only the last two steps of the same table.
    results = []
    for latents in (randn(1, 2, 4, 14, seed=5), randn(1, 2, 4, 14, seed=6)):
        common = {"cond": cond, "latents": latents, "num_inference_steps": 4}
        results.append(fs.sample(make_prior(), canvas, METHODS[name](), callback=callback, **common).views)
    assert torch.equal(*results)  # nothing of the start is left
    last = fs.sample(
        make_prior(),
        canvas,
        METHODS[name](),
        callback=lambda step, t, state: {"latents": new} if step == 3 else None,
        **common,
    )
    assert torch.equal(last.views, new)


def test_what_else_a_callback_returns_does_not_matter():
    (cond, _), canvas, seen = conditions(), make_canvas(), []
    common = {"cond": cond, "num_inference_steps": 2, "generator": seeded()}
    for answer in (True, 3, ("latents", None), {"more": 1}):
        common["callback"] = lambda k, t, s, a=answer: seen.append(k) or a
        fs.sample(make_prior(), canvas, fs.Independent(), **common)
    assert seen == [0, 1] * 4


def test_callback_mistakes_are_told():
    (cond, _), canvas = conditions(), make_canvas()
    common = {"cond": cond, "num_inference_steps": 3}
    with pytest.raises(ValueError, match="in the wavefront other views are already ahead"):
        fs.sample(
            make_prior(), canvas, fs.SyncVC(iterations=1), order="wavefront", callback=lambda k, t, s: dict(s), **common
        )
    with pytest.raises(ValueError, match=r"the callback's latents must be \[3, 2, 4, 6\], got \[1, 2, 4, 6\]"):
        fs.sample(
            make_prior(), canvas, fs.Independent(), callback=lambda k, t, s: {"latents": s["latents"][:1]}, **common
        )


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("with_callback", [False, True])
@pytest.mark.parametrize("order", scheduling.ORDERS)
def test_what_is_held_does_not_grow_with_the_steps(name, with_callback, order):
    base = type(METHODS[name]())
    if order not in base.orders:
        pytest.skip("not an order of this method")

    def peak(steps):
        sizes = []

        class Watched(base):
            def bind(self, run):
                bound, noise = super().bind(run), run.noise
                advance, compose = bound.advance, bound.compose

                def watched(work):
                    advance(work)
                    pools = [len(run.states.noisy), len(run.states.clean)]
                    sizes.append([*pools, len(noise._pending), len(noise._readers)])

                def composed(views):
                    assert not (noise._pending or noise._readers)
                    return compose(views)

                bound.advance, bound.compose = watched, composed
                return bound

        (cond, _), canvas = conditions(1), make_canvas(4)
        method = Watched(iterations=1) if name == "syncvc" else Watched()
        callback = (lambda k, t, s: None) if with_callback else None
        fs.sample(
            make_prior(), canvas, method, cond=cond, num_inference_steps=steps, eta=0.5, order=order, callback=callback
        )
        return torch.tensor(sizes).amax(0).tolist()

    assert peak(7) == peak(15)
    assert max(peak(7)) <= 4 * 5


@pytest.mark.parametrize(
    "method", [fs.SyncVC(iterations=2), fs.SyncVC(iterations=2, guidance_gradient="cond"), fs.MultiDiffusion()]
)
@pytest.mark.parametrize("guided", [False, True])
def test_fixed_batches_change_no_number(method, guided):
    """A run of eight windows in a few batch shapes, padded by less than a tenth."""
    shapes = set()

    def network(x, t, cond):
        shapes.add(len(x))
        return nonlinear(x, t, cond)

    prior = fs.FunctionPrior(network, ddim(steps_offset=1), (2, 4, 6), dtype=torch.float64)
    cond = randn(8, 2, 4, 6, seed=1)

    def run(**options):
        shapes.clear()
        return fs.sample(
            prior, fs.WideCanvas((4, 34), (4, 6), 4), method, cond=cond, uncond=cond[:1] if guided else None,
            guidance_scale=2.0, num_inference_steps=30, latents=randn(1, 2, 4, 34, seed=2), **options,
        )  # fmt: skip

    free, any_shapes = run(), len(shapes)
    fixed = run(fixed_batches=True)
    assert relative(fixed.canvas, free.canvas) < 1e-10
    assert (fixed.stats.evaluations, fixed.stats.gradients) == (free.stats.evaluations, free.stats.gradients)
    assert fixed.stats.padded < 0.1 * fixed.stats.evaluations and free.stats.padded == 0
    assert len(shapes) <= min(8, any_shapes)
    if method.orders[0] == "wavefront":
        assert fixed.stats.padded > 0 and len(shapes) < any_shapes


@pytest.mark.parametrize("name", METHODS)
def test_the_canvas_may_live_elsewhere(name):
    """Here there is one device only: what is asked of the network and what comes back must name theirs all the same."""
    (cond, _), canvas = conditions(), make_canvas()
    common = {"cond": cond, "num_inference_steps": 3, "latents": randn(1, 2, *canvas.size, seed=3)}
    method = METHODS[name]
    whole, apart = (
        fs.sample(make_prior(), canvas, method(), canvas_device=device, **common) for device in (None, "cpu")
    )
    assert relative(apart.canvas, whole.canvas) == 0
    with pytest.raises(ValueError, match="canvas_device must be one that PyTorch can compute on here, got 'meta'"):
        fs.sample(make_prior(), canvas, method(), canvas_device="meta", **common)
