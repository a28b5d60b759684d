"""StochSync: its loop derived again, what it spends, its sets, and its inner solvers against the exact answer."""

import pytest
import torch
from exact_priors import Counting, Gaussian, ddim, flow, nonlinear, randn, relative, signal_noise
from tiny_pipelines import make_pipeline

import fastsync as fs
from fastsync.canvases import CAMERAS, POLES
from fastsync.methods.stochsync import disjoint_sets

SHAPE, SIZE, ORIGINS = (2, 4, 6), (4, 15), (0, 3, 6, 9)
SCHEDULERS = {
    "epsilon": lambda: ddim(),
    "unclean end": lambda: ddim(set_alpha_to_one=False, steps_offset=1),
    "v": lambda: ddim(prediction_type="v_prediction", timestep_spacing="trailing"),
    "flow": lambda: flow(shift=2.0),
}


def prior_of(scheduler):
    return fs.FunctionPrior(nonlinear, scheduler, (2, 4, 6))


def raw_of(eps_fn, scheduler):
    """The network that has the eps of ``eps_fn``, in the scheduler's kind of prediction."""

    def network(x, t, cond):
        eps = eps_fn(x, t, cond)
        a, b = (c.reshape(-1, 1, 1, 1) for c in signal_noise(scheduler, t))
        kind = scheduler.config.get("prediction_type", "flow")
        if kind == "epsilon":
            return eps
        x0 = (x - b * eps) / a
        return a * eps - b * x0 if kind == "v_prediction" else eps - x0

    return network


def make(scheduler=None, eps_fn=None, **changes):
    """(prior, canvas, cond, eps_fn): four windows of which every second one touches the next."""
    scheduler = scheduler or ddim()
    eps_fn = eps_fn or Gaussian(scheduler, SHAPE, correlated=True)
    prior = fs.FunctionPrior(raw_of(eps_fn, scheduler), scheduler, SHAPE, dtype=torch.float64)
    return prior, fs.WideCanvas(SIZE, SHAPE[1:], 3, **changes), randn(4, *SHAPE, seed=1), eps_fn


def derived(scheduler, eps_fn, cond, inner, times, sets, seed, solver="ddim", blend_steps=0, blend_width=0.125):
    """The canvas, step by step and view by view, from the published description."""
    generator = torch.Generator().manual_seed(seed)
    is_flow = not hasattr(scheduler, "alphas_cumprod")
    scheduler.set_timesteps(inner)
    grid = scheduler.timesteps.tolist()
    z, painted = torch.zeros(SHAPE[0], *SIZE).double(), torch.zeros(SIZE, dtype=torch.bool)
    ramp = [
        (torch.arange(n).double().minimum(n - 1 - torch.arange(n)) / (blend_width * n)).clamp(max=1) for n in SHAPE[1:]
    ]
    m = torch.minimum(ramp[0][:, None], ramp[1])

    def coefficients(t):
        if t is None:
            end = torch.tensor(1.0) if is_flow else scheduler.final_alpha_cumprod
            return (end.double().sqrt(), (1 - end.double()).sqrt())
        return signal_noise(scheduler, torch.tensor(t))

    for k, outer in enumerate(times):
        noise = torch.randn(1, SHAPE[0], *SIZE, generator=generator, dtype=torch.float64)[0]
        found = {}
        for i in sets[k % len(sets)]:
            here = slice(ORIGINS[i], ORIGINS[i] + SHAPE[2])
            known, wild = z[:, :, here], noise[:, :, here]
            free = torch.where(painted[:, here], m, 1.0) if k >= len(times) - blend_steps else torch.ones_like(m)
            steps = [outer, *(g for g in grid if g < outer), None]
            a, b = coefficients(outer)
            x, before = a * known + b * wild, None
            for j, (now, then) in enumerate(zip(steps, steps[1:], strict=False)):
                (a, b), (a_s, b_s) = coefficients(now), coefficients(then)
                eps = eps_fn(x[None], torch.tensor([now]), cond[i : i + 1])[0]
                x0 = (x - b * eps) / a
                if solver == "ddim":
                    x = a_s * x0 + b_s * eps
                else:
                    # Lu 2022, algorithm 2; of first order at the ends and after a step of less than a quarter.
                    h, target = (a_s / b_s).log() - (a / b).log(), x0
                    if j > 0 and then is not None:
                        a_r, b_r = coefficients(steps[j - 1])
                        r = ((a / b).log() - (a_r / b_r).log()) / h
                        target = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before if r >= 0.25 else x0
                    x, before = b_s / b * x - a_s * torch.expm1(-h) * target, x0
                x = free * x + (1 - free) * (a_s * known + b_s * wild)
            found[i] = x
        total, count = torch.zeros_like(z), torch.zeros(SIZE).double()
        for i, x in found.items():
            total[:, :, ORIGINS[i] : ORIGINS[i] + SHAPE[2]] += x
            count[:, ORIGINS[i] : ORIGINS[i] + SHAPE[2]] += 1
        z, painted = torch.where(count > 0, total / count.clamp(min=1), z), painted | (count > 0)
    return z[None]


def outer_times(scheduler, start, stop, steps):
    times = torch.linspace(start, stop, steps, dtype=torch.float64)
    return times.float().tolist() if not hasattr(scheduler, "alphas_cumprod") else times.round().int().tolist()


@pytest.mark.parametrize("max_batch", [None, 1])
@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_step_by_step(name, solver, max_batch):
    scheduler = SCHEDULERS[name]()
    prior, canvas, cond, eps_fn = make(scheduler)
    out = fs.sample(
        prior, canvas, fs.StochSync(steps=5, solver=solver, blend_steps=2, blend_width=0.4), cond=cond,
        num_inference_steps=9, generator=torch.Generator().manual_seed(3), max_batch=max_batch,
    )  # fmt: skip
    expected = derived(
        SCHEDULERS[name](), eps_fn, cond, 9, outer_times(scheduler, 900, 270, 5), [[0, 2], [1, 3]], 3, solver, 2, 0.4
    )
    assert relative(out.canvas, expected) < 1e-10
    assert relative(out.views, canvas.project(expected)) < 1e-10


@pytest.mark.parametrize("sets", [[[0], [1], [2], [3]], [[1, 3], [0, 2, 3], [2]], [[3, 2, 1, 0]]])
def test_sets_of_ones_own(sets):
    # With blending over cells that an earlier set has, or has not, painted.
    prior, canvas, cond, eps_fn = make(eps_fn=nonlinear)
    method = fs.StochSync(steps=4, sets=sets, blend_steps=9, start=800, stop=100)
    out = fs.sample(prior, canvas, method, cond=cond, num_inference_steps=5, generator=torch.Generator().manual_seed(4))
    expected = derived(ddim(), nonlinear, cond, 5, outer_times(ddim(), 800, 100, 4), sets, 4, blend_steps=9)
    assert relative(out.canvas, expected) < 1e-10


def test_the_border_of_a_blended_step_stays():
    prior, canvas, cond, _ = make(eps_fn=nonlinear)
    seen = []
    fs.sample(
        prior, canvas, fs.StochSync(steps=4, blend_steps=1), cond=cond, num_inference_steps=5,
        generator=torch.Generator().manual_seed(0), callback=lambda k, t, state: seen.append(state["latents"]),
    )  # fmt: skip
    before, after = seen[-2][1], seen[-1][1]
    ring = torch.ones(SHAPE[1:], dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    assert relative(after[:, ring], before[:, ring]) < 1e-12
    assert relative(after[:, ~ring], before[:, ~ring]) > 0.02
    assert relative(seen[-2][0], seen[-3][0]) > 0.02  # steps before it do not blend


def test_what_it_spends():
    counter = Counting(nonlinear)
    prior = fs.FunctionPrior(counter, ddim(), SHAPE, dtype=torch.float64)
    canvas, cond = fs.WideCanvas(SIZE, SHAPE[1:], 3), randn(1, *SHAPE)
    out = fs.sample(prior, canvas, fs.StochSync(), cond=cond, uncond=0 * cond, num_inference_steps=50)
    times = outer_times(ddim(), 900, 270, 25)
    # Steps of the grid 980, 960, ..., 0 below t, and the one from t itself.
    rows = sum(2 * 2 * (1 + sum(g < t for g in range(0, 1000, 20))) for t in times)
    assert (times[0], times[-1], len(times)) == (900, 270, 25)
    assert out.stats.evaluations == counter.rows == rows and out.stats.calls == counter.calls == rows // 4
    assert out.stats.gradients == 0
    assert [float(t[0]) for t, _ in counter.seen[:4]] == [900, 880, 860, 840]  # not twice at 900


def test_split_batches_hold_one_set():
    counter = Counting(nonlinear)
    prior = fs.FunctionPrior(counter, ddim(), SHAPE, dtype=torch.float64)
    canvas, cond = fs.WideCanvas((4, 24), SHAPE[1:], 3), randn(1, *SHAPE)
    common = {"cond": cond, "num_inference_steps": 4}
    assert fs.StochSync().order_of_views(canvas) == [0, 2, 4, 6, 1, 3, 5]
    whole = fs.sample(prior, canvas, fs.StochSync(steps=3), generator=torch.Generator().manual_seed(0), **common)
    calls = counter.calls
    for changes in ({"max_batch": 4}, {"max_batch": 2}, {"order": "sequential"}):
        out = fs.sample(
            prior, canvas, fs.StochSync(steps=3), generator=torch.Generator().manual_seed(0), **common, **changes
        )
        assert relative(out.canvas, whole.canvas) < 1e-12 and out.stats.evaluations == whole.stats.evaluations
        if changes.get("max_batch") == 4:
            assert out.stats.calls == calls


def test_sets_follow_from_the_canvas():
    assert disjoint_sets(fs.WideCanvas((8, 40), (8, 8), 4)) == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]
    assert disjoint_sets(fs.WideCanvas((8, 32), (8, 8), 8)) == [[0, 1, 2, 3]]
    assert disjoint_sets(fs.WideCanvas((8, 32), (8, 8), 4, loop=True)) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert disjoint_sets(fs.WideCanvas((8, 20), (8, 8), 4, loop=True)) == [[0, 2], [1, 3], [4]]
    assert disjoint_sets(fs.WideCanvas((12, 12), (8, 8), 4)) == [[0], [1], [2], [3]]
    assert disjoint_sets(fs.WideCanvas((8, 18), (8, 8), 4)) == [[0, 2], [1], [3]]  # the last one is flush
    assert disjoint_sets(fs.IllusionCanvas(["identity", "rotate_cw", "negate"], (2, 6, 6))) == [[0], [1], [2]]
    assert disjoint_sets(fs.PanoramaCanvas((48, 96), window=(12, 12))) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    with_poles = disjoint_sets(fs.PanoramaCanvas((48, 96), [*CAMERAS, *POLES], (12, 12)))
    assert sorted(i for members in with_poles for i in members) == list(range(18))
    # A small view inside a large one is covered by it, in whichever order they come.
    for cameras in ([(0, 0, 20), (0, 0, 100)], [(0, 0, 100), (0, 0, 20)]):
        assert disjoint_sets(fs.PanoramaCanvas((300, 600), cameras, (8, 8))) == [[0], [1]]


def exact(prior_of, scheduler, x, t):
    """Where the deterministic flow of a Gaussian prior takes x [1, C, h, w] from time t."""
    a, b = signal_noise(scheduler, torch.tensor(t))
    return x * (prior_of.spectrum / (a**2 * prior_of.spectrum + b**2)).sqrt().reshape(x.shape)


@pytest.mark.parametrize("make_scheduler", [ddim, lambda: flow()], ids=["vp", "flow"])
def test_dpm_solver_comes_closer_in_a_quarter_of_the_steps(make_scheduler):
    scheduler = make_scheduler()
    gaussian = Gaussian(scheduler, SHAPE)
    gaussian.spectrum = torch.linspace(0.2, 2.0, 48, dtype=torch.float64)
    prior = fs.FunctionPrior(raw_of(gaussian, scheduler), scheduler, SHAPE, dtype=torch.float64)
    canvas, noise = fs.WideCanvas(SHAPE[1:], SHAPE[1:], 1), randn(1, *SHAPE, seed=5)
    t = outer_times(scheduler, 900, 270, 1)[0]
    expected = exact(gaussian, scheduler, signal_noise(scheduler, torch.tensor(t))[1] * noise, t)

    def error(solver, inner):
        out = fs.sample(
            prior, canvas, fs.StochSync(steps=1, solver=solver), cond=torch.zeros(1, *SHAPE).double(), latents=noise,
            num_inference_steps=inner,
        )  # fmt: skip
        return relative(out.canvas, expected)

    coarse, fine = ({s: error(s, n) for s in ("ddim", "dpm++")} for n in (20, 80))
    assert coarse["dpm++"] < fine["ddim"] < coarse["ddim"] / 3 and fine["dpm++"] < coarse["dpm++"] / 2


def test_the_fast_setting():
    fast = fs.StochSync(fast=True)
    assert (fast.steps, fast.start, fast.stop, fast.solver) == (8, 900, 700, "dpm++")
    slow = fs.StochSync()
    assert (slow.steps, slow.start, slow.stop, slow.solver) == (25, 900, 270, "ddim")
    mixed = fs.StochSync(steps=5, stop=600, solver="ddim", fast=True)
    assert (mixed.steps, mixed.stop, mixed.solver) == (5, 600, "ddim")
    counter = Counting(nonlinear)
    prior = fs.FunctionPrior(counter, ddim(), SHAPE, dtype=torch.float64)
    common = {"cond": randn(1, *SHAPE), "generator": torch.Generator()}
    canvas = fs.WideCanvas(SIZE, SHAPE[1:], 3)
    fs.sample(prior, canvas, fast, **common)
    times = outer_times(ddim(), 900, 700, 8)
    assert counter.rows == sum(2 * (1 + sum(g < t for g in range(0, 1000, 50))) for t in times)
    counter.rows = 0
    fs.sample(prior, canvas, fast, num_inference_steps=5, **common)
    assert counter.rows == sum(2 * (1 + sum(g < t for g in range(0, 1000, 200))) for t in times)


def test_times_are_on_the_schedule_s_own_scale():
    table = fs.StochSync(steps=3).table(prior_of(ddim(num_train_timesteps=200)), 10, 0.0)
    assert table.timesteps.tolist() == [180, 117, 54]
    table = fs.StochSync(steps=3).table(prior_of(flow(num_train_timesteps=500)), 10, 0.0)
    assert torch.allclose(table.b, torch.tensor([0.9, 0.585, 0.27]).double())
    assert fs.StochSync(start=1000).table(prior_of(ddim()), 10, 0.0).timesteps[0] == 999


@pytest.mark.parametrize(
    "scheduler", [flow(), ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True)], ids=["flow", "v"]
)
@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_from_pure_noise(scheduler, solver):
    prior = fs.FunctionPrior(lambda x, t, c: 0.5 * torch.tanh(x), scheduler, SHAPE, dtype=torch.float64)
    canvas = fs.WideCanvas(SIZE, SHAPE[1:], 3)
    out = fs.sample(prior, canvas, fs.StochSync(steps=3, start=1000, solver=solver), num_inference_steps=6)
    assert bool(torch.isfinite(out.canvas).all())


def test_the_same_seed_is_the_same_picture():
    prior, canvas, cond, _ = make(eps_fn=nonlinear)

    def picture(seed, **more):
        generator = torch.Generator().manual_seed(seed)
        return fs.sample(
            prior, canvas, fs.StochSync(steps=3), cond=cond, num_inference_steps=4, generator=generator, **more
        ).canvas

    assert torch.equal(picture(1), picture(1)) and not torch.equal(picture(1), picture(2))
    # The first noise is the initial latents; the later ones are drawn.
    assert not torch.equal(picture(1, latents=randn(1, 2, *SIZE)), picture(2, latents=randn(1, 2, *SIZE)))


def test_a_callback_sees_the_projected_canvas_and_may_paint():
    prior, canvas, cond, _ = make(eps_fn=nonlinear)
    seen, common = [], {"cond": cond, "num_inference_steps": 4}

    def run(callback=None):
        generator = torch.Generator().manual_seed(0)
        return fs.sample(prior, canvas, fs.StochSync(steps=3), callback=callback, generator=generator, **common)

    plain = run()
    out = run(lambda k, t, state: seen.append((k, int(t), state["latents"])))
    assert torch.equal(out.canvas, plain.canvas) and [s[:2] for s in seen] == [(0, 900), (1, 585), (2, 270)]
    assert all(relative(canvas.project(canvas.merge(views)), views) < 1e-12 for *_, views in seen)
    assert torch.equal(seen[-1][2], out.views)
    assert torch.equal(run(lambda k, t, state: state).canvas, plain.canvas)

    def paint(step, value):
        def callback(k, t, state):
            views = state["latents"].clone()
            views[1] = value
            return {"latents": views} if k == step else None

        return run(callback)

    assert bool((paint(2, 7.0).canvas[..., 3:9] == 7).all()) and bool((paint(2, 7.0).views[1] == 7).all())
    assert not torch.equal(paint(0, 7.0).canvas, plain.canvas)


def test_illusions_and_their_negatives():
    # Two views of one picture: the second step starts from what the first has painted, seen its own way.
    canvas = fs.IllusionCanvas(["identity", "negate"], (2, 4, 4))
    prior = fs.FunctionPrior(nonlinear, ddim(), (2, 4, 4), dtype=torch.float64)
    seen = []
    out = fs.sample(
        prior, canvas, fs.StochSync(steps=2, blend_steps=1), cond=randn(1, 2, 4, 4), num_inference_steps=4,
        generator=torch.Generator().manual_seed(0), callback=lambda k, t, state: seen.append(state["latents"]),
    )  # fmt: skip
    assert torch.equal(seen[0][0], -seen[0][1])
    border = torch.ones(4, 4, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert relative(out.views[1][:, border], seen[0][1][:, border]) < 1e-12
    assert relative(out.views[1], seen[0][1]) > 0.01
    # Views that show cells twice: noise is drawn view by view.
    mirror = fs.View("mirror", lambda h, w: torch.arange(h * w).reshape(h, w).minimum(torch.tensor(h * w // 2)))
    canvas = fs.IllusionCanvas(["identity", mirror], (2, 4, 4))
    assert canvas.whiteness == "none"
    out = fs.sample(prior, canvas, fs.StochSync(steps=2), cond=randn(1, 2, 4, 4), num_inference_steps=4)
    assert bool(torch.isfinite(out.canvas).all())


def test_a_panorama_has_no_seam():
    canvas = fs.PanoramaCanvas((48, 96), window=(12, 12))
    prior = fs.FunctionPrior(nonlinear, ddim(), (2, 12, 12), dtype=torch.float64)
    out = fs.sample(
        prior, canvas, fs.StochSync(steps=4), cond=0.3 * randn(1, 2, 12, 12), num_inference_steps=5,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    horizon = out.canvas[0, :, 22:26]
    assert bool((horizon.abs().amax((0, 1)) > 0).all())
    # Turned by the distance of two cameras it is as likely a picture: no column is special.
    assert out.canvas.shape == (1, 2, 48, 96) and relative(canvas.project(out.canvas), out.views) < 1e-12


def tiny(**changes):
    prior = fs.DiffusersPrior(make_pipeline(**changes))
    cond, uncond = prior.encode_prompt("dunes")
    canvas = fs.WideCanvas((16, 40), (16, 16), 8, units="pixels")
    return prior, canvas, {"cond": cond, "uncond": uncond, "guidance_scale": 2.0}


def test_pictures_are_merged_as_pixels():
    prior, canvas, conditions = tiny()
    start = randn(4, 4, 8, 8, seed=1, dtype=torch.float32)
    method = fs.StochSync(steps=2, blend_steps=1, blend_width=0.25)
    out = fs.sample(
        prior, canvas, method, latents=start, num_inference_steps=3, generator=torch.Generator().manual_seed(0),
        **conditions,
    )  # fmt: skip
    # Again, step by step.
    generator, scheduler = torch.Generator().manual_seed(0), prior.pipe.scheduler
    scheduler.set_timesteps(3)
    grid, z = scheduler.timesteps.tolist(), torch.zeros(1, 3, 16, 40)
    ramp = torch.tensor([min(1.0, min(i, 7 - i) / 2) for i in range(8)])
    m = torch.minimum(ramp[:, None], ramp)
    with torch.no_grad():
        for k, (t, views) in enumerate([(900, (0, 2)), (270, (1, 3))]):
            noise = start if k == 0 else torch.randn(4, 4, 8, 8, generator=generator)
            for i in views:
                known = torch.zeros(1, 4, 8, 8) if k == 0 else prior.encode(z[..., 8 * i : 8 * i + 16])
                times = [t, *(g for g in grid if g < t)]
                abar = [*scheduler.alphas_cumprod[times].tolist(), float(scheduler.final_alpha_cumprod)]
                # The last view's right half shows nothing that the first step has painted.
                painted = torch.ones(8, 8)
                painted[:, 4:] = i != 3
                known = known * painted
                x = abar[0] ** 0.5 * known + (1 - abar[0]) ** 0.5 * noise[i]
                free = 1 - (1 - m) * painted if k else 1
                for j, now in enumerate(times):
                    at = prior.predict(x, torch.tensor([now]), conditions["cond"], conditions["uncond"], 2.0)
                    a, b = abar[j + 1] ** 0.5, (1 - abar[j + 1]) ** 0.5
                    x = free * (a * at.x0 + b * at.eps) + (1 - free) * (a * known + b * noise[i])
                z[..., 8 * i : 8 * i + 16] = prior.decode(x).clamp(-1, 1)
    assert out.canvas.shape == (1, 3, 16, 40) and out.views.shape == (4, 3, 16, 16)
    assert relative(out.canvas, z) < 1e-4
    assert torch.equal(out.views, canvas.project(out.canvas))


def test_pixels_in_any_batches_and_with_callbacks():
    prior, canvas, conditions = tiny()
    seen, turns = [], fs.StochSync(steps=3)

    def run(**more):
        generator = torch.Generator().manual_seed(0)
        return fs.sample(prior, canvas, turns, num_inference_steps=3, generator=generator, **conditions, **more)

    whole = run()
    assert relative(run(max_batch=1).canvas, whole.canvas) < 1e-4
    out = run(callback=lambda k, t, state: seen.append(state["latents"]))
    assert torch.equal(out.canvas, whole.canvas)
    assert seen[0].shape == (4, 4, 8, 8) and not bool(seen[0][1].any()) and bool(seen[0][0].any())

    def paint(k, t, state):
        return {"latents": state["latents"].index_fill(0, torch.tensor([0]), 0.0)} if k == 2 else None

    blank = prior.decode(torch.zeros(1, 4, 8, 8)).clamp(-1, 1).detach()
    assert relative(run(callback=paint).canvas[..., :16], blank) < 1e-5


def test_latents_of_a_latent_prior_as_they_are():
    prior, _, conditions = tiny()
    canvas = fs.WideCanvas((8, 20), (8, 8), 4)
    out = fs.sample(prior, canvas, fs.StochSync(steps=2), num_inference_steps=3, **conditions)
    assert out.canvas.shape == (1, 4, 8, 20) and out.views.shape == (4, 4, 8, 8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_overflows_is_told_as_such(bad):
    prior, canvas, cond, _ = make(eps_fn=lambda x, t, cond: x * bad)
    with pytest.raises(FloatingPointError, match="the result has values that are NaN or infinite"):
        fs.sample(prior, canvas, fs.StochSync(steps=3), cond=cond, num_inference_steps=3)


BAD = {
    "order of times": (lambda: fs.StochSync(start=300, stop=300), ValueError, "start must be above stop"),
    "start": (lambda: fs.StochSync(start=1001), ValueError, "start must be"),
    "stop": (lambda: fs.StochSync(stop=0), ValueError, "stop must be"),
    "no steps": (lambda: fs.StochSync(steps=0), ValueError, "steps must be at least 1"),
    "half a step": (lambda: fs.StochSync(steps=2.5), TypeError, "steps must be a whole number"),
    "solver": (lambda: fs.StochSync(solver="euler"), ValueError, "'ddim', 'dpm\\+\\+'"),
    "fast": (lambda: fs.StochSync(fast=8), TypeError, "fast must be True or False"),
    "blend_steps": (lambda: fs.StochSync(blend_steps=-1), ValueError, "blend_steps must be at least 0"),
    "no blend_width": (lambda: fs.StochSync(blend_width=0), ValueError, "blend_steps=0"),
    "blend_width": (lambda: fs.StochSync(blend_width=0.6), ValueError, "at most 0.5"),
    "sets": (lambda: fs.StochSync(sets="01"), TypeError, "list of lists"),
    "flat sets": (lambda: fs.StochSync(sets=[0, 1]), TypeError, "each of sets"),
    "empty set": (lambda: fs.StochSync(sets=[[0], []]), TypeError, "each of sets"),
    "twice": (lambda: fs.StochSync(sets=[[0, 0]]), ValueError, "twice"),
    "negative view": (lambda: fs.StochSync(sets=[[-1]]), ValueError, "at least 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name):
    build, error, sentence = BAD[name]
    with pytest.raises(error, match=sentence):
        build()


@pytest.mark.parametrize(
    ("method", "changes", "sentence"),
    [
        (fs.StochSync(sets=[[0, 2], [1]]), {}, "view 3 is in none"),
        (fs.StochSync(sets=[[0, 2], [1, 4]]), {}, "views 0 to 3"),
        (fs.StochSync(steps=1), {}, "2 sets of views"),
        (fs.StochSync(), {"eta": 0.5}, "eta must be 0 with StochSync"),
        (fs.StochSync(), {"eta": -1.0}, "eta must be at least 0"),
        (fs.StochSync(), {"num_inference_steps": 2000}, "at most 1000"),
        (fs.StochSync(), {"num_inference_steps": 0}, "at least 1"),
        (fs.StochSync(), {"order": "wavefront"}, "not possible with StochSync"),
        (fs.StochSync(), {"latents": torch.zeros(1, 2, 4, 14)}, "canvas shape"),
    ],
)
def test_bad_runs(method, changes, sentence):
    counter = Counting(nonlinear)
    prior = fs.FunctionPrior(counter, ddim(), SHAPE, dtype=torch.float64)
    with pytest.raises(ValueError, match=sentence):
        fs.sample(prior, fs.WideCanvas(SIZE, SHAPE[1:], 3), method, **{"cond": randn(1, *SHAPE), **changes})
    assert not counter.calls


def test_epsilon_does_not_start_without_signal():
    prior = fs.FunctionPrior(nonlinear, ddim(rescale_betas_zero_snr=True), SHAPE)
    with pytest.raises(ValueError, match=r"StochSync\(start=1000\) starts at a time without signal"):
        fs.sample(prior, fs.WideCanvas(SIZE, SHAPE[1:], 3), fs.StochSync(start=1000), cond=torch.zeros(1, *SHAPE))


def test_canvases_in_pixels_are_not_for_every_method():
    prior, canvas, conditions = tiny()
    with pytest.raises(ValueError, match="the canvas's views are in pixels, but SyncSDE .* units='cells'"):
        fs.sample(prior, canvas, fs.SyncSDE(), **conditions)
    with pytest.raises(ValueError, match=r"\[16, 16\] in cells .* in pixels \[3, 16, 16\].* with units='pixels'\."):
        fs.sample(prior, fs.WideCanvas((16, 40), (16, 16), 8), fs.StochSync(), **conditions)
    with pytest.raises(ValueError, match=r"\[8, 8\] in pixels but the prior's are \[4, 8, 8\].* with units='cells'\."):
        fs.sample(prior, fs.WideCanvas((8, 20), (8, 8), 4, units="pixels"), fs.StochSync(), **conditions)
    with pytest.raises(ValueError, match=r"in pixels \[3, 16, 16\]"):
        fs.sample(prior, fs.WideCanvas((16, 40), (16, 24), 8), fs.StochSync(), **conditions)
    with pytest.raises(ValueError, match=r"latents must be of view shape \[4, 4, 8, 8\]"):
        fs.sample(prior, canvas, fs.StochSync(), latents=torch.zeros(1, 4, 16, 40), **conditions)
