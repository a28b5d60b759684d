"""FunctionPrior: the function is called as documented, and its output is read as the schedule says."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

import fastsync as fs

SHAPE = (2, 4, 4)


class Recorder:
    """An eps_fn that notes its calls."""

    def __init__(self, function=lambda x, t, c: 0.1 * x):
        self.calls, self.function = [], function

    def __call__(self, x, t, cond):
        self.calls.append((x, t, cond))
        return self.function(x, t, cond)


def ddim(**changes):
    return DDIMScheduler(**{"clip_sample": False, **changes})


def run(prior, method=None, **arguments):
    canvas = fs.WideCanvas((4, 7), (4, 4), 3)
    settings = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    return fs.sample(prior, canvas, method or fs.Independent(), **{**settings, **arguments})


def test_protocol():
    prior = fs.FunctionPrior(Recorder(), ddim(), SHAPE)
    assert prior.view_shape == SHAPE
    assert prior.device == torch.device("cpu") and prior.dtype == torch.float32
    pixels = torch.randn(1, 3, 4, 4)
    assert prior.encode(pixels) is pixels and prior.decode(pixels) is pixels


def test_guidance_runs_both_halves_in_one_batch_unconditional_first():
    f = Recorder(lambda x, t, c: c.reshape(-1, 1, 1, 1).expand_as(x) * x)
    prior = fs.FunctionPrior(f, ddim(), SHAPE)
    x, t = torch.randn(3, *SHAPE), torch.tensor([900, 500, 10])
    cond, uncond = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, -2.0, -3.0])
    prediction = prior.predict(x, t, cond, uncond, 2.5)
    [(seen_x, seen_t, seen_c)] = f.calls
    assert torch.equal(seen_x, torch.cat([x, x])) and torch.equal(seen_t, torch.cat([t, t]))
    assert seen_c.tolist() == [-1.0, -2.0, -3.0, 1.0, 2.0, 3.0]
    weight = (uncond + 2.5 * (cond - uncond)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(prediction.eps, weight * x)
    a, b = prior.schedule.coefficients(t)
    rebuilt = a.reshape(-1, 1, 1, 1) * prediction.x0 + b.reshape(-1, 1, 1, 1) * prediction.eps
    torch.testing.assert_close(rebuilt.float(), x, rtol=1e-5, atol=1e-5)


def test_one_time_and_one_condition_serve_all_views():
    f = Recorder(lambda x, t, c: c.reshape(-1, 1, 1, 1) * x)
    prior = fs.FunctionPrior(f, ddim(), SHAPE)
    x, cond, uncond = torch.randn(3, *SHAPE), torch.tensor([2.0]), torch.tensor([-1.0])
    expected = prior.predict(x, torch.tensor([7, 7, 7]), cond.expand(3), uncond.expand(3), 2.5)
    for t in (torch.tensor(7), torch.tensor([7])):
        got = prior.predict(x, t, cond, uncond, 2.5)
        assert torch.equal(got.x0, expected.x0) and torch.equal(got.eps, expected.eps)
    assert all(torch.equal(t, f.calls[0][1]) and torch.equal(c, f.calls[0][2]) for _, t, c in f.calls)


def test_without_guidance_the_function_sees_only_the_condition():
    f = Recorder()
    run(fs.FunctionPrior(f, ddim(), SHAPE), cond=torch.tensor([[5.0], [6.0]]))
    assert all(x.shape[0] == 2 and c.flatten().tolist() == [5.0, 6.0] for x, _, c in f.calls)
    f = Recorder()
    run(fs.FunctionPrior(f, ddim(), SHAPE))
    assert all(c is None for _, _, c in f.calls)


def test_guidance_of_one_costs_nothing():
    f = Recorder()
    out = run(fs.FunctionPrior(f, ddim(), SHAPE), cond=torch.ones(1, 1), uncond=torch.zeros(1, 1), guidance_scale=1.0)
    assert out.stats.evaluations == sum(len(x) for x, _, _ in f.calls) == 4


@pytest.mark.parametrize(
    "scheduler, dtype", [(ddim(), torch.int64), (FlowMatchEulerDiscreteScheduler(), torch.float32)]
)
def test_times_are_integers_on_discrete_schedules_and_floats_on_flow(scheduler, dtype):
    f = Recorder()
    run(fs.FunctionPrior(f, scheduler, SHAPE))
    assert f.calls and all(t.dtype == dtype and t.shape == (2,) for _, t, _ in f.calls)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_predictions_are_differentiable_in_x(kind):
    flow = kind == "flow"
    scheduler = FlowMatchEulerDiscreteScheduler() if flow else ddim(prediction_type=kind)
    prior = fs.FunctionPrior(lambda x, t, c: torch.tanh(x) * c.reshape(-1, 1, 1, 1), scheduler, SHAPE)
    x = torch.randn(2, *SHAPE, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([700, 300]) if not flow else torch.tensor([700.0, 300.0])
    cond = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: tuple(prior.predict(x, t, cond, -cond, 3.0)), (x,))


def test_float64_stays_float64_and_half_precision_networks_are_handed_half():
    f = Recorder()
    out = run(fs.FunctionPrior(f, ddim(), SHAPE), latents=torch.randn(1, 2, 4, 7, dtype=torch.float64))
    assert out.canvas.dtype == out.views.dtype == torch.float64
    assert all(x.dtype == torch.float64 for x, _, _ in f.calls)
    f = Recorder()
    out = run(fs.FunctionPrior(f, ddim(), SHAPE, dtype=torch.bfloat16), fs.SyncVC(iterations=1))
    assert out.canvas.dtype == torch.float32 and torch.isfinite(out.canvas).all()
    assert all(x.dtype == torch.bfloat16 for x, _, _ in f.calls)


def test_the_default_dtype_changes_nothing():
    torch.set_default_dtype(torch.float64)
    try:
        out = run(fs.FunctionPrior(Recorder(), ddim(), SHAPE), fs.SyncVC(iterations=1))
    finally:
        torch.set_default_dtype(torch.float32)
    assert out.canvas.dtype == torch.float32
    again = run(fs.FunctionPrior(Recorder(), ddim(), SHAPE), fs.SyncVC(iterations=1))
    torch.testing.assert_close(out.canvas, again.canvas)


@pytest.mark.parametrize("output", [lambda x, t, c: x[:, :1], lambda x, t, c: (x,), lambda x, t, c: None])
def test_a_wrong_output_is_described(output):
    with pytest.raises(ValueError, match=r"eps_fn must return a tensor of x's shape \[2, 2, 4, 4\], got "):
        run(fs.FunctionPrior(output, ddim(), SHAPE))


@pytest.mark.parametrize("method", [fs.Independent(), fs.MultiDiffusion(), fs.SyncVC(iterations=1)])
def test_a_result_that_is_not_finite_is_never_handed_out(method):
    with pytest.raises(FloatingPointError, match="finite|infinite"):
        run(fs.FunctionPrior(lambda x, t, c: x * float("nan"), ddim(), SHAPE), method)


def test_controls_work_in_inference_mode():
    prior = fs.FunctionPrior(lambda x, t, c: torch.tanh(x) * c.reshape(-1, 1, 1, 1), ddim(), SHAPE)
    z = torch.randn(1, 2, 4, 7)
    expected = run(prior, fs.SyncVC(iterations=2), cond=torch.ones(1), latents=z)
    with torch.inference_mode():
        made_inside = {"cond": torch.ones(1), "latents": z.clone()}
        out = run(prior, fs.SyncVC(iterations=2), **made_inside)
    assert torch.equal(out.canvas, expected.canvas)
    assert out.stats.gradients == expected.stats.gradients > 0


def test_nothing_is_recorded_for_autograd():
    z = torch.randn(1, 2, 4, 7, requires_grad=True)
    cond = torch.ones(1, requires_grad=True)
    prior = fs.FunctionPrior(lambda x, t, c: x * c.reshape(-1, 1, 1, 1), ddim(), SHAPE)
    out = run(prior, fs.SyncVC(iterations=1), latents=z, cond=cond)
    assert not out.canvas.requires_grad and not out.views.requires_grad
    assert z.grad is None and cond.grad is None


def test_the_scheduler_is_left_as_it_was():
    scheduler = ddim()
    scheduler.set_timesteps(7)
    times, config = scheduler.timesteps.clone(), dict(scheduler.config)
    run(fs.FunctionPrior(Recorder(), scheduler, SHAPE))
    assert torch.equal(scheduler.timesteps, times) and dict(scheduler.config) == config
