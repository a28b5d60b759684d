"""Every supported scheduler with its options, and our steps beside those of diffusers."""

import copy
import inspect

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from exact_priors import randn, relative

from fastsync import ops
from fastsync.diffusion import NoiseSchedule, solver_estimate

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EULERS = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler)  # their states are x / a


def ddim(**config):
    return DDIMScheduler(**{**SD, "clip_sample": False, **config})


def ddpm(**config):
    return DDPMScheduler(**{**SD, "clip_sample": False, **config})


def lcm(**config):
    return LCMScheduler(**config)


def euler(**config):
    return EulerDiscreteScheduler(**{**SD, **config})


def ancestral(**config):
    return EulerAncestralDiscreteScheduler(**{**SD, **config})


def dpm(**config):
    return DPMSolverMultistepScheduler(**{**SD, **config})


def singlestep(**config):
    return DPMSolverSinglestepScheduler(**{**SD, "solver_order": 1, **config})


def unipc(**config):
    return UniPCMultistepScheduler(**{**SD, "disable_corrector": list(range(1000)), **config})


def flow(**config):
    return FlowMatchEulerDiscreteScheduler(**config)


def flow_lcm(**config):
    return FlowMatchLCMScheduler(**config)


SPACINGS = [{"timestep_spacing": s} for s in ("leading", "trailing", "linspace")]
SHAPES = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
PREDICTIONS = [{"prediction_type": p} for p in ("v_prediction", "sample")]
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
BH1 = {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}
THRESHOLD = {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9}

# maker, options, what runs
CASES = [
    *((ddim, c, "ddim") for c in [*SPACINGS, *PREDICTIONS, ZERO_SNR, {"clip_sample": True}, THRESHOLD]),
    (ddim, {"set_alpha_to_one": False, "steps_offset": 1}, "ddim"),
    *((ddpm, c, "ddpm") for c in [*SPACINGS, *PREDICTIONS, ZERO_SNR, {"clip_sample": True}, THRESHOLD]),
    (ddpm, {"steps_offset": 1}, "ddpm"),
    (ddpm, {"variance_type": "fixed_small_log", "timestep_spacing": "trailing"}, "ddpm"),
    (ddpm, {"variance_type": "fixed_large"}, "ddpm"),
    (ddpm, {"variance_type": "fixed_large", "timestep_spacing": "trailing"}, "ddpm"),
    *((lcm, c, "lcm") for c in [{}, *PREDICTIONS, ZERO_SNR, {"clip_sample": True}, THRESHOLD]),
    (lcm, {"original_inference_steps": 100, "timestep_scaling": 0.01, "set_alpha_to_one": False}, "lcm"),
    *((euler, c, "euler") for c in [*SPACINGS, *SHAPES, *PREDICTIONS, ZERO_SNR]),
    (euler, {"timestep_spacing": "leading", "steps_offset": 1}, "euler"),
    (euler, {"interpolation_type": "log_linear"}, "euler"),
    (euler, {"interpolation_type": "log_linear", "timestep_spacing": "trailing"}, "euler"),
    (euler, {"final_sigmas_type": "sigma_min"}, "euler"),
    (euler, {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}, "euler"),
    (euler, {"timestep_type": "continuous", "prediction_type": "v_prediction"}, "euler"),
    (
        euler,
        {
            "timestep_type": "continuous",
            "prediction_type": "v_prediction",
            "use_karras_sigmas": True,
            "sigma_min": 0.002,
            "sigma_max": 700.0,
        },
        "euler",
    ),
    *((ancestral, c, "euler-ancestral") for c in [*SPACINGS, PREDICTIONS[0], ZERO_SNR]),
    *((dpm, c, "dpmsolver++(2M)") for c in [*SPACINGS, *SHAPES, *PREDICTIONS, ZERO_SNR, THRESHOLD]),
    (dpm, {"use_lu_lambdas": True}, "dpmsolver++(2M)"),
    (dpm, {"timestep_spacing": "leading", "steps_offset": 1}, "dpmsolver++(2M)"),
    (dpm, {"final_sigmas_type": "sigma_min"}, "dpmsolver++(2M)"),
    (dpm, {"final_sigmas_type": "sigma_min", "lower_order_final": False}, "dpmsolver++(2M)"),
    (dpm, {"final_sigmas_type": "sigma_min", "euler_at_final": True}, "dpmsolver++(2M)"),
    (dpm, {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}, "dpmsolver++(2M)"),
    (dpm, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}, "dpmsolver++(2M)"),
    (dpm, FLOW, "dpmsolver++(2M)"),
    (dpm, {**FLOW, "prediction_type": "epsilon"}, "dpmsolver++(2M)"),
    (dpm, {**FLOW, "prediction_type": "sample"}, "dpmsolver++(2M)"),
    (dpm, {"solver_order": 1}, "dpmsolver++(1)"),
    (dpm, {"solver_order": 1, **FLOW}, "dpmsolver++(1)"),
    (dpm, {"solver_order": 1, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, "dpmsolver(1)"),
    *(
        (dpm, {**c, "algorithm_type": "sde-dpmsolver++"}, "sde-dpmsolver++(2M)")
        for c in [{}, {"use_karras_sigmas": True}, {"euler_at_final": True}, PREDICTIONS[0], ZERO_SNR, FLOW]
    ),
    (dpm, {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"}, "sde-dpmsolver++(1)"),
    *((singlestep, c, "dpmsolver++(1)") for c in [*SHAPES, PREDICTIONS[0], FLOW, THRESHOLD]),
    (singlestep, {"algorithm_type": "sde-dpmsolver++"}, "sde-dpmsolver++(1)"),
    *((unipc, c, "unipc(bh2, order 2, predictor)") for c in [*SPACINGS, *SHAPES, *PREDICTIONS, ZERO_SNR, THRESHOLD]),
    (unipc, {"solver_order": 1}, "unipc(bh2, order 1, predictor)"),
    # Towards sigma = 0 diffusers' own last step of bh1 is NaN.
    (unipc, BH1, "unipc(bh1, order 2, predictor)"),
    (unipc, {**BH1, "solver_order": 1}, "unipc(bh1, order 1, predictor)"),
    (unipc, {**BH1, "lower_order_final": False}, "unipc(bh1, order 2, predictor)"),
    (unipc, FLOW, "unipc(bh2, order 2, predictor)"),
    (unipc, {**FLOW, "use_karras_sigmas": True}, "unipc(bh2, order 2, predictor)"),
    (unipc, {**FLOW, "shift_terminal": 0.1}, "unipc(bh2, order 2, predictor)"),
    *((flow, c, "flow-euler") for c in [*SHAPES, {"shift": 3.0}, {"shift": 3.0, "shift_terminal": 0.1}]),
    (flow, {"stochastic_sampling": True, "shift": 3.0}, "flow-euler-stochastic"),
    *((flow_lcm, c, "flow-lcm") for c in [{}, {"shift": 3.0}, {"use_beta_sigmas": True}]),
]


def name_of(case):
    maker, options, _ = case
    return f"{maker.__name__}-{','.join(f'{k}={v}' for k, v in options.items())}"


def network(x, t):
    """A made-up smooth network."""
    phase = torch.as_tensor(t, dtype=x.dtype) / 1000
    return 0.6 * torch.tanh(x + 0.3 * x.roll(1, -1) - 0.2 * x.roll(1, 1)) + 0.2 * torch.sin(3 * phase + x)


class Ours:
    """Steps by the table, in float64, with a history of their own."""

    def __init__(self, schedule, table):
        self.schedule, self.table, self.last = schedule, table, None

    def step(self, k, raw, x, noise):
        at = {name: getattr(self.table, name) for name in COLUMNS}
        at = {name: None if column is None else column[k].expand(len(x)) for name, column in at.items()}
        x0, eps = ops.cfg_tweedie(raw.double(), None, x, at["a"], at["b"], 1.0, self.schedule.prediction_type)
        x0, eps = self.schedule.clip_prediction(x0, eps, x, at["a"], at["b"])
        last, self.last = self.last, x0
        clean, eps = solver_estimate(
            x0, eps, x, last, at["a"], at["b"], at["extrapolation"], at["boundary_x0"], at["boundary_x"]
        )
        return ops.ddim_step(clean, eps, at["a_next"], at["direction"], at["sigma"], noise)


COLUMNS = ("a", "b", "a_next", "sigma", "direction", "extrapolation", "boundary_x0", "boundary_x")


def compare(scheduler, steps, *, eta=0.0, tolerance=1e-5, **times):
    """Our steps beside diffusers': each one from the state that it has itself, and all of them in a run of our own."""
    schedule = NoiseSchedule(scheduler)
    table = schedule.steps(steps, eta, **times)
    theirs = copy.deepcopy(scheduler)
    theirs.set_timesteps(**times, **({} if {"sigmas", "timesteps"} & set(times) else {"num_inference_steps": steps}))
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(0)  # rounded times may come twice, and it would take the first for the second
    assert torch.equal(table.timesteps, theirs.timesteps) and table.timesteps.dtype == theirs.timesteps.dtype
    scaled = isinstance(scheduler, EULERS)
    takes = inspect.signature(theirs.step).parameters
    start = randn(2, 3, 4, 4, dtype=torch.float32)
    x = float(getattr(theirs, "init_noise_sigma", 1.0)) * start
    ours, alone, y = Ours(schedule, table), Ours(schedule, table), table.start * start.double()
    assert relative(x.double() * (table.a[0] if scaled else 1.0), y) < 1e-6
    errors = []
    for k, t in enumerate(theirs.timesteps):
        raw = network(theirs.scale_model_input(x, t) if scaled else x, t)
        options = {"generator": torch.Generator().manual_seed(k)} if "generator" in takes else {}
        x_next = theirs.step(raw, t, x, return_dict=False, **options, **({"eta": eta} if "eta" in takes else {}))[0]
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k)).double()
        got = ours.step(k, raw, x.double() * (table.a[k] if scaled else 1.0), noise)
        errors.append(relative(got, x_next.double() * (table.a_next[k] if scaled else 1.0)))
        y = alone.step(k, network(y, t), y, noise)
        x = x_next
    assert len(errors) == len(table)
    assert errors[0] < tolerance, "first"
    assert errors[-1] < 1e-5, "last"
    assert max(errors[1:], default=0.0) < 1e-5, f"step {int(np.argmax(errors))}"
    assert relative(y, x.double() * (table.a_next[-1] if scaled else 1.0)) < 2 * tolerance, "the whole run"
    return schedule, table
