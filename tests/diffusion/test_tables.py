"""What holds for every table, and for tables at times of a method's own."""

import dataclasses

import numpy as np
import pytest
import torch
from exact_priors import ddim, flow
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_cases import CASES, FLOW, ZERO_SNR, ddpm, dpm, euler, unipc

from fastsync.diffusion import NoiseSchedule, StepTable, is_vanishing

pytestmark = pytest.mark.filterwarnings("ignore")

COLUMNS = ("a", "b", "a_next", "b_next", "sigma", "direction", "progress", "extrapolation")
# deepcopies of a scheduler are what costs
SCHEDULES = [(maker, options, NoiseSchedule(maker(**options))) for maker, options, _ in CASES]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(SCHEDULES), st.integers(2, 50))
def test_every_table(case, steps):
    maker, options, schedule = case
    table = schedule.steps(steps)
    assert len(table) == steps and table.timesteps.dtype in (torch.int64, torch.float32)
    for name in COLUMNS:
        column = getattr(table, name)
        assert column.shape == (steps,) and column.dtype == torch.float64 and torch.isfinite(column).all(), name
    assert torch.isfinite(table.pull[table.a > 0]).all() and (table.pull >= 0).all()
    a, b, a_next, b_next = table.a, table.b, table.a_next.clone(), table.b_next.clone()
    one = torch.ones_like(a)
    if schedule.solver.startswith("euler"):
        # What the last step hands out is x / a, whose noise is the last sigma, 0 in most cases.
        assert a_next[-1] == 1 and 0 <= b_next[-1] < 0.1
        a_next[-1], b_next[-1] = (1 + b_next[-1] ** 2).rsqrt(), b_next[-1] * (1 + b_next[-1] ** 2).rsqrt()
    for signal, noise in ((a, b), (a_next, b_next)):
        total = signal + noise if schedule.kind == "flow" else signal**2 + noise**2
        torch.testing.assert_close(total, one, rtol=0, atol=1e-12)
    assert (b_next <= b + 1e-6).all() and (a_next >= a - 1e-6).all() and (table.timesteps.diff() <= 0).all()
    # DDIM leads to t - N // T, whatever the spacing of its times.
    if maker is not ddim and schedule.solver != "ddim":
        assert torch.equal(a[1:], a_next[:-1]) and torch.equal(b[1:], b_next[:-1])
    if options.get("variance_type") != "fixed_large":
        assert (table.sigma <= b_next + 1e-15).all()
        inside = slice(None) if schedule.solver != "lcm" else slice(None, -1)
        torch.testing.assert_close((table.direction**2 + table.sigma**2)[inside], table.b_next[inside] ** 2)
    assert float(table.extrapolation[0]) == 0 and (table.boundary_x0 is None) == (schedule.solver != "lcm")
    assert 0.5 < table.start <= 1.001


def test_a_table_goes_to_a_device_whole():
    table = NoiseSchedule(CASES[20][0](**CASES[20][1])).steps(4)
    lcm = next(s for _, _, s in SCHEDULES if s.solver == "lcm").steps(4)
    for one in (table, lcm):
        moved = one.to(torch.device("cpu"))
        assert moved.start == one.start and isinstance(moved, StepTable)
        for column in dataclasses.fields(StepTable):
            value = getattr(one, column.name)
            assert (getattr(moved, column.name) is None) == (value is None)


# ---- coefficients -----------------------------------------------------------------------------------------------


def test_coefficients_between_whole_times_are_the_inverse_of_diffusers_sigma_to_t():
    scheduler = euler()
    schedule = NoiseSchedule(scheduler)
    t = torch.tensor([0.0, 0.25, 13.5, 600.0, 998.75, 999.0], dtype=torch.float64)
    a, b = schedule.coefficients(t)
    log_sigmas = np.log(np.sqrt((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).numpy())
    for expected, sigma in zip(t, b / a, strict=True):
        assert float(scheduler._sigma_to_t(np.array(float(sigma)), log_sigmas)) == pytest.approx(
            float(expected), abs=2e-3
        )
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(a))
    whole = schedule.coefficients(t[[0, 3, 5]].long())
    torch.testing.assert_close(torch.stack(whole), torch.stack([a, b])[:, [0, 3, 5]])
    assert schedule.coefficients(torch.tensor([1.0, 2.5]))[0].dtype == torch.float64


def test_coefficients_next_to_a_time_without_signal():
    schedule = NoiseSchedule(ddim(**ZERO_SNR))
    a, b = schedule.coefficients(torch.tensor([999.0, 998.5, 998.0]))
    assert a[:2].tolist() == [0, 0] and b[:2].tolist() == [1, 1]
    assert float(a[2]) == pytest.approx(float(schedule.coefficients(torch.tensor([998]))[0]))


def test_continuous_times_are_a_quarter_of_the_log_of_sigma():
    options = {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True}
    scheduler = euler(**options, sigma_min=0.002, sigma_max=700.0)
    schedule = NoiseSchedule(scheduler)
    table = schedule.steps(10)
    a, b = schedule.coefficients(table.timesteps)
    torch.testing.assert_close(b / a, table.b / table.a, rtol=1e-5, atol=0)
    assert float(b[0] / a[0]) == pytest.approx(700, rel=1e-5)
    again = schedule.table_at(table.timesteps)
    torch.testing.assert_close(again.progress, table.progress, rtol=1e-4, atol=1e-6)


def test_flow_takes_whole_times_too():
    # DPM-Solver++ of a flow rounds them down.
    schedule = NoiseSchedule(dpm(**FLOW))
    table = schedule.steps(8)
    assert table.timesteps.dtype == torch.int64 and schedule.kind == "flow"
    assert torch.equal(table.timesteps, (1000 * table.b + 1e-4).long())
    a, b = schedule.coefficients(table.timesteps)
    assert torch.equal(b, table.timesteps.double() / 1000) and torch.equal(a, 1 - b)


# ---- tables at times of one's own -------------------------------------------------------------------------------


def extrapolations(a, b):
    """Word for word: h / (2 h_before), but 0 at both ends and after a step of less than a quarter of the length."""
    log_snr = [float(x) for x in (a / b).log()]
    h = [after - before for before, after in zip(log_snr, log_snr[1:], strict=False)]
    found = [0.0]
    for before, here in zip(h, h[1:], strict=False):
        found.append(0.0 if here > 4 * before else here / (2 * before))
    return [*found, 0.0]


@pytest.mark.parametrize("make", [ddim, euler, dpm, unipc, ddpm])
@pytest.mark.parametrize("times", [[900, 898, 700, 500, 499, 200, 20, 1], list(range(981, 0, -20)), [900, 500], [900]])
def test_second_order_at_times_of_ones_own(make, times):
    schedule = NoiseSchedule(make())
    times = torch.tensor(times)
    plain, table = schedule.table_at(times), schedule.table_at(times, multistep=True)
    assert not plain.multistep and not plain.stochastic and plain.start == 1
    if len(times) > 1:
        assert table.extrapolation.tolist() == pytest.approx(extrapolations(table.a, table.b), rel=1e-12)
    for name in ("timesteps", "a", "b", "a_next", "b_next", "sigma", "direction", "progress", "pull"):
        assert torch.equal(getattr(plain, name), getattr(table, name))
    assert torch.equal(plain.a[1:], plain.a_next[:-1]) and float(plain.a_next[-1]) == 1


def test_second_order_on_flow_starts_without_signal():
    table = NoiseSchedule(flow()).table_at(torch.tensor([1000.0, 800.0, 500.0, 250.0, 20.0]), multistep=True)
    assert is_vanishing(table.a) and torch.isfinite(table.extrapolation).all()
    assert table.extrapolation[:2].tolist() == [0, 0] and float(table.extrapolation[2]) > 0


def test_times_that_come_twice_extrapolate_nothing():
    table = NoiseSchedule(ddim()).table_at(torch.tensor([900, 600, 600, 600, 300, 1]), multistep=True)
    assert torch.isfinite(table.extrapolation).all()
    table = NoiseSchedule(dpm()).steps(1000)  # the rounding of diffusers
    assert torch.isfinite(table.extrapolation).all() and table.timesteps.unique().numel() < 1000


def test_the_clean_end_of_times_of_ones_own():
    times = torch.tensor([900, 300])
    assert float(NoiseSchedule(ddim(set_alpha_to_one=False)).table_at(times).b_next[-1]) > 0.02
    assert float(NoiseSchedule(ddim()).table_at(times).b_next[-1]) == 0
    assert float(NoiseSchedule(flow()).table_at(times.float()).b_next[-1]) == 0
