import pytest
import torch
from exact_priors import Counting, Gaussian, ddim, flow, nonlinear, randn, relative

import fastsync as fs
from bench import reference
from fastsync import ops
from fastsync.rewards import Overlap, Perceptual, Reward, Style
from fastsync.run import Query

CANVASES = {
    "chain": lambda: fs.WideCanvas((4, 13), (4, 6), 4),  # the last window is flush with the border
    "loop": lambda: fs.WideCanvas((4, 12), (4, 6), 4, loop=True),  # the closing view reads two neighbours
    "grid": lambda: fs.WideCanvas((6, 7), (4, 5), (2, 2)),
}


def setup(name="chain", channels=2, steps_offset=1, **config):
    canvas = CANVASES[name]()
    shape = (channels, *canvas.window)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=steps_offset, **config), shape, dtype=torch.float64)
    cond = 0.5 * randn(canvas.num_views, *shape, seed=1)
    uncond = 0.5 * randn(1, *shape, seed=2)
    z = randn(1, channels, *canvas.size, seed=3)
    return prior, canvas, cond, uncond, z


CASES = [
    ("chain", {}),
    ("chain", {"iterations": 0}),
    ("chain", {"iterations": 1, "control_strength": 0.4}),
    ("chain", {"eta": 0.7, "kl_scheme": "ddim", "kl_weight": 2.0}),
    ("chain", {"control_cost": 0.3, "lr": lambda k: 0.05 * 0.5**k, "reward_weight": 3.0, "inv_lambda": 1.0}),
    ("chain", {"coupling": "stable", "eta": 0.7}),
    ("chain", {"inv_lambda": 0.0}),
    ("loop", {"eta": 0.7}),
    ("loop", {"iterations": 0, "view_order": [2, 0, 1]}),
    ("loop", {"reward": lambda x0, earlier, i: (i + 1) * torch.sin(x0).sum() + sum((x0 * e).sum() for e in earlier)}),
    ("grid", {"iterations": 3, "kl_scheme": "ddim"}),
    ("grid", {"iterations": 0, "eta": 0.7}),
]


@pytest.mark.parametrize("guidance", [True, False], ids=["cfg", "plain"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{','.join(o)}" for n, o in CASES])
def test_a_whole_run_agrees_with_the_reference(name, options, guidance):
    prior, canvas, cond, uncond, z = setup(name)
    steps, scale = 4, 3.0
    uncond = uncond if guidance else None
    given = {k: v for k, v in options.items() if k not in ("eta", "reward")}
    method = fs.SyncVC(
        **{"iterations": 5, "lr": 0.02, **given}, rewards=[options["reward"]] if "reward" in options else None
    )
    eta = options.get("eta", 0.0)
    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(1, 2, *canvas.size, generator=generator, dtype=torch.float64) for _ in range(steps)]
    model = reference.Model(nonlinear, ddim(steps_offset=1), cond, uncond, scale)
    place = reference.Cells.of_windows(canvas.origins, canvas.window, canvas.size)
    picture, expected = reference.syncvc(model, canvas.project(z), place, steps, noise=noise, **options)
    for order in ("sequential", "wavefront"):
        out = fs.sample(
            prior,
            canvas,
            method,
            cond=cond,
            uncond=uncond,
            guidance_scale=scale,
            num_inference_steps=steps,
            eta=eta,
            latents=z,
            generator=torch.Generator().manual_seed(7),
            order=order,
        )
        assert out.views.dtype == torch.float64
        assert relative(out.views, expected) < 1e-9, order
        assert relative(out.canvas, picture) < 1e-9, order


def test_the_reference_is_sensitive():
    # What the comparison above rests on: every option changes the result by far more than its tolerance.
    _, canvas, cond, _, z = setup()

    def run(**options):
        model = reference.Model(nonlinear, ddim(steps_offset=1), cond)
        place = reference.Cells.of_windows(canvas.origins, canvas.window, canvas.size)
        return reference.syncvc(model, canvas.project(z), place, 3, iterations=2, **options)[1]

    base = run()
    changes = [{"reward_weight": 2.0}, {"kl_weight": 2.0}, {"control_strength": 0.9}, {"inv_lambda": 4.0}]
    changes += [{"control_cost": 0.5}, {"lr": 0.03}]
    for change in changes + [{"kl_scheme": "ddim"}, {"coupling": "stable"}, {"view_order": [1, 0, 2]}]:
        assert relative(run(**change), base) > 1e-6, change


# ---- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_without_weights_and_coupling_it_is_independent_sampling(eta):
    prior, canvas, cond, uncond, z = setup("loop")
    common = {"cond": cond, "uncond": uncond, "guidance_scale": 2.0, "num_inference_steps": 5, "eta": eta, "latents": z}
    free = fs.SyncVC(iterations=3, reward_weight=0.0, kl_weight=0.0, inv_lambda=0.0, composite="merge")
    out = fs.sample(prior, canvas, free, generator=torch.Generator().manual_seed(1), **common)
    expected = fs.sample(prior, canvas, fs.Independent(), generator=torch.Generator().manual_seed(1), **common)
    assert relative(out.views, expected.views) < 1e-12
    assert relative(out.canvas, expected.canvas) < 1e-12


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_without_controls_it_is_syncsde(eta):
    # Lee 2025: eps~ = eps + M (x - y) (1/lambda)(t/T_max) / b, then the plain step with eps~.
    prior, canvas, cond, _, z = setup("chain")
    generator = torch.Generator().manual_seed(5)
    method = fs.SyncVC(iterations=0, inv_lambda=2.0)
    out = fs.sample(prior, canvas, method, cond=cond, latents=z, num_inference_steps=5, eta=eta, generator=generator)
    scheduler = ddim(steps_offset=1)
    scheduler.set_timesteps(5)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    generator = torch.Generator().manual_seed(5)
    starts = [x for _, x in canvas.origins]
    x = canvas.project(z)
    for t in scheduler.timesteps:
        b = (1 - scheduler.alphas_cumprod[t]).sqrt()
        eps = nonlinear(x, t.expand(len(x)), cond)
        for i in range(1, len(x)):
            shift = starts[i] - starts[i - 1]
            overlap = canvas.window[1] - shift
            difference = x[i, :, :, :overlap] - x[i - 1, :, :, shift:]
            eps[i, :, :, :overlap] += difference * 2.0 * float(t) / float(scheduler.timesteps[0]) / b
        noise = torch.randn(1, 2, *canvas.size, generator=generator, dtype=torch.float64) if eta else z
        x = scheduler.step(eps, t, x, eta=eta, variance_noise=canvas.project(noise) if eta else None).prev_sample
    assert relative(out.views, x) < 1e-9


# ---- loss and gradient on a prior that is linear ------------------------------------------------------------------


def test_loss_and_gradient_on_a_linear_gaussian_prior():
    # eps(x) = G (x - a mu), x0(x) = ((1 - b G) x + b a G mu) / a: everything is a quadratic form in x~.
    shape, n = (2, 3, 4), 24
    scheduler = ddim()
    gauss = Gaussian(scheduler, shape, correlated=True)
    prior = fs.FunctionPrior(gauss, scheduler, shape, dtype=torch.float64)
    mu = randn(2, *shape, seed=1)
    t = torch.tensor([421, 80])
    abar = scheduler.alphas_cumprod.double()[t]
    a, b = abar.sqrt(), (1 - abar).sqrt()
    x, control, y0, y, free = randn(5, 2, *shape, seed=2)
    mask = torch.zeros(2, 1, 3, 4, dtype=torch.float64)
    mask[..., :2] = 1
    pull, kappa, w, c = torch.tensor([1.3, 0.4]).double(), torch.tensor([0.7, 2.0]).double(), 1.9, 0.25

    query = Query(
        prior, prior.device, fs.Stats(), None, 0.0, t, a, b, torch.ones_like(a), fs.Conditions({"cond": mu}), None
    )
    place = torch.tensor([[0, 0, 0], [1, 0, 0]])
    ones = torch.ones(2, dtype=torch.float64)

    def evaluate(control):
        at = query.evaluate(x + control)
        overlap, g_overlap = ops.overlap_loss(at.x0, y0, place, None, mask)
        loss, cotangent, direct, peak = ops.control_grad(
            at.x.detach(), at.eps, free, control, g_overlap, None, y, place, None, mask, pull, a, b, ones, kappa, w, c,
            (0, 0), at.kind, at.guided,
        )  # fmt: skip
        vjp, scale = query.pullback(at, cotangent, peak)
        assert scale is None
        return w * overlap + loss, vjp + direct

    loss, gradient = evaluate(control)
    for i in range(2):
        g = gauss.matrix(t[i])
        m = torch.diag(mask[i].expand(shape).flatten())
        eye = torch.eye(n, dtype=torch.float64)
        v, target0, target, mean, without = ((q[i]).flatten() for q in (x + control, y0, y, mu, free))
        jacobian0 = (eye - b[i] * g) / a[i]
        r0 = m @ (jacobian0 @ v + b[i] * g @ mean - target0)
        jacobian = g + pull[i] * m
        r = g @ (v - a[i] * mean) + pull[i] * m @ (v - target) - without
        u = control[i].flatten()
        expected_loss = w * r0 @ r0 + kappa[i] * r @ r + c * u @ u
        expected = 2 * w * jacobian0.T @ m @ r0 + 2 * kappa[i] * jacobian.T @ r + 2 * c * u
        assert float(loss[i]) == pytest.approx(float(expected_loss), rel=1e-11)
        assert relative(gradient[i].flatten(), expected) < 1e-11
    # Finite differences along a random direction.
    d, h = randn(2, *shape, seed=3), 1e-6
    slope = (evaluate(control + h * d)[0] - evaluate(control - h * d)[0]) / (2 * h)
    assert relative(slope, (gradient * d).flatten(1).sum(1)) < 1e-7


# ---- what the weights do, with many iterations --------------------------------------------------------------------


def decaying(k):
    return 0.1 * 0.95**k


def two_gaussian_windows(correlated=True):
    canvas = fs.WideCanvas((3, 9), (3, 6), 3)
    shape = (1, 3, 6)
    scheduler = ddim(steps_offset=1)
    prior = fs.FunctionPrior(Gaussian(scheduler, shape, correlated=correlated), scheduler, shape, dtype=torch.float64)
    return prior, canvas, 0.5 * randn(2, *shape, seed=1), randn(1, 1, 3, 9, seed=2)


def disagreement(views):
    return float((views[1, :, :, :3] - views[0, :, :, 3:]).abs().mean())


def optimised(iterations=100, correlated=True, **options):
    prior, canvas, mu, z = two_gaussian_windows(correlated)
    method = fs.SyncVC(iterations=iterations, lr=decaying, inv_lambda=0.0, **options)
    return fs.sample(prior, canvas, method, cond=mu, latents=z, num_inference_steps=6).views


def independent(correlated=True):
    prior, canvas, mu, z = two_gaussian_windows(correlated)
    return fs.sample(prior, canvas, fs.Independent(), cond=mu, latents=z, num_inference_steps=6).views


def test_the_loss_falls(monkeypatch):
    losses, overlap_loss, control_grad = [], ops.overlap_loss, ops.control_grad

    def overlap(*args):
        result = overlap_loss(*args)
        losses.append(10.0 * float(result[0].sum()))
        return result

    def rest(*args):
        result = control_grad(*args)
        losses[-1] += float(result[0].sum())
        return result

    monkeypatch.setattr(ops, "overlap_loss", overlap)
    monkeypatch.setattr(ops, "control_grad", rest)
    optimised(reward_weight=10.0)
    losses = torch.tensor(losses).reshape(6, 100)
    assert (losses[:, -1] < 0.95 * losses[:, 0]).all() and losses[-1, -1] < 0.01 * losses[-1, 0]
    # Adam is no line search: the fall is that of decades of iterations, not of each one.
    tens = losses.reshape(6, 10, 10).mean(2)
    assert (tens.diff(dim=1) <= 1e-3 * tens[:, :1]).all()


def test_disagreement_does_not_rise_with_the_reward_weight():
    base = disagreement(independent())
    found = [disagreement(optimised(reward_weight=w)) for w in (0.0, 0.1, 1.0, 10.0, 1000.0)]
    assert base > 0.1
    assert all(after <= before + 1e-3 * base for before, after in zip(found, found[1:], strict=False)), found
    assert found[0] == pytest.approx(base, rel=1e-6)
    assert found[-1] < 0.05 * base


@pytest.mark.parametrize(("correlated", "slack"), [(False, 1e-3), (True, 1e-2)])
def test_distance_to_independent_sampling_does_not_rise_with_the_kl_weight(correlated, slack):
    # Greedy steps promise no exact order where pixels are correlated (kappa bounds |eps~ - eps_0| of one step, not
    # the final distance): there the distances fall up to a per cent.
    base = independent(correlated)
    weights = (0.0, 0.1, 1.0, 10.0, 1000.0)
    found = [float((optimised(correlated=correlated, kl_weight=k) - base).norm()) for k in weights]
    assert all(after <= before * (1 + slack) for before, after in zip(found, found[1:], strict=False)), found
    assert found[-1] < 0.5 * found[0]


# ---- loops --------------------------------------------------------------------------------------------------------


def test_a_loop_turns_with_its_noise_and_order():
    prior, canvas, cond, _, z = setup("loop")
    settings = {"num_inference_steps": 4}
    out = fs.sample(prior, canvas, fs.SyncVC(iterations=2), cond=cond, latents=z, **settings)
    # Turning by a stride renames view i as i - 1, so the first to work is now the last.
    turned = fs.sample(
        prior,
        canvas,
        fs.SyncVC(iterations=2, view_order=[2, 0, 1]),
        cond=cond.roll(-1, 0),
        latents=z.roll(-4, -1),
        **settings,
    )
    assert relative(turned.views, out.views.roll(-1, 0)) < 1e-12
    assert relative(turned.canvas, out.canvas.roll(-4, -1)) < 1e-12
    same_order = fs.sample(
        prior, canvas, fs.SyncVC(iterations=2), cond=cond.roll(-1, 0), latents=z.roll(-4, -1), **settings
    )
    assert relative(same_order.views, out.views.roll(-1, 0)) > 1e-3


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3]])
def test_a_view_order_that_is_none(order):
    prior, canvas, cond, _, z = setup("loop")
    with pytest.raises(ValueError, match="view_order must name each of the canvas's 3 views once"):
        fs.sample(prior, canvas, fs.SyncVC(view_order=order), cond=cond, latents=z, num_inference_steps=2)


# ---- coupling where a vanishes -------------------------------------------------------------------------------------


def flow_setup():
    canvas = CANVASES["chain"]()
    prior = fs.FunctionPrior(nonlinear, flow(shift=3.0), (2, 4, 6), dtype=torch.float64)
    return prior, canvas, 0.5 * randn(3, 2, 4, 6, seed=1), randn(3, 2, 4, 6, seed=3)


def test_flow_takes_the_stable_coupling_by_itself():
    prior, canvas, cond, views = flow_setup()
    common = {"cond": cond, "latents": views, "num_inference_steps": 5}
    out = fs.sample(prior, canvas, fs.SyncVC(iterations=2), **common)
    again = fs.sample(prior, canvas, fs.SyncVC(iterations=2, coupling="stable"), **common)
    assert torch.isfinite(out.views).all() and torch.equal(out.views, again.views)
    for bad in ({"coupling": "published"}, {"kl_scheme": "ddim"}):
        with pytest.raises(ValueError, match="divides by a_t, which is 0") as caught:
            fs.sample(prior, canvas, fs.SyncVC(iterations=2, **bad), **common)
        assert "\n" not in str(caught.value)
    fs.sample(prior, canvas, fs.SyncVC(iterations=1, coupling="published", inv_lambda=0.0), **common)


def test_flow_coupling_step_by_step():
    # K = 0: x_s = x - (s_t - s_s) v - g M (x - y); g = 1 at the first step, 1 - (...)^(1/lambda) after it.
    prior, canvas, cond, views = flow_setup()
    out = fs.sample(
        prior, canvas, fs.SyncVC(iterations=0, inv_lambda=0.7), cond=cond, latents=views, num_inference_steps=5
    )
    scheduler = flow(shift=3.0)
    scheduler.set_timesteps(5)
    s = scheduler.sigmas.double()
    starts = [x for _, x in canvas.origins]
    x = views.clone()
    for k in range(5):
        g = 1 - ((1 - s[k]) / (1 - s[k + 1])) ** 0.7
        assert k or float(g) == 1
        after = x - (s[k] - s[k + 1]) * nonlinear(x, scheduler.timesteps[k].expand(3), cond)
        for i in (1, 2):
            shift = starts[i] - starts[i - 1]
            after[i, :, :, : 6 - shift] -= g * (x[i, :, :, : 6 - shift] - x[i - 1, :, :, shift:])
        x = after
    assert relative(out.views, x) < 1e-5


@pytest.mark.parametrize("coupling", ["published", "stable"])
def test_a_last_step_that_does_not_move(coupling):
    # t = 0 with set_alpha_to_one=False leads to itself: the coupling's coefficient is 0 / 0 there.
    prior, canvas, cond, _, z = setup("chain", steps_offset=0, set_alpha_to_one=False)
    method = fs.SyncVC(iterations=2, coupling=coupling)
    out = fs.sample(prior, canvas, method, cond=cond, latents=z, num_inference_steps=4)
    assert torch.isfinite(out.views).all()


# ---- rewards, failures, precision, composites ----------------------------------------------------------------------


def test_rewards_are_asked_about_every_view():
    prior, canvas, cond, uncond, z = setup("chain")
    prior.eps_fn = counter = Counting(nonlinear)
    asked = []

    def brightness(x0, earlier, i):
        asked.append((i, len(earlier)))
        assert x0.shape == (2, 4, 6) and x0.requires_grad
        assert all(e.shape == x0.shape and not e.requires_grad for e in earlier)
        return x0.sum()

    def likeness(x0, earlier, i):
        return -(x0 - earlier[-1]).square().sum() if earlier else x0.new_zeros(())  # constant for the first view

    steps, k = 3, 2
    common = {"cond": cond, "uncond": uncond, "latents": z, "num_inference_steps": steps}
    method = fs.SyncVC(iterations=k, rewards=[brightness, likeness])
    out = fs.sample(prior, canvas, method, order="sequential", **common)
    assert asked == [(i, i) for _ in range(steps) for i in range(3) for _ in range(k)]
    assert out.stats.evaluations == counter.rows == 2 * steps * 3 * (k + 1)
    assert out.stats.gradients == counter.backward_rows == 2 * steps * 3 * k
    plain = fs.sample(prior, canvas, fs.SyncVC(iterations=k), **common)
    assert float(out.views[0].sum()) > float(plain.views[0].sum()) + 1  # the first view has a control too
    flat = fs.SyncVC(iterations=k, rewards=[lambda x0, earlier, i: 0.0 * x0.sum()])
    assert relative(fs.sample(prior, canvas, flat, **common).views, plain.views) < 1e-12


def layers(pictures):
    return [torch.tanh(pictures.roll(1, -1) - 0.5 * pictures + 0.2), pictures[..., ::2, ::2].sin()]


def pictures_setup(name="chain"):
    """Views are pictures [3, h, w] in [-1, 1] as far as rewards know."""
    prior, canvas, cond, uncond, z = setup(name, channels=3)
    prior.eps_fn = Counting(nonlinear)
    return prior, canvas, {"cond": cond, "uncond": uncond, "latents": z, "num_inference_steps": 3}


STYLE = {"reference": torch.sigmoid(randn(3, 8, 8, seed=4)), "style_weight": 100.0, "features": layers}


@pytest.mark.parametrize("name", ["chain", "grid"])
@pytest.mark.parametrize(
    ("rewards", "first"),
    [
        ([Style(**STYLE)], True),
        ([Perceptual(layers)], False),
        ([Overlap()], False),
        ([Perceptual(layers), Style(**STYLE)], True),
    ],
    ids=["style", "perceptual", "overlap", "both"],
)
def test_the_first_view_has_a_control_where_a_reward_speaks_of_it(rewards, first, name):
    prior, canvas, common = pictures_setup(name)
    k, steps, n = 2, 3, canvas.num_views
    results = []
    for order in ("sequential", "wavefront"):
        prior.eps_fn = Counting(nonlinear)
        out = fs.sample(prior, canvas, fs.SyncVC(k, rewards=rewards), order=order, **common)
        assert out.stats.gradients == prior.eps_fn.backward_rows == 2 * steps * k * (n if first else n - 1)
        assert out.stats.evaluations == prior.eps_fn.rows == 2 * steps * (n + k * (n if first else n - 1))
        results.append(out.views)
    assert relative(*results) < 1e-10


def test_rewards_that_read_no_earlier_views_let_them_be():
    _, canvas, _, _, _ = setup("grid")
    order = list(range(canvas.num_views))
    assert fs.SyncVC(rewards=[Style(**STYLE)]).sources(canvas, order) == canvas.neighbours(order).sources
    assert fs.SyncVC(rewards=[Perceptual(layers)]).sources(canvas, order)[-1] == tuple(order[:-1])


def test_rewards_of_pictures_rise():
    prior, canvas, common = pictures_setup()
    prior.decode = lambda x: torch.tanh(x.flip(1))
    style, alike = Style(**STYLE), Perceptual(layers, weight=100.0)

    def judged(views):
        pictures = prior.decode(views) / 2 + 0.5
        styles = [float(style(p, [], i)) for i, p in enumerate(pictures)]
        return styles, sum(float(alike(p, [pictures[0]], 1)) for p in pictures[1:])

    def run(*rewards):
        method = fs.SyncVC(10, reward_weight=0.0, rewards=rewards, inv_lambda=0.0)
        return judged(fs.sample(prior, canvas, method, **common).views)

    (plain_style, plain_alike), (styles, _), (_, likeness) = run(), run(style), run(alike)
    assert all(got > before for got, before in zip(styles, plain_style, strict=True))  # of every view, the first too
    assert sum(styles) > 0.9 * sum(plain_style) and likeness > 0.9 * plain_alike


def test_rewards_of_pictures_run_on_a_canvas_of_one_view():
    prior, _, common = pictures_setup()
    common["cond"] = common["cond"][:1]
    canvas, common["latents"] = fs.WideCanvas((4, 6), (4, 6), 4), common["latents"][..., :6]
    for method in (fs.SyncVC(2, rewards=[Style(**STYLE)]), fs.SyncVC(search=2, rewards=[Style(**STYLE)])):
        out = fs.sample(prior, canvas, method, **common)
        assert out.stats.gradients == (0 if method.search else 2 * 3 * 2)


# ---- search --------------------------------------------------------------------------------------------------------


def bright_cells(x0, earlier, i):
    return int((x0 > 0.3).sum())  # a count has no gradient


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("name", ["chain", "loop", "grid"])
def test_search_gives_the_same_in_every_order(name, eta):
    prior, canvas, cond, uncond, z = setup(name)
    prior.eps_fn = counter = Counting(nonlinear)
    n, steps, views = 3, 4, canvas.num_views
    results = []
    for first, rewards in ((True, [bright_cells]), (False, [])):
        for settings in ({"order": "sequential"}, {"order": "wavefront"}, {"order": "wavefront", "max_batch": 1}):
            counter.rows, generator = 0, torch.Generator().manual_seed(3)
            method = fs.SyncVC(search=n, rewards=rewards)
            out = fs.sample(
                prior, canvas, method, cond=cond, uncond=uncond, latents=z, num_inference_steps=steps, eta=eta,
                generator=generator, **settings,
            )  # fmt: skip
            assert out.stats.evaluations == counter.rows == 2 * steps * (n * views if first else n * (views - 1) + 1)
            assert out.stats.gradients == counter.backward_rows == 0
            results.append(out.views)
            assert relative(out.views, results[0 if first else 3]) < 1e-10
    assert relative(results[0], results[3]) > 1e-3


def test_search_raises_what_it_searches_for():
    prior, canvas, cond, _, z = setup("chain")
    common = {"cond": cond, "latents": z, "num_inference_steps": 8}

    def run(n, **options):
        method = fs.SyncVC(0, inv_lambda=0.0, **(options | {"search": n} if n > 1 else {}))
        return fs.sample(prior, canvas, method, generator=torch.Generator().manual_seed(1), **common).views

    count = [bright_cells(run(n, rewards=[bright_cells], reward_weight=0.0), [], 0) for n in (1, 4, 16)]
    assert count[0] + 5 < count[1] < count[2]
    gap = [float((v[1:, ..., :2] - v[:-1, ..., 4:])[:1].abs().mean()) for v in (run(1), run(16))]
    assert gap[1] < 0.9 * gap[0]


def test_one_step_of_search_by_hand():
    # The whole run is one step with one new candidate: what goes on is the better of the two.
    prior, canvas, cond, _, z = setup("chain", timestep_spacing="trailing")
    weights = {"reward_weight": 0.002, "inv_lambda": 0.0}
    out = fs.sample(
        prior, canvas, fs.SyncVC(search=2, search_scale=0.6, rewards=[bright_cells], **weights),
        cond=cond, latents=z, num_inference_steps=1, eta=0.7, generator=torch.Generator().manual_seed(13),
    )  # fmt: skip
    table, generator = prior.schedule.steps(1, 0.7), torch.Generator().manual_seed(13)
    drawn, noise = (canvas.project(torch.randn(z.shape, generator=generator, dtype=torch.float64)) for _ in range(2))
    t, a, b = table.timesteps, table.a[0], table.b[0]
    starts, clean, chosen = [x for _, x in canvas.origins], [], []
    for i, x in enumerate(canvas.project(z)):
        best = None
        for moved in (0, 1):
            if moved:
                x = x + b * ((0.8 - 1) * best[2] + 0.6 * drawn[i])
            eps = nonlinear(x[None], t, cond[i : i + 1])[0]
            x0 = (x - b * eps) / a
            score = float(bright_cells(x0, [], i))
            if i:
                shift = starts[i] - starts[i - 1]
                score -= 0.002 * float((x0[..., : 6 - shift] - clean[-1][..., shift:]).square().sum())
            if best is None or score > best[0]:
                best, pick = (score, x0, eps), moved
        clean.append(best[1])
        chosen.append((pick, table.a_next[0] * best[1] + table.direction[0] * best[2] + table.sigma[0] * noise[i]))
    assert {pick for pick, _ in chosen} == {0, 1}
    assert relative(out.views, torch.stack([v for _, v in chosen])) < 1e-9


def test_search_without_scale_or_reason_changes_nothing():
    prior, canvas, cond, _, z = setup("chain")
    common = {"cond": cond, "latents": z, "num_inference_steps": 3}
    plain = fs.sample(prior, canvas, fs.SyncVC(0), **common).views
    for method in (fs.SyncVC(search=2, search_scale=0.0), fs.SyncVC(search=2, reward_weight=0.0)):
        assert relative(fs.sample(prior, canvas, method, **common).views, plain) < 1e-12


class Count(Reward):
    differentiable = False

    def __call__(self, x0, earlier, i):
        return bright_cells(x0, earlier, i)


def test_rewards_without_gradient_need_search():
    with pytest.raises(ValueError, match="has no gradient: choose by it with SyncVC") as caught:
        fs.SyncVC(rewards=[Count()])
    assert "\n" not in str(caught.value)
    fs.SyncVC(search=2, rewards=[Count()])
    prior, canvas, cond, _, z = setup("chain")
    for order in ("sequential", "wavefront"):
        with pytest.raises(TypeError, match="bright_cells gave no gradient for any view") as caught:
            method = fs.SyncVC(1, rewards=[bright_cells])
            fs.sample(prior, canvas, method, cond=cond, latents=z, num_inference_steps=3, order=order)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="search must be at least 2, got 1"):
        fs.SyncVC(search=1)
    with pytest.raises(ValueError, match="search_scale must be"):
        fs.SyncVC(search=2, search_scale=1.1)


@pytest.mark.parametrize("order", ["sequential", "wavefront"])
def test_gradients_that_are_not_finite_are_named(order):
    prior, canvas, cond, _, z = setup("chain")
    cond[2] = 77.0  # marks view 2
    bad_time = int(prior.schedule.steps(4).timesteps[1])

    def broken(x, t, c):
        raw = torch.tanh(x)
        bad = (t == bad_time) & (c.flatten(1)[:, 0] == 77.0)
        return raw + torch.where(bad.reshape(-1, 1, 1, 1), torch.sqrt(0 * x), 0 * x)

    def only_where_bad(x, t, c):
        bad = (t == bad_time) & (c.flatten(1)[:, 0] == 77.0)
        return torch.cat(
            [
                broken(row, s, d) if flag else torch.tanh(row)
                for row, s, d, flag in zip(x.split(1), t.split(1), c.split(1), bad, strict=True)
            ]
        )

    prior.eps_fn = only_where_bad
    with pytest.raises(FloatingPointError, match="not finite at view 2, step 1") as caught:
        fs.sample(prior, canvas, fs.SyncVC(iterations=2), cond=cond, latents=z, num_inference_steps=4, order=order)
    assert "\n" not in str(caught.value)


def half_network(x, t, cond):
    return torch.tanh(x.half() * 1.5).mul(0.8)


def test_half_precision_backward_does_not_overflow(monkeypatch):
    canvas = fs.WideCanvas((4, 10), (4, 6), 4)
    prior = fs.FunctionPrior(half_network, ddim(steps_offset=1), (1, 4, 6), dtype=torch.float16)
    single = fs.FunctionPrior(lambda x, t, c: torch.tanh(x * 1.5) * 0.8, ddim(steps_offset=1), (1, 4, 6))
    views = randn(2, 1, 4, 6, dtype=torch.float32)
    method = fs.SyncVC(iterations=3, lr=0.01, reward_weight=1e4, kl_weight=1e4)
    common = {"latents": views, "num_inference_steps": 4}
    out = fs.sample(prior, canvas, method, **common)
    assert out.views.dtype == torch.float32
    assert relative(out.views, fs.sample(single, canvas, method, **common).views) < 1e-2

    def unscaled(self, evaluation, cotangent, peak):
        return torch.autograd.grad(evaluation.raw, evaluation.x, cotangent.to(evaluation.raw.dtype))[0], None

    monkeypatch.setattr(Query, "pullback", unscaled)
    with pytest.raises(FloatingPointError, match="view 1, step 0"):
        fs.sample(prior, canvas, method, **common)


def test_a_network_cut_off_from_autograd_is_reported():
    prior, canvas, cond, _, z = setup("chain")
    prior.eps_fn = torch.no_grad()(nonlinear)
    with pytest.warns(UserWarning, match="does not depend on x as far as autograd can see"):
        out = fs.sample(prior, canvas, fs.SyncVC(iterations=1), cond=cond, latents=z, num_inference_steps=2)
    assert torch.isfinite(out.views).all()


def test_composites():
    prior, canvas, cond, _, z = setup("loop")
    common = {"cond": cond, "latents": z, "num_inference_steps": 2}
    over = fs.sample(prior, canvas, fs.SyncVC(iterations=1, composite="over", view_order=[1, 2, 0]), **common)
    merged = fs.sample(prior, canvas, fs.SyncVC(iterations=1, composite="merge", view_order=[1, 2, 0]), **common)
    assert torch.equal(over.views, merged.views)
    v = over.views  # windows start at 0, 4, 8 of 12 and are 6 wide; view 0 is painted last, over 2, over 1
    assert torch.equal(over.canvas[0, ..., 0:6], v[0])
    assert torch.equal(over.canvas[0, ..., 8:12], v[2, ..., 0:4])
    assert torch.equal(over.canvas[0, ..., 6:8], v[1, ..., 2:4])
    assert torch.allclose(merged.canvas[0, ..., 4:6], (v[0, ..., 4:6] + v[1, ..., 0:2]) / 2)
    assert torch.allclose(merged.canvas[0, ..., 0:2], (v[0, ..., 0:2] + v[2, ..., 4:6]) / 2)
    assert torch.allclose(merged.canvas[0, ..., 2:4], v[0, ..., 2:4])
