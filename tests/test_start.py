"""Runs that begin from clean views, noised: `start=` of sample and Session."""

import io

import pytest
import torch
from exact_priors import Gaussian, ddim, flow, randn, relative, signal_noise
from scheduler_cases import euler

import fastsync as fs

SHAPE, CANVAS = (2, 4, 6), fs.WideCanvas((4, 14), (4, 6), 4)
VIEWS, STEPS = CANVAS.num_views, 4


def prior(scheduler):
    return fs.FunctionPrior(Gaussian(scheduler, SHAPE), scheduler, SHAPE, dtype=torch.float64)


def session(scheduler=None, method=None, **changes):
    settings = {
        "cond": randn(VIEWS, *SHAPE, seed=1), "num_inference_steps": STEPS, "latents": randn(1, 2, 4, 14, seed=2),
        "start": randn(VIEWS, *SHAPE, seed=3),
    }  # fmt: skip
    return fs.Session(prior(scheduler or ddim()), CANVAS, method or fs.Independent(), **{**settings, **changes})


def rest(run):
    for _ in run:
        pass
    return run.result()


@pytest.mark.parametrize("scheduler", [ddim(), ddim(timestep_spacing="trailing"), flow(shift=3.0)])
def test_it_is_the_clean_views_with_the_noise_of_the_first_time(scheduler):
    run = session(scheduler)
    a, b = signal_noise(scheduler, run.run.times.host_times[:1])
    noise = CANVAS.project(randn(1, 2, 4, 14, seed=2))
    expected = a * randn(VIEWS, *SHAPE, seed=3) + b * noise
    assert run.run.states.noisy.dtype == torch.float64
    assert relative(run.run.states.after(-1), expected) < 1e-6


def test_it_goes_on_as_the_schedulers_own_loop():
    scheduler = ddim()
    out = rest(session(scheduler))
    scheduler.set_timesteps(STEPS)
    network, cond = Gaussian(scheduler, SHAPE), randn(VIEWS, *SHAPE, seed=1)
    noise = CANVAS.project(randn(1, 2, 4, 14, seed=2))
    x = scheduler.add_noise(randn(VIEWS, *SHAPE, seed=3), noise, scheduler.timesteps[:1])
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(VIEWS), cond), t, x).prev_sample
    assert relative(out.views, x) < 1e-6


def test_in_the_units_of_a_scheduler_of_sigmas():
    """Euler's states are x / sqrt(1 + sigma^2) here, and so are those that a run begins from."""
    scheduler = euler()
    run = fs.Session(
        fs.FunctionPrior(lambda x, t, c: 0 * x, scheduler, SHAPE, dtype=torch.float64), CANVAS, fs.Independent(),
        num_inference_steps=STEPS, latents=randn(VIEWS, *SHAPE, seed=2), start=randn(VIEWS, *SHAPE, seed=3),
    )  # fmt: skip
    scheduler.set_timesteps(STEPS)
    sigma = scheduler.sigmas[0].double()
    expected = (randn(VIEWS, *SHAPE, seed=3) + sigma * randn(VIEWS, *SHAPE, seed=2)) / (1 + sigma**2).sqrt()
    assert relative(run.run.states.after(-1), expected) < 1e-6


@pytest.mark.parametrize("method", [fs.MultiDiffusion(), fs.SyncTweedies(), fs.SyncSDE(), fs.SyncVC(iterations=1)])
def test_every_method_takes_it_and_drawn_noise_repeats(method):
    one, other = (
        rest(session(method=method, latents=None, generator=torch.Generator().manual_seed(5))) for _ in range(2)
    )
    plain = rest(session(method=method, latents=None, start=None, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(one.canvas, other.canvas) and relative(one.canvas, plain.canvas) > 1e-3


def test_sample_passes_it_on():
    expected = rest(session(order="batched"))
    out = fs.sample(
        prior(ddim()), CANVAS, fs.Independent(), cond=randn(VIEWS, *SHAPE, seed=1), num_inference_steps=STEPS,
        latents=randn(1, 2, 4, 14, seed=2), start=randn(VIEWS, *SHAPE, seed=3),
    )  # fmt: skip
    assert torch.equal(out.views, expected.views)


def test_a_stopped_run_goes_on_and_one_from_noise_is_another():
    unbroken = session(eta=0.5, generator=torch.Generator().manual_seed(0))
    next(unbroken)
    file = io.BytesIO()
    torch.save(unbroken.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    expected = rest(unbroken)
    resumed = session(eta=0.5, generator=torch.Generator().manual_seed(1))
    resumed.load_state_dict(state)
    assert torch.equal(rest(resumed).views, expected.views)
    other = session(eta=0.5, start=None, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="there what it begins from is 'noised views', and here 'noise'"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"start": randn(1, *SHAPE)}, r"start must be clean views \[3, 2, 4, 6\], got \[1, 2, 4, 6\]"),
        ({"start": randn(VIEWS, 2, 4, 5)}, r"start must be clean views"),
        ({"start": torch.full((VIEWS, *SHAPE), float("nan"))}, "start has 144 values that are NaN"),
        ({"start": [1]}, "start must be a torch.Tensor, got list"),
        ({"start": torch.zeros(VIEWS, *SHAPE, dtype=torch.int64)}, "start must be a floating-point tensor"),
        ({"method": fs.StochSync(steps=4)}, "start was given to StochSync"),
    ],
)
def test_what_is_no_start_is_one_sentence(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        session(**changes)


def test_double_precision_of_the_start_is_kept():
    single = fs.FunctionPrior(lambda x, t, c: 0 * x, ddim(), SHAPE)
    out = fs.sample(single, CANVAS, fs.Independent(), start=randn(VIEWS, *SHAPE), num_inference_steps=2)
    assert out.views.dtype == torch.float64
