"""DDIM and flow Euler against diffusers' own steps in double precision, and other schedulers run by them."""

import copy

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
)
from exact_priors import ddim, flow, randn, relative

from fastsync import ops
from fastsync.diffusion import NoiseSchedule, is_vanishing


def our_step(schedule, table, k, raw, x, noise=None):
    t = table.timesteps[k : k + 1].expand(len(x))
    a, b = schedule.coefficients(t)
    x0, eps = ops.cfg_tweedie(raw, None, x, a, b, 1.0, schedule.prediction_type)
    a_next, direction, sigma = (c[k].expand(len(x)) for c in (table.a_next, table.direction, table.sigma))
    return ops.ddim_step(schedule.clip(x0), eps, a_next, direction, sigma, noise)


CONFIGS = [
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "leading", "steps_offset": 0, "set_alpha_to_one": False},
    {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False, "beta_schedule": "linear"},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "trailing", "set_alpha_to_one": False, "beta_schedule": "squaredcos_cap_v2"},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "linspace", "set_alpha_to_one": False},
    {"timestep_spacing": "leading", "clip_sample": True},
    {"timestep_spacing": "leading", "clip_sample": True, "clip_sample_range": 0.3},
    {"timestep_spacing": "trailing", "thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
    {"timestep_spacing": "leading", "thresholding": True, "clip_sample": True},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: ",".join(str(v) for v in c.values()))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 50])
def test_step_is_that_of_ddim(config, prediction, eta, steps):
    scheduler = ddim(prediction_type=prediction, **config)
    schedule = NoiseSchedule(scheduler)
    table = schedule.steps(steps, eta)
    scheduler.set_timesteps(steps)
    assert torch.equal(table.timesteps, scheduler.timesteps) and table.timesteps.dtype == torch.int64
    exact = copy.deepcopy(scheduler)  # diffusers' own step, with its coefficients in double precision
    exact.alphas_cumprod = exact.alphas_cumprod.double()
    exact.final_alpha_cumprod = exact.final_alpha_cumprod.double()
    for k, t in enumerate(scheduler.timesteps):
        x, raw, noise = randn(3, 2, 3, 4, 5, seed=k) * torch.tensor([1.0, 1.3, 0.8]).reshape(3, 1, 1, 1, 1)
        expected = scheduler.step(raw, t, x, eta=eta, variance_noise=noise if eta else None).prev_sample
        in_double = exact.step(raw, t, x, eta=eta, variance_noise=noise if eta else None).prev_sample
        got = our_step(schedule, table, k, raw, x, noise if eta else None)
        assert got.dtype == torch.float64
        assert relative(got, in_double) < 1e-12, f"step {k}"
        if "beta_schedule" not in config:  # elsewhere diffusers' float32 coefficients themselves are off by up to 5e-5
            assert relative(got, expected) < 1e-5, f"step {k}"


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("steps", [10, 50])
def test_step_is_that_of_flow_matching(shift, stochastic, steps):
    scheduler = flow(shift=shift, stochastic_sampling=stochastic)
    schedule = NoiseSchedule(scheduler)
    table = schedule.steps(steps)
    scheduler.set_timesteps(steps)
    assert torch.equal(table.timesteps, scheduler.timesteps)
    for k, t in enumerate(scheduler.timesteps):
        x, raw = randn(2, 2, 3, 4, 5, seed=k, dtype=torch.float32)
        generator = torch.Generator().manual_seed(k)
        expected = scheduler.step(raw, t, x, generator=generator).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k)) if stochastic else None
        got = our_step(schedule, table, k, raw, x, noise)
        assert relative(got, expected) < 1e-5, f"step {k}"


def test_flow_starts_without_signal_and_eta_is_real():
    table = NoiseSchedule(flow(shift=3.0)).steps(10, eta=1.0)
    assert float(table.a[0]) == 0 and float(table.b[0]) == 1 and is_vanishing(table.a)
    assert float(table.a_next[-1]) == 1 and float(table.b_next[-1]) == 0
    assert torch.isfinite(table.sigma).all() and (table.sigma >= 0).all() and (table.sigma <= table.b_next).all()
    assert table.stochastic and not NoiseSchedule(flow()).steps(10).stochastic
    assert torch.allclose(table.a + table.b, torch.ones(10, dtype=torch.float64))
    # sigma = eta (b_s/b_t) sqrt(b_t^2 - (a_t/a_s)^2 b_s^2)
    a, b, s = table.a[3], table.b[3], table.sigma[3]
    a_s, b_s = table.a[4], table.b[4]
    assert float(s) == pytest.approx(float(b_s / b * (b**2 - (a / a_s) ** 2 * b_s**2).sqrt()), rel=1e-6)


SOURCES = [
    PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
    EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    PNDMScheduler(),
    EulerDiscreteScheduler(),
    DPMSolverMultistepScheduler(),
    HeunDiscreteScheduler(),
    KDPM2DiscreteScheduler(),
    DDPMScheduler(),
    EulerAncestralDiscreteScheduler(),
    LCMScheduler(),
    TCDScheduler(),
]


@pytest.mark.parametrize("scheduler", SOURCES, ids=lambda s: type(s).__name__)
def test_other_schedulers_run_by_ddim_keep_their_coefficients(scheduler):
    schedule = NoiseSchedule(scheduler, solver="ddim")
    assert schedule.solver == "ddim" and schedule.scheduler_name == type(scheduler).__name__
    t = torch.arange(1000)
    a, b = schedule.coefficients(t)
    assert torch.allclose(a, scheduler.alphas_cumprod.double().sqrt(), rtol=1e-7)
    assert torch.allclose(a**2 + b**2, torch.ones(1000, dtype=torch.float64))
    last = schedule.steps(10).a_next[-1]
    expected = scheduler.alphas_cumprod[0].sqrt() if scheduler.config.get("set_alpha_to_one") is False else 1.0
    assert float(last) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("scheduler", SOURCES, ids=lambda s: type(s).__name__)
def test_other_schedulers_clip_only_if_told(scheduler):
    x0 = 5 * randn(2, 3, 4, 4)
    clipped = NoiseSchedule(scheduler, solver="ddim").clip(x0)
    if scheduler.config.get("clip_sample"):
        assert torch.equal(clipped, x0.clamp(-1, 1))
    else:
        assert torch.equal(clipped, x0)


def test_thresholding_keeps_float64():
    scheduler = ddim(thresholding=True, sample_max_value=3.0, dynamic_thresholding_ratio=0.8)
    x0 = 2 * randn(2, 3, 4, 4)
    got, expected = NoiseSchedule(scheduler).clip(x0), scheduler._threshold_sample(x0)
    assert relative(got, expected) < 1e-14
    assert float(expected.abs().max()) < float(x0.abs().max())


def test_a_flow_prediction_of_a_discrete_scheduler():
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    schedule = NoiseSchedule(scheduler, solver="ddim")
    assert schedule.kind == "flow" and schedule.prediction_type == "flow" and schedule.solver == "flow-euler"
    expected = FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected.set_timesteps(10)
    assert torch.allclose(schedule.steps(10).timesteps, expected.timesteps)
