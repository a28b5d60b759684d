"""Every supported scheduler against diffusers' own ``step``, one step after the other, with the same noise."""

import numpy as np
import pytest
import torch
from exact_priors import relative
from scheduler_cases import (
    BH1,
    CASES,
    FLOW,
    ZERO_SNR,
    ancestral,
    compare,
    ddim,
    ddpm,
    dpm,
    euler,
    flow,
    flow_lcm,
    lcm,
    name_of,
    singlestep,
    unipc,
)

from fastsync.diffusion import NoiseSchedule

# diffusers' own, about numpy and deprecated settings
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("steps", [8, 20, 50])
def test_each_step_is_that_of_diffusers(case, steps):
    maker, options, solver = case
    # From sigma = 4096 Euler's float32 states lose digits: x + (x - x0) / sigma (sigma_next - sigma) cancels.
    tolerance = 3e-5 if maker in (euler, ancestral) and options == ZERO_SNR else 1e-5
    schedule, table = compare(maker(**options), steps, tolerance=tolerance)
    assert schedule.solver == solver
    assert table.multistep == ("2M" in solver or "order 2" in solver)
    assert table.stochastic == (maker in (ddpm, lcm, ancestral, flow_lcm) or "sde" in solver or "stochastic" in solver)


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize("eta", [0.4, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_eta_is_that_of_ddim(spacing, eta, steps):
    compare(ddim(timestep_spacing=spacing), steps, eta=eta)


@pytest.mark.parametrize(
    "scheduler", [euler(use_karras_sigmas=True), dpm(solver_order=1), dpm(solver_order=1, **FLOW), flow(shift=3.0)]
)
def test_eta_on_deterministic_steps_of_first_order(scheduler):
    still, table = (NoiseSchedule(scheduler).steps(12, eta) for eta in (0.0, 0.6))
    assert not still.stochastic and torch.equal(still.a, table.a) and torch.equal(still.b_next, table.b_next)
    # What is taken of the marginal's noise is given back, so that every time keeps its variance.
    torch.testing.assert_close(table.direction**2 + table.sigma**2, table.b_next**2)
    a, b, a_next, b_next = table.a, table.b, table.a_next, table.b_next
    torch.testing.assert_close(table.sigma, 0.6 * b_next / b * (b**2 - (a / a_next) ** 2 * b_next**2).sqrt())
    assert float(table.sigma[-1]) == 0 and (table.sigma[1:-1] > 0).all()


def test_eta_1_is_the_ancestral_step():
    of_euler = NoiseSchedule(euler()).steps(20, eta=1.0)
    for name in ("timesteps", "a", "a_next", "sigma", "direction", "pull"):
        assert torch.equal(getattr(of_euler, name), getattr(NoiseSchedule(ancestral()).steps(20), name))


# ---- times of one's own -----------------------------------------------------------------------------------------


TIMES = [999, 870, 700, 412, 133, 20]
SIGMAS = [0.97, 0.8, 0.55, 0.3, 0.12]
NOISES = [14.0, 6.0, 2.5, 1.0, 0.4, 0.05, 0.0]  # Euler's end with where they lead


@pytest.mark.parametrize("make", [ddpm, lcm, euler, dpm, singlestep])
def test_timesteps_of_ones_own(make):
    _, table = compare(make(), len(TIMES), timesteps=TIMES)
    assert table.timesteps.tolist() == TIMES


@pytest.mark.parametrize("values", [NOISES, np.array(NOISES), torch.tensor(NOISES)])
def test_sigmas_of_ones_own_on_euler(values):
    scheduler = euler()
    table = NoiseSchedule(scheduler).steps(6, sigmas=values)
    compare(scheduler, 6, sigmas=NOISES)
    torch.testing.assert_close(table.b / table.a, torch.tensor(NOISES[:-1], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [flow, flow_lcm, unipc])
def test_sigmas_of_ones_own_on_flows(make):
    options = {**FLOW, "flow_shift": 1.0} if make is unipc else {}
    _, table = compare(make(**options), 5, sigmas=np.array(SIGMAS))
    torch.testing.assert_close(table.b, torch.tensor(SIGMAS, dtype=torch.float64), rtol=1e-6, atol=0)


def test_flow_times_of_the_network_need_not_be_those_of_the_steps():
    _, table = compare(flow(), 5, sigmas=SIGMAS, timesteps=[950, 700, 500, 300, 90])
    assert table.timesteps.tolist() == [950, 700, 500, 300, 90]
    torch.testing.assert_close(table.b, torch.tensor(SIGMAS, dtype=torch.float64), rtol=1e-6, atol=0)
    _, table = compare(flow(shift=3.0), 4, timesteps=[1000, 700, 400, 100])  # shifted sigmas, times as given
    assert float(table.b[1]) == pytest.approx(3 * 0.7 / (1 + 2 * 0.7), rel=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("options", [{}, {"shift_terminal": 0.1}, {"use_karras_sigmas": True}], ids=str)
@pytest.mark.parametrize("steps", [8, 20])
def test_dynamic_shifting(kind, options, steps):
    scheduler = flow(use_dynamic_shifting=True, time_shift_type=kind, **options)
    compare(scheduler, steps, mu=1.15)
    # As FLUX hands them over.
    _, table = compare(scheduler, steps, mu=0.6, sigmas=np.linspace(1.0, 1 / steps, steps))
    if not options:
        shift = 0.6 if kind == "linear" else np.exp(0.6)
        sigma = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64)
        torch.testing.assert_close(table.b, shift / (shift + 1 / sigma - 1), rtol=1e-6, atol=0)


def test_dynamic_shifting_of_the_multistep_solvers():
    compare(dpm(**FLOW, use_dynamic_shifting=True), 8, mu=0.9)
    compare(unipc(**FLOW, use_dynamic_shifting=True), 8, mu=0.9)


def test_mu_is_ignored_by_a_flow_of_fixed_shift():
    # FLUX's pipeline computes it for every model.
    fixed, given = (NoiseSchedule(flow(shift=3.0)).steps(4, mu=mu) for mu in (None, 1.15))
    assert torch.equal(fixed.b, given.b)


# ---- corners ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ddim, ddpm, euler, ancestral, dpm, unipc])
@pytest.mark.parametrize("steps", [61, 103, 121])
def test_trailing_times_never_fall_below_zero(make, steps):
    # diffusers' own table has one entry too many here, -1, by rounding.
    table = NoiseSchedule(make(timestep_spacing="trailing")).steps(steps)
    assert len(table) == steps and int(table.timesteps.min()) >= 0
    # DDIM's last step leads to t - N // T, which is still 0 of 103 steps.
    assert make is ddim or (float(table.b_next[-1]) == 0 and float(table.a_next[-1]) == 1)


@pytest.mark.parametrize("maker, options, solver", CASES, ids=map(name_of, CASES))
def test_one_step(maker, options, solver):
    table = NoiseSchedule(maker(**{k: v for k, v in options.items() if k != "shift_terminal"})).steps(1)
    assert len(table) == 1 and not table.multistep


@pytest.mark.parametrize("order", [1, 2])
def test_the_first_bh_rule_ends_with_the_estimate(order):
    # diffusers' own last step is NaN here: the rule's weight is infinite and what it weighs is 0.
    table = NoiseSchedule(unipc(**{**BH1, "final_sigmas_type": "zero", "solver_order": order})).steps(8)
    assert torch.isfinite(table.extrapolation).all() and float(table.extrapolation[-1]) == 0
    assert float(table.a_next[-1]) == 1 and float(table.direction[-1]) == 0


def test_sigmas_and_not_rounded_times_say_where_steps_are():
    schedule = NoiseSchedule(dpm(use_karras_sigmas=True))
    table = schedule.steps(20)
    a, b = schedule.coefficients(table.timesteps)
    assert 1e-4 < relative(a, table.a) < 1e-1  # the network's times are whole
    assert torch.equal(table.a[1:], table.a_next[:-1]) and torch.equal(table.b[1:], table.b_next[:-1])


def test_zero_snr_is_as_each_scheduler_has_it():
    assert float(NoiseSchedule(ddim(**ZERO_SNR)).steps(8).a[0]) == 0
    assert float(NoiseSchedule(ddpm(**ZERO_SNR)).steps(8).a[0]) == 0
    for make in (euler, ancestral, dpm, unipc):
        assert float(NoiseSchedule(make(**ZERO_SNR)).steps(8).a[0]) == pytest.approx(2**-12, rel=1e-4)


@pytest.mark.parametrize(
    ("scheduler", "start"),
    [
        (ddim(), 1),
        (dpm(), 1),
        (flow(), 1),
        (euler(timestep_spacing="leading"), 1),
        (euler(), None),
        (ancestral(), None),
    ],
)
def test_the_first_state(scheduler, start):
    table = NoiseSchedule(scheduler).steps(10)
    assert table.start == pytest.approx(float(table.b[0]) if start is None else start, rel=1e-6)
