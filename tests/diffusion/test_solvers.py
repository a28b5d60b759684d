"""The estimate that a step goes towards, and clipped predictions."""

import pytest
import torch
from exact_priors import ddim, flow, randn
from scheduler_cases import ddpm, dpm, euler, lcm, unipc

from fastsync.diffusion import NoiseSchedule, solver_estimate


def samples(a, b, seed=0):
    x0, eps, last = randn(3, len(a), 2, 3, 3, seed=seed)
    shape = (-1, 1, 1, 1)
    return x0, eps, a.reshape(shape) * x0 + b.reshape(shape) * eps, last


A = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
B = (1 - A**2).sqrt()
AHEAD = torch.tensor([0.7, 0.0, 0.3], dtype=torch.float64)


def test_first_order_hands_back_what_it_got():
    x0, eps, x, last = samples(A, B)
    for arguments in ({}, {"extrapolation": AHEAD}, {"last": last}):
        found = solver_estimate(x0, eps, x, arguments.get("last"), A, B, arguments.get("extrapolation"))
        assert found[0] is x0 and found[1] is eps


def test_extrapolation_sample_by_sample():
    x0, eps, x, last = samples(A, B)
    last[1] = torch.nan  # nobody reads what is of first order
    clean, noise = solver_estimate(x0, eps, x, last, A, B, AHEAD)
    assert torch.equal(clean[1], x0[1]) and torch.equal(noise[1], eps[1])
    for i in (0, 2):
        torch.testing.assert_close(clean[i], x0[i] + AHEAD[i] * (x0[i] - last[i]))
        torch.testing.assert_close(noise[i], (x[i] - A[i] * clean[i]) / B[i])


def test_boundary():
    x0, eps, x, _ = samples(A, B)
    by_x0, by_x = torch.tensor([1.0, 0.9, 0.5]).double(), torch.tensor([0.0, 0.2, 0.5]).double()
    clean, noise = solver_estimate(x0, eps, x, None, A, B, torch.zeros_like(A), by_x0, by_x)
    shape = (-1, 1, 1, 1)
    torch.testing.assert_close(clean, by_x0.reshape(shape) * x0 + by_x.reshape(shape) * x)
    torch.testing.assert_close(noise, (x - A.reshape(shape) * clean) / B.reshape(shape))


def test_a_flow_starts_without_signal():
    a, b = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    x0, eps, x, last = samples(a, b)
    clean, noise = solver_estimate(x0, eps, x, last, a, b, torch.full_like(a, 0.5))
    torch.testing.assert_close(clean, x0 + 0.5 * (x0 - last))
    assert torch.equal(noise, eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_states(dtype):
    x0, eps, x, last = (t.to(dtype) for t in samples(A, B))
    assert [t.dtype for t in solver_estimate(x0, eps, x, last, A, B, AHEAD)] == [dtype, dtype]


def test_gradients():
    tensors = [t.requires_grad_() for t in samples(A, B)]
    assert torch.autograd.gradcheck(lambda *t: solver_estimate(*t, A, B, AHEAD), tensors)
    boundary = torch.rand(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *t: solver_estimate(*t[:3], None, A, B, None, boundary, 1 - boundary), tensors
    )


def test_second_order_converges_faster():
    # An estimate that is linear in log(a/b), from Karras' first sigma to his last; the step from there to 0 is exact.
    def run(order, steps):
        table = NoiseSchedule(dpm(use_karras_sigmas=True, solver_order=order)).steps(steps)
        x, last = torch.ones(1, 1, 1, 1, dtype=torch.float64), None
        for k in range(steps - 1):
            a, b, a_next, direction, ahead = (
                getattr(table, name)[k : k + 1] for name in ("a", "b", "a_next", "direction", "extrapolation")
            )
            x0 = (a / b).log().reshape(1, 1, 1, 1)
            clean, eps = solver_estimate(x0, (x - a * x0) / b, x, last, a, b, ahead)
            x, last = a_next * clean + direction * eps, x0
        return float(x)

    exact = run(2, 1000)
    errors = {(order, steps): abs(run(order, steps) - exact) for order in (1, 2) for steps in (20, 40)}
    assert errors[2, 40] < errors[1, 40] / 10
    assert errors[1, 20] / errors[1, 40] == pytest.approx(2, abs=0.3)
    assert errors[2, 20] / errors[2, 40] > 3.3


# ---- clipping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "keeps"),
    [
        (ddim(clip_sample=True), True),
        (ddpm(clip_sample=True), False),
        (lcm(clip_sample=True, clip_sample_range=0.4), False),
        (dpm(thresholding=True, dynamic_thresholding_ratio=0.5), False),
        (unipc(thresholding=True, dynamic_thresholding_ratio=0.5), False),
    ],
    ids=lambda v: type(v).__name__,
)
def test_only_ddim_keeps_the_networks_noise_where_it_clips(scheduler, keeps):
    schedule = NoiseSchedule(scheduler)
    x0, eps, x, _ = samples(A, B)
    x0, x = 3 * x0, x + 2 * A.reshape(-1, 1, 1, 1) * x0
    clean, noise = schedule.clip_prediction(x0, eps, x, A, B)
    assert schedule.clips and torch.equal(clean, schedule.clip(x0)) and not torch.equal(clean, x0)
    shape = (-1, 1, 1, 1)
    torch.testing.assert_close(noise, eps if keeps else (x - A.reshape(shape) * clean) / B.reshape(shape))


def test_schedulers_that_clip_nothing():
    stray = euler()
    stray.register_to_config(clip_sample=True)  # left over from another scheduler's config, which Euler ignores
    x0, eps, x, _ = samples(A, B)
    for scheduler in (stray, flow(), ddpm(), dpm()):
        schedule = NoiseSchedule(scheduler)
        assert not schedule.clips and schedule.clip(x0) is x0
        clean, noise = schedule.clip_prediction(x0, eps, x, A, B)
        assert clean is x0 and noise is eps
