"""What is not of the one form, or no run at all: one sentence that says why, and what to use instead."""

import copy

import diffusers
import numpy as np
import pytest
import torch
from exact_priors import ddim
from scheduler_cases import (
    FLOW,
    SD,
    ancestral,
    ddpm,
    dpm,
    euler,
    flow,
    flow_lcm,
    lcm,
    singlestep,
    unipc,
)

from fastsync.diffusion import NoiseSchedule
from fastsync.diffusion.families import FAMILIES, OTHERS
from fastsync.diffusion.families.by_ddim import RUN_BY_DDIM

pytestmark = pytest.mark.filterwarnings("ignore")

WITH_BETAS = sorted(set(OTHERS) & set(RUN_BY_DDIM) - {"FlowMatchHeunDiscreteScheduler"})


def sentence(make):
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 300
    return text


@pytest.mark.parametrize("name", WITH_BETAS)
def test_schedulers_of_another_form_are_refused_and_the_mends_work(name):
    scheduler = getattr(diffusers, name)(**SD)
    text = sentence(lambda: NoiseSchedule(scheduler))
    assert f"scheduler {name} is not supported, because {OTHERS[name][0]}" in text
    assert "use DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)" in text and "solver='ddim'" in text
    mended = NoiseSchedule(diffusers.DPMSolverMultistepScheduler.from_config(scheduler.config))
    assert mended.solver == "dpmsolver++(2M)" and mended.scheduler_name == "DPMSolverMultistepScheduler"
    by_ddim = NoiseSchedule(scheduler, solver="ddim")
    assert by_ddim.solver == "ddim" and by_ddim.scheduler_name == name
    for schedule in (mended, by_ddim):
        a, _ = schedule.coefficients(torch.arange(1000))
        assert torch.equal(a, scheduler.alphas_cumprod.double().sqrt())
        assert len(schedule.steps(8)) == 8


@pytest.mark.parametrize("name", sorted(set(OTHERS) - set(WITH_BETAS)))
def test_schedulers_without_betas_are_refused(name):
    # Some need an optional package, or refuse to be built without arguments: the name is what is looked at.
    scheduler = type(name, (), {"config": {}})()
    text = sentence(lambda: NoiseSchedule(scheduler))
    assert f"scheduler {name} is not supported, because {OTHERS[name][0]}" in text
    if name not in RUN_BY_DDIM:
        assert "solver=" not in text
        assert sentence(lambda: NoiseSchedule(scheduler, solver="ddim")) == text


def test_every_class_of_scheduler_is_known_or_refused():
    for name in dir(diffusers):
        if name.endswith("Scheduler") and name not in FAMILIES:
            assert f"scheduler {name} is not supported, because" in sentence(
                lambda name=name: NoiseSchedule(type(name, (), {"config": {}})())
            )


def test_a_flow_scheduler_of_another_form_runs_by_euler():
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    text = sentence(lambda: NoiseSchedule(scheduler))
    assert "twice a step" in text and "FlowMatchEulerDiscreteScheduler.from_config" in text
    schedule = NoiseSchedule(scheduler, solver="ddim")
    assert schedule.solver == "flow-euler"
    assert torch.equal(schedule.steps(8).b, NoiseSchedule(flow(shift=3.0)).steps(8).b)
    assert NoiseSchedule(flow_lcm(), solver="ddim").solver == "flow-euler"
    assert NoiseSchedule(flow(stochastic_sampling=True), solver="ddim").solver == "flow-euler-stochastic"


def uncorrected(count):
    return unipc(disable_corrector=list(range(count)))


SETTINGS = {
    "learned variance": (ddpm(variance_type="learned_range"), ["variance_type='learned_range'", "fixed_small"]),
    "log of a large variance": (ddpm(variance_type="fixed_large_log"), ["fixed_large_log", "negative"]),
    "order 3": (dpm(solver_order=3), ["solver_order=3", "solver_order=2"]),
    "heun": (dpm(solver_type="heun"), ["solver_type='heun'", "midpoint"]),
    "noise prediction": (
        dpm(algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),
        ["algorithm_type='dpmsolver'", "dpmsolver++"],
    ),
    "its SDE": (
        dpm(algorithm_type="sde-dpmsolver", solver_order=1, final_sigmas_type="sigma_min"),
        ["algorithm_type='sde-dpmsolver'", "sde-dpmsolver++"],
    ),
    "flow without its sigmas": (dpm(prediction_type="flow_prediction"), ["flow_prediction", "use_flow_sigmas=True"]),
    "v in a flow": (dpm(prediction_type="v_prediction", use_flow_sigmas=True), ["v_prediction", "use_flow_sigmas"]),
    "Karras in a flow": (dpm(**FLOW, use_karras_sigmas=True), ["use_karras_sigmas=True", "above 1"]),
    "singlestep": (singlestep(solver_order=2), ["order 2", "DPMSolverMultistepScheduler"]),
    "corrector": (unipc(disable_corrector=[]), ["corrector", "disable_corrector=list(range(1000))"]),
    "predictor of UniPC": (unipc(solver_p=ddim()), ["solver_p"]),
    "UniPC of noise": (unipc(predict_x0=False), ["predict_x0"]),
    "UniPC of order 3": (unipc(solver_order=3), ["solver_order=3"]),
    "UniPC without an end": (unipc(lower_order_final=False), ["lower_order_final=True", "diverges"]),
    "inverted flow": (flow(invert_sigmas=True), ["invert_sigmas=True", "invert_sigmas=False"]),
    "growing pictures": (flow_lcm(scale_factors=[0.5]), ["scale_factors"]),
}


@pytest.mark.parametrize(("scheduler", "words"), SETTINGS.values(), ids=SETTINGS)
def test_settings_of_another_form_are_refused_at_construction(scheduler, words):
    text = sentence(lambda: NoiseSchedule(scheduler))
    assert f"scheduler {type(scheduler).__name__} is not supported, because" in text and "solver='ddim'" in text
    assert all(word in text for word in words)
    if "inverted" not in str(words) and not scheduler.config.get("invert_sigmas"):
        assert NoiseSchedule(scheduler, solver="ddim").solver in ("ddim", "flow-euler")


class Unknown:
    config = {}


VALUES = {
    "unknown class": (
        lambda: NoiseSchedule(Unknown()),
        "scheduler Unknown is not supported.*not known here.*DDIM, DDPM",
    ),
    "no scheduler": (lambda: NoiseSchedule(None), "scheduler NoneType is not supported: pass one of diffusers'"),
    "a name": (lambda: NoiseSchedule("ddim"), "scheduler str is not supported"),
    "prediction type": (
        lambda: NoiseSchedule(ddim(prediction_type="score")),
        "prediction_type must be one of .* got 'score'",
    ),
    "prediction type by ddim": (lambda: NoiseSchedule(dpm(prediction_type="?"), "ddim"), "prediction_type must be"),
    "solver": (lambda: NoiseSchedule(ddim(), solver="euler"), "solver must be one of 'auto', 'ddim', got 'euler'"),
    "too many steps": (lambda: NoiseSchedule(ddim()).steps(1001), "at most 1000"),
    "no steps": (lambda: NoiseSchedule(ddim()).steps(0), "at least 1"),
    "large eta": (lambda: NoiseSchedule(ddim()).steps(10, eta=1.5), "eta must be"),
    "negative eta": (lambda: NoiseSchedule(ddim()).steps(10, eta=-0.1), "eta must be"),
    "offset": (
        lambda: NoiseSchedule(ddim(steps_offset=1)).steps(1000),
        "steps_offset=1 start at time 1000, but the last is 999",
    ),
    "offset of Euler": (
        lambda: NoiseSchedule(euler(timestep_spacing="leading", steps_offset=1)).steps(1000),
        "start at time 1000",
    ),
    "LCM's own steps": (lambda: NoiseSchedule(lcm()).steps(51), "LCMScheduler cannot set the times.*original_steps"),
    "no mu": (lambda: NoiseSchedule(flow(use_dynamic_shifting=True)).steps(8), "needs mu: pass mu as the pipeline"),
    "no mu for DPM": (lambda: NoiseSchedule(dpm(**FLOW, use_dynamic_shifting=True)).steps(8), "needs mu"),
    "mu for DDIM": (lambda: NoiseSchedule(ddim()).steps(8, mu=1.0), "mu was given, but the times of DDIMScheduler"),
    "mu not a number": (lambda: NoiseSchedule(flow(use_dynamic_shifting=True)).steps(8, mu="x"), "mu must be a number"),
    "timesteps for DDIM": (lambda: NoiseSchedule(ddim()).steps(2, timesteps=[9, 1]), "timesteps was given, but"),
    "sigmas for DPM": (lambda: NoiseSchedule(dpm()).steps(2, sigmas=[9, 1]), "sigmas was given, but"),
    "timesteps with Karras": (
        lambda: NoiseSchedule(euler(use_karras_sigmas=True)).steps(2, timesteps=[9, 1]),
        "EulerDiscreteScheduler cannot set the times of this run",
    ),
    "another number": (
        lambda: NoiseSchedule(flow()).steps(50, sigmas=[1.0, 0.5]),
        "num_inference_steps is 50, but the sigmas or timesteps .* make 2 steps: pass num_inference_steps=2",
    ),
    "rising": (lambda: NoiseSchedule(flow()).steps(2, sigmas=[0.5, 1.0]), "sigmas must be at least 0 and fall"),
    "not finite": (lambda: NoiseSchedule(flow()).steps(2, sigmas=[np.inf, 1.0]), "sigmas must be at least 0 and fall"),
    "no list": (lambda: NoiseSchedule(flow()).steps(2, sigmas=3.0), "sigmas must be a list of numbers, got 3.0"),
    "words": (lambda: NoiseSchedule(ddpm()).steps(2, timesteps=["a", "b"]), "timesteps must be a list of numbers"),
    "empty": (lambda: NoiseSchedule(flow()).steps(1, sigmas=[]), "sigmas must be a list of numbers"),
    "a final 0": (lambda: NoiseSchedule(flow()).steps(2, sigmas=[1.0, 0.0]), "noise above 0 .* b from 1 to 0"),
    "a flow above 1": (lambda: NoiseSchedule(flow()).steps(2, sigmas=[7.0, 1.0]), "of at most 1, got b from 7"),
    "late timesteps": (lambda: NoiseSchedule(euler()).steps(2, timesteps=[1200, 3]), "start at time 1200"),
    "corrector on later": (lambda: NoiseSchedule(uncorrected(5)).steps(8), "state after step 5, .*list\\(range\\(8\\)"),
}


@pytest.mark.parametrize(("make", "words"), VALUES.values(), ids=VALUES)
def test_values_out_of_range(make, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        make()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400  # diffusers' words may follow


def test_a_corrector_that_is_off_long_enough():
    assert len(NoiseSchedule(uncorrected(5)).steps(6)) == 6


@pytest.mark.parametrize(
    "scheduler",
    [ddpm(), lcm(), ancestral(), flow(stochastic_sampling=True), flow_lcm(), dpm(algorithm_type="sde-dpmsolver++")],
    ids=lambda s: type(s).__name__,
)
def test_eta_where_the_scheduler_has_its_own_noise(scheduler):
    text = sentence(lambda: NoiseSchedule(scheduler).steps(8, eta=0.5))
    assert "eta must be 0 with" in text and "noise of their own" in text and "got 0.5" in text


@pytest.mark.parametrize("scheduler", [dpm(), unipc(), dpm(**FLOW)], ids=lambda s: type(s).__name__)
def test_eta_with_steps_of_second_order(scheduler):
    text = sentence(lambda: NoiseSchedule(scheduler).steps(8, eta=0.5))
    assert "second order" in text and "got 0.5" in text


# ---- the given scheduler ----------------------------------------------------------------------------------------


UNCHANGED = [
    (ddim(), {}),
    (ddpm(), {}),
    (lcm(), {}),
    (euler(use_karras_sigmas=True), {}),
    (dpm(**FLOW, use_dynamic_shifting=True), {"mu": 1.0}),
    (singlestep(lower_order_final=False), {}),
    (unipc(), {}),
    (flow(use_dynamic_shifting=True), {"mu": 0.7, "sigmas": np.linspace(1, 1 / 7, 7)}),
    (flow_lcm(shift=3.0), {}),
]


@pytest.mark.parametrize(("scheduler", "times"), UNCHANGED, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("solver", ["auto", "ddim"])
def test_the_users_scheduler_is_not_changed(scheduler, times, solver):
    scheduler.set_timesteps(**{"num_inference_steps": 5, **({"mu": 1.0} if times else {})})
    before, config, given = copy.deepcopy(scheduler.__dict__), dict(scheduler.config), copy.deepcopy(times)
    shift = getattr(scheduler.config, "flow_shift", None)  # which set_timesteps changes beside the config's own entry
    schedule = NoiseSchedule(scheduler, solver)
    takes = times if solver == "auto" or schedule.scheduler_name.startswith("Flow") else {}
    if schedule.scheduler_name == "FlowMatchLCMScheduler":
        takes = {}
    table = schedule.steps(7, **takes)
    schedule.coefficients(table.timesteps)
    schedule.table_at(table.timesteps, multistep=True)
    assert scheduler.__dict__.keys() == before.keys() and dict(scheduler.config) == config
    assert getattr(scheduler.config, "flow_shift", None) == shift
    for name, value in before.items():
        now = scheduler.__dict__[name]
        if isinstance(value, (torch.Tensor, np.ndarray)):
            assert (now == value).all(), name
        elif name != "_internal_dict":
            assert now == value, name
    for name, value in given.items():
        assert np.array_equal(value, times[name])
