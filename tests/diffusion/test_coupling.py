"""What of a table the coupling reads: ``progress`` and ``pull``."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from exact_priors import ddim, flow
from scheduler_cases import CASES, name_of

from fastsync.diffusion import NoiseSchedule, is_vanishing
from fastsync.diffusion.curve import FlowCurve
from fastsync.methods.coupling import stable_coupling

pytestmark = pytest.mark.filterwarnings("ignore")


def published(table, inv_lambda):
    return (table.a_next / table.a - table.direction / table.b) * inv_lambda * table.timesteps / table.timesteps[0]


@pytest.mark.parametrize(
    "scheduler", [ddim(timestep_spacing="trailing"), ddim(steps_offset=1), flow(), flow(shift=3.0)]
)
@pytest.mark.parametrize("inv_lambda", [0.0, 0.5, 5.0, 100.0])
def test_stable_coupling_lies_between_0_and_1(scheduler, inv_lambda):
    for steps in (1, 3, 10, 50):
        g = stable_coupling(inv_lambda, NoiseSchedule(scheduler).steps(steps).pull)
        assert torch.isfinite(g).all() and (g >= 0).all() and (g <= 1).all()
        assert bool((g == 0).all()) == (inv_lambda == 0)


def test_stable_coupling_pulls_the_same_at_any_number_of_steps():
    schedule = NoiseSchedule(ddim(timestep_spacing="trailing"))  # its first time is 999 whatever T
    left = [float((1 - stable_coupling(0.5, schedule.steps(n).pull)).prod()) for n in (5, 10, 20, 50, 100, 500)]
    assert 0.05 < left[0] < 0.95
    assert max(left) - min(left) < 1e-2 * left[0]
    # The published rule does not: its total pull depends on T.
    others = [float((1 - published(schedule.steps(n), 0.5)).prod()) for n in (5, 100)]
    assert abs(others[0] - others[1]) > 5e-2


def test_stable_coupling_on_flow_pulls_the_same_between_two_times():
    # The first step goes from a = 0 (g = 1 there); compare what is left between two times common to all tables.
    left = []
    for n in (10, 20, 100):
        # FlowMatchEuler's table ends at 1/1000: build tables whose times align, k/n.
        s = torch.linspace(1, 0, n + 1, dtype=torch.float64)
        g = stable_coupling(0.7, FlowCurve(1000).pull(1000 * s[:-1], 1000 * s[1:]))
        inside = (s[:-1] <= 0.9 + 1e-9) & (s[:-1] > 0.1 + 1e-9)
        left.append(float((1 - g[inside]).prod()))
    # exp(-0.7 int s ds / (s (1 - s))) from 0.1 to 0.9 = ((1 - 0.9) / (1 - 0.1))^0.7
    assert left == pytest.approx([(0.1 / 0.9) ** 0.7] * 3, rel=1e-6)


def test_stable_coupling_is_the_published_rule_for_small_steps():
    table = NoiseSchedule(ddim(timestep_spacing="trailing")).steps(1000)
    inside = (table.timesteps < 990) & (table.timesteps > 10)
    g, rule = stable_coupling(0.05, table.pull)[inside], published(table, 0.05)[inside]
    assert float(rule.max()) < 1e-2
    assert torch.allclose(g, rule, rtol=3e-2)


def test_flow_has_no_signal_to_divide_by_at_its_first_step():
    table = NoiseSchedule(flow()).steps(10)
    assert float(table.a[0]) == 0
    g = stable_coupling(5.0, table.pull)
    assert float(g[0]) == 1 and (g[1:] < 1).all()
    assert is_vanishing(
        NoiseSchedule(DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")).steps(5).a
    )
    assert not is_vanishing(NoiseSchedule(ddim()).steps(50).a)


def training_times(scheduler, sigma):
    """Fractional training times of noise-to-signal ratios b/a, as numpy interpolates them."""
    if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("use_flow_sigmas"):
        return 1000 * sigma / (1 + sigma)
    abar = scheduler.alphas_cumprod.double().numpy().clip(1e-30)
    return np.interp(np.log(sigma), np.log((1 - abar) / abar) / 2, np.arange(len(abar)))


@pytest.mark.parametrize("maker, options, solver", CASES, ids=map(name_of, CASES))
def test_progress_and_pull_of_every_scheduler(maker, options, solver):
    scheduler = maker(**options)
    table = NoiseSchedule(scheduler).steps(20)
    assert float(table.progress[0]) == 1 and (table.progress.diff() <= 0).all() and (table.progress >= 0).all()
    assert (table.pull >= 0).all() and not table.pull.isnan().any()
    # The integral between the starts of the second and the last step, by the trapezoidal rule on a grid of our own.
    sigma = (table.b / table.a).numpy()
    t_max = training_times(scheduler, min(sigma[0], 1e12))
    np.testing.assert_allclose(table.progress, training_times(scheduler, sigma.clip(max=1e12)) / t_max, atol=2e-3)
    log_sigma = np.linspace(np.log(sigma[1]), np.log(sigma[-1]), 100001)
    weight = training_times(scheduler, np.exp(log_sigma)) / t_max
    expected = -np.trapezoid(weight, log_sigma)
    assert float(table.pull[1:-1].sum()) == pytest.approx(expected, rel=1e-2)
