"""Session: the loop of ``sample`` in the caller's own hands."""

import contextlib

import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import ddim, nonlinear, randn, relative
from scheduler_cases import dpm

import fastsync as fs

SHAPE, VIEWS, STEPS = (2, 4, 6), 3, 4


def spread(a, b):
    return (a.mean((2, 3)) - b.mean((2, 3))).square().sum()


METHODS = {
    "independent": fs.Independent(),
    "multidiffusion": fs.MultiDiffusion("gaussian"),
    "synctweedies": fs.SyncTweedies(),
    "syncsde": fs.SyncSDE(),
    "syncdiffusion": fs.SyncDiffusion(0.1, perceptual=spread, decode=lambda x: x[:, [0, 1, 0]]),
    "stochsync": fs.StochSync(steps=STEPS),
    "syncvc": fs.SyncVC(iterations=2),
    "search": fs.SyncVC(search=2),
}
EACH = [(name, order) for name, method in METHODS.items() for order in method.orders]
CANVAS = fs.WideCanvas((4, 14), SHAPE[1:], 4)


def session(method, *, network=nonlinear, scheduler=None, **options):
    prior = fs.FunctionPrior(network, scheduler or ddim(steps_offset=1), SHAPE, dtype=torch.float64)
    given = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(0), **arguments(), **options}
    return fs.Session(prior, CANVAS, method, **given)


def arguments():
    return {"cond": 0.5 * randn(VIEWS, *SHAPE, seed=1), "uncond": 0.5 * randn(1, *SHAPE, seed=2), "guidance_scale": 2.0}


def sample(method, **options):
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), SHAPE, dtype=torch.float64)
    given = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(0), **arguments(), **options}
    return fs.sample(prior, CANVAS, method, **given)


def finished(run):
    for _ in run:
        pass
    return run.result()


# ---- what a step shows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "order"), EACH)
def test_the_loop_is_sample_with_a_callback(name, order):
    told = []
    out = sample(METHODS[name], order=order, callback=lambda step, t, state: told.append((step, t, dict(state))))
    run = session(METHODS[name], order=order)
    seen = [(state.step, state.t, {"latents": state.views, "x0": state.x0}) for state in run]
    assert len(seen) == len(told) == len(run) == STEPS
    for n, ((step, t, state), (step_told, t_told, state_told)) in enumerate(zip(seen, told, strict=True)):
        assert step == step_told == n and torch.equal(t, t_told) and t.ndim == 0
        for what in ("latents", "x0"):
            assert torch.equal(state[what], state_told[what]) and state[what].shape == (VIEWS, *SHAPE)
    result = run.result()
    assert torch.equal(result.canvas, out.canvas) and torch.equal(result.views, out.views)
    assert run.result() is result and result.solver == out.solver
    assert result.stats.evaluations == out.stats.evaluations and result.stats.seconds > 0
    with pytest.raises(StopIteration):
        next(run)


@pytest.mark.parametrize(("name", "order"), EACH)
def test_other_orders_show_the_same(name, order):
    def shown(order):
        return [torch.cat([state.views, state.x0]) for state in session(METHODS[name], order=order)]

    for some, first in zip(shown(order), shown(METHODS[name].orders[-1]), strict=True):
        assert relative(some, first) < 1e-11


def coefficients(scheduler, t):
    abar = scheduler.alphas_cumprod.double()[int(t)]
    return abar.sqrt(), (1 - abar).sqrt()


def estimates(x, t, scale=2.0):
    """Guided eps and Tweedie's estimate of the views [N, C, h, w]."""
    given, times = arguments(), t.reshape(1).expand(len(x))
    c, u = given["cond"], given["uncond"].expand(len(x), -1, -1, -1)
    eps = (1 - scale) * nonlinear(x, times, u) + scale * nonlinear(x, times, c)
    a, b = coefficients(ddim(), t)
    return (x - b * eps) / a, eps


@pytest.mark.parametrize("name", ["independent", "multidiffusion", "synctweedies", "syncsde"])
def test_x0_is_what_the_method_made_of_the_estimates(name):
    x = randn(VIEWS, *SHAPE, seed=3)
    if name == "synctweedies":  # so that they do not agree by themselves
        assert relative(CANVAS.project(CANVAS.merge(x)), x) > 0.1
    for state in session(METHODS[name], latents=x):
        expected = estimates(x, state.t)[0]
        if name == "synctweedies":
            expected = CANVAS.project(CANVAS.merge(expected))
        assert relative(state.x0, expected) < 1e-12
        x = state.views


def test_x0_of_syncvc_is_at_the_optimised_control():
    calls = []

    def network(x, t, cond):
        raw = nonlinear(x, t, cond)
        calls.append((x.detach(), t, raw.detach()))
        return raw

    run = session(fs.SyncVC(iterations=2, inv_lambda=0.0), network=network, order="sequential", uncond=None)
    for state in run:
        # One call for the first view, and three for each of the others, of which the last is at the control.
        last = [calls[i] for i in (0, 3, 6)]
        x, eps = (torch.cat([call[n] for call in last]) for n in (0, 2))
        a, b = coefficients(ddim(), state.t)
        assert relative(state.x0, (x - b * eps) / a) < 1e-12
        assert relative(x[1:], calls[1][0]) > 1e-3 and len(calls) == 7
        calls.clear()


def test_x0_of_stochsync_are_its_clean_views():
    run = session(METHODS["stochsync"])
    for state in run:
        assert torch.equal(state.x0, state.views)
        assert relative(state.x0, run._bound.shown) == 0
    assert torch.equal(run.result().views, state.x0)


def test_what_a_state_hands_out_is_a_copy():
    run = session(METHODS["syncvc"], order="sequential")
    for state in run:
        state.views.zero_()
        state.x0.zero_()
    assert torch.equal(run.result().canvas, sample(METHODS["syncvc"], order="sequential").canvas)


# ---- views of the caller's own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_views_replaced_by_assignment_and_by_a_callback(name):
    new = randn(VIEWS, *SHAPE, seed=8)

    def edit(step, t, state):
        return {"latents": state["latents"] + 0.5 * new} if step == 1 else None

    run = session(METHODS[name])
    assert run.order != "wavefront"
    for state in run:
        if state.step == 1:
            state.views = edited = state.views + 0.5 * new
            assert torch.equal(state.views, edited)
    expected = sample(METHODS[name], callback=edit)
    assert torch.equal(run.result().canvas, expected.canvas) and torch.equal(run.result().views, expected.views)
    assert relative(expected.canvas, sample(METHODS[name]).canvas) > 1e-3


@pytest.mark.parametrize("name", ["independent", "multidiffusion", "synctweedies"])
def test_views_replaced_by_hand(name):
    """The rest of the run is DDIM's, from the views that were put in."""
    new, run, scheduler = randn(VIEWS, *SHAPE, seed=8), session(METHODS[name]), ddim(steps_offset=1)
    scheduler.set_timesteps(STEPS)
    for state in run:
        if state.step == 1:
            state.views = x = new.float()  # brought to the run's precision
            assert state.views.dtype == torch.float64
    x = x.double()
    for t in scheduler.timesteps[2:]:
        (x0, eps), (a, b) = estimates(x, t), coefficients(scheduler, t)
        s = t - 1000 // STEPS
        a_s, b_s = coefficients(scheduler, s) if s >= 0 else (torch.tensor(1.0), torch.tensor(0.0))
        if name == "synctweedies":
            x0 = CANVAS.project(CANVAS.merge(x0))
            eps = (x - a * x0) / b
        x = a_s * x0 + b_s * eps
        if name == "multidiffusion":
            bell = fs.methods.multidiffusion.gaussian_weights(x)
            x = CANVAS.project(CANVAS.merge(x, bell))
    assert relative(run.result().views, x) < 1e-6  # diffusers keeps its table in float32


@pytest.mark.parametrize("name", ["independent", "stochsync"])
def test_views_replaced_after_the_last_step_are_the_result(name):
    run, new = session(METHODS[name]), CANVAS.project(randn(1, 2, 4, 14, seed=8))
    for state in run:
        last = state
    before = run.result()
    last.views = new
    assert relative(run.result().views, new) < 1e-12 and relative(CANVAS.project(run.result().canvas), new) < 1e-12
    assert relative(before.views, new) > 0.1


def test_what_is_no_replacement_is_told():
    run = session(METHODS["independent"])
    state = next(run)
    views = state.views
    broken = views.clone()
    broken[0, 0, 0, 0] = float("nan")
    for value, error, sentence in [
        (views[:2], ValueError, r"the views must be \[3, 2, 4, 6\], got \[2, 2, 4, 6\]\."),
        (broken, ValueError, "the views has 1 values that are NaN or infinite: pass finite numbers"),
        (views.tolist(), TypeError, "the views must be a torch.Tensor, got list: convert it"),
        (views.long(), TypeError, "the views must be a floating-point tensor, got torch.int64"),
        (None, TypeError, "the views must be a torch.Tensor, got NoneType"),
    ]:
        with pytest.raises(error, match=sentence):
            state.views = value
        assert torch.equal(state.views, views)
    run = session(METHODS["syncvc"], order="wavefront")
    state = next(run)
    with pytest.raises(ValueError, match="views cannot be replaced in the wavefront, .*: use order='sequential'"):
        state.views = state.views


def test_only_the_last_step_can_be_read_or_replaced():
    run = session(METHODS["syncvc"], order="sequential")
    first, second = next(run), next(run)
    assert second.views.shape == second.x0.shape
    for read in (lambda: first.views, lambda: first.x0, lambda: setattr(first, "views", second.views)):
        with pytest.raises(RuntimeError, match="the views of step 0 are not kept, since .* has gone on to step 1"):
            read()


def test_there_is_no_result_before_the_end():
    run = session(METHODS["independent"])
    for done, _ in enumerate(run):
        if done < STEPS - 1:
            with pytest.raises(RuntimeError, match=f"has done {done + 1} of 4 steps, .*: iterate it to the end"):
                run.result()
    assert run.result().canvas.shape == (1, 2, 4, 14)


def test_without_previews():
    run = session(METHODS["syncvc"], previews=False)
    assert run.order == "wavefront" and session(METHODS["syncvc"]).order == "sequential"
    seen = []
    for state in run:
        seen.append((state.step, int(state.t)))
        for read in (lambda state=state: state.views, lambda state=state: state.x0):
            with pytest.raises(RuntimeError, match="not kept with previews=False: start .* with previews=True"):
                read()
    assert seen == list(enumerate(run.run.times.host_times.tolist()))
    assert relative(run.result().canvas, sample(METHODS["syncvc"], order="sequential").canvas) < 1e-11
    few, all_kept = (len(session(METHODS["syncvc"], order="wavefront", previews=p).run.states.noisy) for p in (0, 1))
    assert few < all_kept
    edited = session(METHODS["independent"], previews=False)
    for state in edited:  # to write nothing need be kept
        state.views = randn(VIEWS, *SHAPE)
    assert torch.equal(edited.result().views, randn(VIEWS, *SHAPE))


def test_progress(capsys):
    run = session(METHODS["syncvc"], progress=True)
    next(run)
    assert run._bar.n == VIEWS and "SyncVC" in capsys.readouterr().err
    finished(run)
    assert run._bar.n == run._bar.total == STEPS * VIEWS
    capsys.readouterr()
    finished(session(METHODS["syncvc"]))
    assert capsys.readouterr().err == ""


# ---- the pipeline and the caller's modes ------------------------------------------------------------------------


class Failure(Exception):
    pass


def tiny_session(pipe, method, **options):
    prior = fs.DiffusersPrior(pipe, **{"neighbours": options.pop("neighbours", None)})
    cond, uncond = prior.encode_prompt("a cat")
    canvas = fs.WideCanvas((8, 16), (8, 8), 4)
    return fs.Session(
        prior, canvas, method, cond=cond, uncond=uncond, num_inference_steps=3,
        generator=torch.Generator().manual_seed(0), **options,
    )  # fmt: skip


def switched(pipe):
    """Whatever a run switches in a pipeline's network."""
    flags = [p.requires_grad for p in pipe.unet.parameters()]
    processors = [id(processor) for processor in pipe.unet.attn_processors.values()]
    return flags, processors, pipe.unet.training, [len(m._forward_hooks) for m in pipe.unet.modules()]


@pytest.mark.parametrize("neighbours", [None, fs.priors.view_ring(3)], ids=["plain", "shared attention"])
def test_between_steps_the_pipeline_is_its_owners(neighbours, monkeypatch):
    pipe = tiny.make_pipeline()
    next(pipe.unet.parameters()).requires_grad_(False)  # one of them is frozen already
    before, during = switched(pipe), []
    assert sum(before[0]) == len(before[0]) - 1
    forward = pipe.unet.forward

    def watched(*args, **kwargs):
        during.append(switched(pipe))
        if len(during) == 9:
            raise Failure
        return forward(*args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", watched)
    method = fs.SyncVC(iterations=1) if neighbours is None else fs.SyncTweedies()
    run = tiny_session(pipe, method, neighbours=neighbours)
    for _ in run:
        assert switched(pipe) == before
        break
    assert during and not any(during[0][0]) and (during[0][1] != before[1]) == (neighbours is not None)
    during[:] = [None] * 8
    with pytest.raises(Failure):
        next(run)
    assert switched(pipe) == before and len(during) == 9
    for use in (lambda: next(run), run.state_dict, run.result):
        with pytest.raises(RuntimeError, match="an error has ended the session within a step, .* build the session"):
            use()
    with pytest.raises(Failure), run:
        during[:] = [None] * 8
        assert not any(p.requires_grad for p in pipe.unet.parameters())
        run.load_state_dict(tiny_session(pipe, method, neighbours=neighbours).state_dict())
        next(run)
    assert switched(pipe) == before


def test_with_session_changes_no_number_and_may_be_entered_twice():
    pipe = tiny.make_pipeline()
    before, method = switched(pipe), fs.SyncVC(iterations=1)
    plain = finished(tiny_session(pipe, method))
    run = tiny_session(pipe, method)
    with run as entered:
        assert entered is run and not any(switched(pipe)[0])
        next(run)
        with run:
            next(run)
        assert not any(switched(pipe)[0])
        next(run)
        assert torch.equal(run.result().canvas, plain.canvas)
    assert switched(pipe) == before
    with pytest.raises(Failure), tiny_session(pipe, method):
        raise Failure
    assert switched(pipe) == before


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["stochsync", "syncdiffusion", "syncvc", "search"])
def test_the_callers_grad_mode_is_untouched(name, mode):
    def modes():
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    expected, saved = sample(METHODS[name]), None
    with mode():
        given = modes()
        run = session(METHODS[name])
        assert modes() == given
        for state in run:
            assert modes() == given
            views, x0 = state.views, state.x0
            assert not (views.requires_grad or x0.requires_grad)
            state.views = views.clone().requires_grad_(given == (True, False))
            if state.step == 1:
                saved = run.state_dict()
        assert modes() == given
        assert torch.equal(run.result().canvas, expected.canvas) and modes() == given
        again = session(METHODS[name])
        again.load_state_dict(saved)
        assert torch.equal(finished(again).canvas, expected.canvas)


def test_views_put_back_as_they_were_keep_the_solvers_history():
    """Callbacks in diffusers' manner often hand everything back."""
    plain, same, other = (session(METHODS["independent"], scheduler=dpm(), num_inference_steps=8) for _ in range(3))
    for state in same:
        state.views = state.views
    for state in other:
        views = state.views
        views[1] += 1e-9
        state.views = views
    assert torch.equal(finished(plain).views, same.result().views)
    errors = [relative(a, b) for a, b in zip(other.result().views, plain.result().views, strict=True)]
    assert errors[0] == errors[2] == 0 and errors[1] > 1e-4


# ---- corners ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["both", "cond"])
@pytest.mark.parametrize("interval", [(0.2, 0.7), (0.5, 1.0), (0.0, 0.1)])
def test_guidance_in_an_interval_does_not_depend_on_the_order(gradient, interval):
    """In the wavefront views of one batch are inside and outside of the interval."""
    method = fs.SyncVC(iterations=2, guidance_gradient=gradient)
    options = {"num_inference_steps": 6, "guidance_scale": fs.Guidance(3.0, interval=interval)}

    def shown(order):
        run = session(method, order=order, **options)
        return [torch.cat([state.views, state.x0]) for state in run], run.result()

    (waves, wave), (chains, chain) = shown("wavefront"), shown("sequential")
    assert all(relative(a, b) < 1e-11 for a, b in zip(waves, chains, strict=True))
    assert relative(wave.canvas, chain.canvas) < 1e-11
    guided = session(method, order="sequential", num_inference_steps=6, guidance_scale=3.0)
    assert relative(finished(guided).canvas, chain.canvas) > 1e-3
    # One by one, a step outside of the interval costs half.
    inside = int(interval[1] * 6) - int(interval[0] * 6)
    assert chain.stats.evaluations == (2 * inside + (6 - inside)) * 7
    assert wave.stats.evaluations >= chain.stats.evaluations


@pytest.mark.parametrize("name", METHODS)
def test_one_step_and_one_view(name):
    """Whatever the method, a lone view has nobody to agree with; one step is the whole run."""
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), SHAPE, dtype=torch.float64)
    method = fs.StochSync(steps=2) if name == "stochsync" else METHODS[name]
    x, given = randn(1, *SHAPE, seed=3), {"cond": arguments()["cond"][:1]}
    outs = []
    for steps in (1, 3):
        run = fs.Session(
            prior, fs.WideCanvas((4, 6), (4, 6), 4), method, **given, latents=x, num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        seen = [(state.views, state.x0) for state in run]
        outs.append(run.result())
        assert len(seen) == len(run) and torch.equal(seen[-1][0], outs[-1].views)
        assert torch.isfinite(seen[-1][1]).all() and torch.equal(outs[-1].canvas, outs[-1].views)
        again = session(method, num_inference_steps=steps, generator=torch.Generator().manual_seed(0))
        assert torch.isfinite(finished(again).canvas).all()
    if name not in ("stochsync", "search"):
        plain = sample(fs.Independent(), num_inference_steps=3, uncond=None, cond=arguments()["cond"][:1])
        assert plain.views.shape == (VIEWS, *SHAPE)
        lone = fs.sample(
            prior, fs.WideCanvas((4, 6), (4, 6), 4), fs.Independent(), **given, latents=x, num_inference_steps=3
        )
        assert relative(outs[1].views, lone.views) < 1e-12


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}


@pytest.mark.parametrize("make", [ddim, dpm], ids=["ddim", "2M"])
@pytest.mark.parametrize("name", METHODS)
def test_a_schedule_that_starts_without_signal(name, make):
    if name == "stochsync":
        method = fs.StochSync(steps=STEPS, start=1000)
    else:
        method = METHODS[name]
    results = []
    for order in method.orders:
        run = session(method, scheduler=make(**ZERO_SNR), order=order)
        assert float(run.run.times.table.a[0]) < 1e-3
        for state in run:
            assert torch.isfinite(state.views).all() and torch.isfinite(state.x0).all()
        results.append(run.result().canvas)
    assert all(relative(result, results[0]) < 1e-10 for result in results)


@pytest.mark.parametrize("name", METHODS)
def test_latents_in_half_precision_are_carried_in_single(name):
    views = randn(VIEWS, *SHAPE, seed=3, dtype=torch.float16)
    prior = fs.FunctionPrior(nonlinear, ddim(steps_offset=1), SHAPE)
    given = {key: value.float() if isinstance(value, torch.Tensor) else value for key, value in arguments().items()}
    half, single = (
        fs.Session(
            prior, CANVAS, METHODS[name], **given, latents=latents, num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(0),
        )
        for latents in (views, views.float())
    )  # fmt: skip
    for a, b in zip(half, single, strict=True):
        assert a.views.dtype == a.x0.dtype == torch.float32 and torch.equal(a.views, b.views)
        if a.step == 0:
            a.views, b.views = a.views.half(), b.views.half().float()
    assert torch.equal(half.result().canvas, single.result().canvas) and half.result().canvas.dtype == torch.float32


@pytest.mark.parametrize("name", METHODS)
def test_where_canvas_and_generator_live(name):
    """Here all is one device; the names must be taken all the same."""
    expected = finished(session(METHODS[name]))
    apart = session(METHODS[name], canvas_device="cpu", generator=torch.Generator("cpu").manual_seed(0))
    states = [state.views.device.type for state in apart]
    assert set(states) == {"cpu"} and torch.equal(apart.result().canvas, expected.canvas)
