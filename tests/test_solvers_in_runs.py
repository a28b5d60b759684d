"""The solver seam in whole runs: one view is the scheduler's own loop, several are its steps with the method between."""

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
