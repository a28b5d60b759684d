"""Solvers in whole runs: one view is the scheduler's own loop, several are its steps with the method in between."""

import copy
import inspect

import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import nonlinear, randn, relative
from scheduler_cases import (
    EULERS,
    FLOW,
    ancestral,
    ddim,
    ddpm,
    dpm,
    euler,
    flow,
    flow_lcm,
    lcm,
    singlestep,
    unipc,
)

import fastsync as fs

SHAPE = (2, 4, 6)
SDE = {"algorithm_type": "sde-dpmsolver++"}
KARRAS = {"use_karras_sigmas": True}
# (maker, options, eta, what runs); those that a Stable Diffusion pipeline can step with come first.
VP = {
    "ddim": (ddim, {}, 0.0, "ddim"),
    "ddim, unclean end": (ddim, {"set_alpha_to_one": False, "steps_offset": 1}, 0.0, "ddim"),
    "ddim, eta": (ddim, {}, 0.7, "ddim"),
    "ddpm": (ddpm, {}, 0.0, "ddpm"),
    "euler": (euler, {}, 0.0, "euler"),
    "euler, leading": (euler, {"timestep_spacing": "leading", "steps_offset": 1}, 0.0, "euler"),
    "euler, karras": (euler, KARRAS, 0.0, "euler"),
    "euler, sigma_min": (euler, {"final_sigmas_type": "sigma_min"}, 0.0, "euler"),
    "euler ancestral": (ancestral, {}, 0.0, "euler-ancestral"),
    "dpm 1": (dpm, {"solver_order": 1}, 0.0, "dpmsolver++(1)"),
    "dpm singlestep": (singlestep, {}, 0.0, "dpmsolver++(1)"),
    "dpm 2M": (dpm, {}, 0.0, "dpmsolver++(2M)"),
    "dpm 2M, karras": (dpm, KARRAS, 0.0, "dpmsolver++(2M)"),
    "dpm 2M, sigma_min": (dpm, {"final_sigmas_type": "sigma_min"}, 0.0, "dpmsolver++(2M)"),
    "dpm sde 2M": (dpm, SDE, 0.0, "sde-dpmsolver++(2M)"),
    "unipc": (unipc, {}, 0.0, "unipc(bh2, order 2, predictor)"),
    "lcm": (lcm, {}, 0.0, "lcm"),
    "dpm 2M, flow": (dpm, FLOW, 0.0, "dpmsolver++(2M)"),
}
OTHERS = {
    "ddim, clipped": (ddim, {"clip_sample": True}, 0.5, "ddim"),
    "ddpm, clipped": (ddpm, {"clip_sample": True}, 0.0, "ddpm"),
    "flow": (flow, {"shift": 3.0}, 0.0, "flow-euler"),
    "flow, stochastic": (flow, {"stochastic_sampling": True}, 0.0, "flow-euler-stochastic"),
    "flow lcm": (flow_lcm, {}, 0.0, "flow-lcm"),
}
CASES = {**VP, **OTHERS}
PIPE = tiny.make_pipeline()


def own_loop(scheduler, x, network, steps, eta=0.0, generator=None):
    """The scheduler's own run from standard normal noise x, without anything of ours."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    takes = inspect.signature(scheduler.step).parameters
    given = {"generator": generator} if "generator" in takes else {}
    given |= {"eta": eta} if "eta" in takes else {}
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        at = scheduler.scale_model_input(x, t) if isinstance(scheduler, EULERS) else x
        x = scheduler.step(network(at, t.expand(len(x))), t, x, return_dict=False, **given)[0]
    return x


# ---- one view -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize("name", CASES)
def test_one_view_is_the_schedulers_own_loop(name, steps):
    make, options, eta, solver = CASES[name]
    scheduler = make(**options)
    cond = 0.3 * randn(1, *SHAPE, seed=1)
    # Some schedulers draw float32 noise whatever they are given.
    noisy = fs.diffusion.NoiseSchedule(scheduler).steps(steps, eta).stochastic
    dtype = torch.float32 if noisy else torch.float64

    def network(x, t, c):
        return (0.5 * nonlinear(x.double(), t, c.double())).to(x.dtype)

    prior = fs.FunctionPrior(network, scheduler, SHAPE, dtype=dtype)
    out = fs.sample(
        prior, fs.WideCanvas(SHAPE[1:], SHAPE[1:], 4), fs.Independent(), cond=cond.to(dtype), eta=eta,
        num_inference_steps=steps, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *SHAPE, generator=generator, dtype=dtype)
    expected = own_loop(scheduler, x, lambda x, t: network(x, t, cond), steps, eta, generator)
    assert relative(out.views, expected) < 1e-5 and out.solver == solver
    assert out.views.dtype == dtype


def pipelines_own(pipe, steps, eta, guidance=7.5):
    return pipe(
        "a cat", num_inference_steps=steps, eta=eta, guidance_scale=guidance, output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip


@pytest.mark.parametrize(("prediction", "steps"), [("epsilon", 8), ("epsilon", 20), ("v_prediction", 8)])
@pytest.mark.parametrize("name", VP)
def test_one_view_is_the_pipelines_own_run(name, steps, prediction):
    make, options, eta, solver = VP[name]
    options = {"prediction_type": prediction, **options}
    pipe = copy.copy(PIPE)
    pipe.scheduler = make(**options)
    expected = pipelines_own(pipe, steps, eta)
    prior = fs.DiffusersPrior(pipe)
    cond, uncond = prior.encode_prompt("a cat")
    out = fs.sample(
        prior, fs.WideCanvas((8, 8), (8, 8), 8), fs.SyncVC(), cond=cond, uncond=uncond, eta=eta,
        num_inference_steps=steps, generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    assert relative(out.views, expected) < 1e-4 and out.solver == solver
    assert relative(out.canvas, expected) < 1e-4


@pytest.mark.parametrize("name", VP)
def test_one_window_is_the_pipelines_own_run_and_the_metadata_say_how(name):
    make, options, eta, solver = VP[name]
    pipe = copy.copy(PIPE)
    pipe.scheduler = make(**options)
    out = fs.SyncPipeline(pipe).wide(
        "a cat", width=tiny.PIXELS, method="multidiffusion", num_inference_steps=8, eta=eta, output_type="latent",
        generator=torch.Generator().manual_seed(5), progress=False,
    )  # fmt: skip
    assert relative(out.images, pipelines_own(pipe, 8, eta)) < 1e-4
    assert out.parameters["solver"] == solver and out.parameters["scheduler"] == type(pipe.scheduler).__name__


# ---- several views ------------------------------------------------------------------------------------------------

WIDE, LEFTS, STEPS = 14, (0, 4, 8), 10
CANVAS = fs.WideCanvas((4, WIDE), SHAPE[1:], 4)
COND = 0.3 * randn(3, *SHAPE, seed=1)
MULTISTEP = {
    "2M": dpm(),
    "2M, karras": dpm(**KARRAS),
    "2M, leading": dpm(timestep_spacing="leading", steps_offset=1, final_sigmas_type="sigma_min"),
    "unipc": unipc(),
    "flow": dpm(**FLOW),
}


def network(x, t, cond):
    return 0.5 * nonlinear(x, t, cond)


def run(method, scheduler, latents, **options):
    prior = fs.FunctionPrior(network, scheduler, SHAPE, dtype=torch.float64)
    given = {"cond": COND, "num_inference_steps": STEPS, "latents": latents, **options}
    return fs.Session(prior, CANVAS, method, **given)


def finished(session):
    for _ in session:
        pass
    return session.result()


def windows(z):
    return torch.cat([z[..., left : left + 6] for left in LEFTS])


def merged(views):
    """The mean of all windows that lie on a cell."""
    total, count = torch.zeros(1, SHAPE[0], 4, WIDE, dtype=views.dtype), torch.zeros(WIDE)
    for view, left in zip(views, LEFTS, strict=True):
        total[0, ..., left : left + 6] += view
        count[left : left + 6] += 1
    return total / count


class Copies:
    """The scheduler's own step for each view, with a history of its own; states are float64 outside of it."""

    def __init__(self, scheduler, count=3, **config):
        self.each = [type(scheduler).from_config(scheduler.config, **config) for _ in range(count)]
        for each in self.each:
            each.set_timesteps(STEPS)
        self.times = self.each[0].timesteps
        sigmas = self.each[0].sigmas.double()
        flow = bool(scheduler.config.get("use_flow_sigmas"))
        self.a = 1 - sigmas if flow else (1 + sigmas**2).rsqrt()
        self.b = sigmas if flow else sigmas * self.a

    def forget(self, i):
        self.each[i].lower_order_nums = 0

    def step(self, raw, t, x, **given):
        pairs = zip(self.each, raw, x, strict=True)
        return torch.stack([own.step(r, t, view, return_dict=False, **given)[0] for own, r, view in pairs])

    def x0(self, raw, k, x):
        kind = self.each[0].config.prediction_type
        return x - self.b[k] * raw if kind == "flow_prediction" else (x - self.b[k] * raw) / self.a[k]


def raws(x, t):
    return network(x, t.expand(len(x)), COND)


@pytest.mark.parametrize("name", MULTISTEP)
def test_multidiffusion_is_the_schedulers_step_of_each_window_or_of_the_whole(name):
    scheduler, z = MULTISTEP[name], randn(1, 2, 4, WIDE, seed=2)
    out = finished(run(fs.MultiDiffusion(), scheduler, z))
    copies, whole = Copies(scheduler), Copies(scheduler, 1)
    x, canvas = windows(z), z
    for t in copies.times:
        x = windows(merged(copies.step(raws(x, t), t, x)))
        canvas = whole.step(merged(raws(windows(canvas), t)), t, canvas)
    assert relative(out.views, x) < 1e-5 and relative(out.canvas, canvas) < 1e-5


def test_noise_of_a_multistep_solver_is_one_canvas_a_step():
    scheduler, z = dpm(**SDE), randn(1, 2, 4, WIDE, seed=2)
    session = run(fs.MultiDiffusion(), scheduler, z, generator=torch.Generator().manual_seed(3))
    out, copies, x = finished(session), Copies(scheduler), windows(z)
    generator = torch.Generator().manual_seed(3)
    for t in copies.times:
        noise = windows(torch.randn(1, 2, 4, WIDE, generator=generator, dtype=torch.float64))
        pairs = zip(copies.each, raws(x, t), x, noise, strict=True)
        x = torch.stack([own.step(r, t, v, variance_noise=n, return_dict=False)[0] for own, r, v, n in pairs])
        x = windows(merged(x))
    assert relative(out.views, x) < 1e-5


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", MULTISTEP)
def test_synctweedies_looks_back_at_the_merge(name, shared):
    scheduler = MULTISTEP[name]
    x = windows(randn(1, 2, 4, WIDE, seed=2)) if shared else randn(3, *SHAPE, seed=2)
    out = finished(run(fs.SyncTweedies(), scheduler, x))
    # Whose model output is the merged estimate itself.
    copies, own = Copies(scheduler, prediction_type="sample"), Copies(scheduler)
    for k, t in enumerate(copies.times):
        x = copies.step(windows(merged(own.x0(raws(x, t), k, x))), t, x)
    assert relative(out.views, x) < 1e-5
    assert relative(out.canvas, merged(x)) < 1e-5


def test_views_put_in_by_the_caller_take_a_step_of_first_order():
    scheduler, x = dpm(), randn(3, *SHAPE, seed=2)
    new, copies = randn(2, *SHAPE, seed=9), Copies(scheduler)
    session = run(fs.Independent(), scheduler, x)
    for state in session:
        if state.step in (3, 4):
            views = state.views
            views[state.step - 2] = new[state.step - 3]
            state.views = views
    for k, t in enumerate(copies.times):
        if k in (4, 5):
            x[k - 3] = new[k - 4]
            copies.forget(k - 3)
        x = copies.step(raws(x, t), t, x)
    assert relative(session.result().views, x) < 1e-5
    with_history = Copies(scheduler)
    y = randn(3, *SHAPE, seed=2)
    for k, t in enumerate(with_history.times):
        if k in (4, 5):
            y[k - 3] = new[k - 4]
        y = with_history.step(raws(y, t), t, y)
    assert relative(session.result().views[0], y[0]) < 1e-5 < 1e-3 < relative(session.result().views[1:], y[1:])


@pytest.mark.parametrize("every", [1, 2])
def test_steps_that_syncdiffusion_moves_are_of_first_order(every):
    def distance(a, b):
        return (a.mean((2, 3)) - b.mean((2, 3))).square().sum()

    scheduler, z, weight = dpm(), randn(1, 2, 4, WIDE, seed=2), 3.0
    method = fs.SyncDiffusion(weight, every=every, perceptual=distance, decode=lambda x: x[:, [0, 1, 0]].tanh())
    out = finished(run(method, scheduler, z))
    copies, x = Copies(scheduler), windows(z)
    for k, t in enumerate(copies.times):
        if (k + 1) % every == 0:
            leaf = x.clone().requires_grad_()
            looks = copies.x0(raws(leaf, t), k, leaf)[:, [0, 1, 0]].tanh()
            total = sum(distance(looks[i : i + 1], looks[1:2].detach()) for i in (0, 2))
            gradient = torch.autograd.grad(total, leaf)[0]
            x = x.clone()
            for i in (0, 2):
                x[i] -= weight * 0.95**k * gradient[i]
                copies.forget(i)
        x = windows(merged(copies.step(raws(x, t), t, x)))
    assert relative(out.views, x) < 1e-5


def test_syncsde_pulls_beside_a_step_of_second_order():
    scheduler, x = dpm(), windows(randn(1, 2, 4, WIDE, seed=2)) + 0.1 * randn(3, *SHAPE, seed=3)
    out = finished(run(fs.SyncSDE(inv_lambda=0.5, coupling="published"), scheduler, x))
    copies = Copies(scheduler)
    for k, t in enumerate(copies.times):
        g = (copies.a[k + 1] / copies.a[k] - copies.b[k + 1] / copies.b[k]) * 0.5 * float(t) / float(copies.times[0])
        stepped = copies.step(raws(x, t), t, x)
        for i in (1, 2):
            stepped[i, ..., :2] -= g * (x[i, ..., :2] - x[i - 1, ..., 4:])
        x = stepped
    assert relative(out.views, x) < 1e-5


MANY = {
    "independent": fs.Independent(),
    "multidiffusion": fs.MultiDiffusion("gaussian"),
    "synctweedies": fs.SyncTweedies(),
    "syncsde": fs.SyncSDE(coupling="stable"),
    "syncvc": fs.SyncVC(iterations=2),
    "search": fs.SyncVC(search=3),
    "window": fs.SyncVC(iterations=2, control_window=(800, 300)),
}


@pytest.mark.parametrize("scheduler", [dpm(), dpm(**SDE), unipc(), ancestral(), lcm(), euler(**KARRAS)], ids=repr)
@pytest.mark.parametrize("name", MANY)
def test_orders_and_batches_give_the_same_numbers(name, scheduler):
    x, first = randn(1, 2, 4, WIDE, seed=2), None
    for order in MANY[name].orders:
        for max_batch in (None, 2):
            generator = torch.Generator().manual_seed(0)
            options = {"order": order, "max_batch": max_batch, "generator": generator, "num_inference_steps": 5}
            out = finished(run(MANY[name], scheduler, x, **options))
            first = out if first is None else first
            assert relative(out.views, first.views) < 1e-10
            assert out.stats.evaluations == first.stats.evaluations


# ---- what ran is said -----------------------------------------------------------------------------------------------


def parameters(scheduler, solver="auto", **options):
    pipe = copy.copy(PIPE)
    pipe.scheduler = scheduler
    given = {"method": "multidiffusion", "num_inference_steps": 3, "width": 24, "seed": 0, "output_type": "latent"}
    return fs.SyncPipeline(pipe, solver=solver).wide("a cat", progress=False, **{**given, **options}).parameters


def test_metadata_say_what_ran():
    made = parameters(dpm(), "ddim")
    assert (made["solver"], made["scheduler"]) == ("ddim", "DPMSolverMultistepScheduler")
    made = parameters(dpm(), method=fs.StochSync(steps=3, solver="dpm++"))
    assert made["solver"] == "dpm++ from fresh noise at every step"
    assert made["scheduler"] == "DPMSolverMultistepScheduler"
    assert parameters(euler(), method="stochsync")["solver"] == "ddim from fresh noise at every step"


def test_times_that_are_no_training_times_are_refused_where_methods_name_times():
    scheduler = euler(timestep_type="continuous", prediction_type="v_prediction")
    x = randn(1, 2, 4, WIDE, seed=2)
    for method, sentence in [
        (fs.StochSync(), r"StochSync works at times of its own .* log\(sigma\) / 4 .*: use another method"),
        (fs.SyncVC(control_window=(900, 300)), r"control_window names times .* log\(sigma\) / 4 .*control_window=None"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            run(method, scheduler, x if method.noise_use == "read" else None)
        run(method, euler(prediction_type="v_prediction"), x)
    assert torch.isfinite(finished(run(fs.SyncVC(iterations=1), scheduler, x)).canvas).all()
