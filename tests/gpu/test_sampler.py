"""Whole runs on a CUDA device: the CPU's numbers, few launches, a host that does not wait."""

import time

import pytest
import torch
from cuda_runs import run, two_m, waits_a_step, watched

import fastsync as fs
from bench.models import load
from fastsync.priors import Runtime

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize(
    "method",
    [
        fs.SyncVC(iterations=3), fs.SyncVC(search=3), fs.SyncSDE(), fs.SyncTweedies(), fs.MultiDiffusion(),
        fs.StochSync(steps=3),
    ],
    ids=lambda method: type(method).__name__,
)  # fmt: skip
def test_the_numbers_are_those_of_the_cpu(method, eta):
    if isinstance(method, fs.StochSync) and eta:
        pytest.skip("it draws noise of its own")
    here, there = (run(device, method, eta=eta).canvas.cpu() for device in ("cpu", "cuda"))
    assert float((there - here).norm() / here.norm()) < 1e-3


@pytest.mark.parametrize(
    "settings",
    [{"scheduler": two_m, "steps": 8}, {"guidance_scale": fs.Guidance(2.0, rescale=0.7, interval=(0.25, 0.75))}],
    ids=["looking back", "guidance"],
)
@pytest.mark.parametrize("method", [fs.SyncVC(iterations=2), fs.MultiDiffusion()], ids=["SyncVC", "MultiDiffusion"])
def test_solvers_and_guidance_are_those_of_the_cpu(method, settings):
    here, there = (run(device, method, **settings).canvas.cpu() for device in ("cpu", "cuda"))
    assert float((there - here).norm() / here.norm()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_near(dtype):
    whole, half = (run("cuda", fs.SyncVC(iterations=2), dtype=d).canvas for d in (torch.float32, dtype))
    assert half.dtype == torch.float32
    assert float((half - whole).norm() / whole.norm()) < 0.1


def test_an_iteration_is_a_handful_of_launches_and_the_host_never_waits_in_it():
    (few, waits), (many, waits_of_many) = (watched(fs.SyncVC(iterations=k)) for k in (2, 6))
    # Five views and four steps: seven batches with controls. The network here is one launch each way, guidance's two
    # halves another.
    assert (many - few) / (4 * 7) <= 4 + 4
    assert waits == waits_of_many


def test_the_host_waits_once_a_batch():
    (_, few), (_, many) = (watched(fs.SyncVC(iterations=2), steps=steps) for steps in (4, 8))
    # Four fronts more, each with a look at whether its controls are finite. What goes to the GPU is not waited for.
    assert sum(many.values()) - sum(few.values()) <= 4


def mean_colour(a, b):
    return (a.mean((2, 3)) - b.mean((2, 3))).square().sum()


METHODS = [
    fs.SyncVC(iterations=2), fs.SyncSDE(), fs.MultiDiffusion(), fs.SyncTweedies(),
    # Its views move before every step, which is of first order then: what says so goes to the GPU as well.
    fs.SyncDiffusion(perceptual=mean_colour),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_nobody_waits_for_the_history_of_a_solver(method):
    assert waits_a_step(method, scheduler=two_m) == waits_a_step(method)


@pytest.mark.parametrize("method", METHODS[:3], ids=lambda method: type(method).__name__)
def test_nobody_waits_for_the_interval_and_the_rescaling_of_guidance(method):
    guided = fs.Guidance(2.0, rescale=0.5, interval=(0.25, 0.75))
    assert waits_a_step(method, guidance_scale=guided) == waits_a_step(method)


def test_seconds_hold_what_the_device_still_computes_when_the_host_is_done():
    def slow(x, t, c):
        torch.cuda._sleep(50_000_000)  # cycles: tens of milliseconds
        return 0.1 * x

    run("cuda", fs.MultiDiffusion(), slow)
    torch.cuda.synchronize()
    began = time.perf_counter()
    out = run("cuda", fs.MultiDiffusion(), slow)
    torch.cuda.synchronize()
    assert out.stats.seconds > 0.8 * (time.perf_counter() - began)


def test_compiled_networks_make_the_same_picture():
    network = load("scenes", "cuda", torch.float32)
    prior = network.prior()
    c, h, w = network.view_shape
    canvas = fs.WideCanvas((h, w + 2 * (3 * w // 4)), (h, w), 3 * w // 4)
    z = torch.randn(1, c, *canvas.size, generator=torch.Generator().manual_seed(0)).cuda()
    settings = {"cond": network.cond, "uncond": network.uncond, "guidance_scale": 5.0, "num_inference_steps": 4}
    plain = fs.sample(prior, canvas, fs.SyncVC(iterations=2), latents=z, **settings)
    prior.runtime = Runtime([network.module], compile="regional")
    compiled = fs.sample(prior, canvas, fs.SyncVC(iterations=2), latents=z, fixed_batches=True, **settings)
    assert float((compiled.canvas - plain.canvas).norm() / plain.canvas.norm()) < 1e-2


@pytest.mark.parametrize("method", [fs.SyncVC(iterations=2), fs.SyncTweedies(), fs.StochSync(steps=3)])
def test_a_canvas_on_the_cpu_makes_the_same_picture(method):
    """The network stays on the GPU; states cross over for its calls, forward and backward."""
    asked = []

    def network(x, t, c):
        asked.append((x.device.type, t.device.type, c.device.type))
        return torch.tanh(x + c)

    whole, apart = (run("cuda", method, network, canvas_device=device) for device in (None, "cpu"))
    assert set(asked) == {("cuda", "cuda", "cuda")}
    assert apart.canvas.device.type == "cpu" and whole.canvas.device.type == "cuda"
    assert float((apart.canvas - whole.canvas.cpu()).norm() / apart.canvas.norm()) < 1e-3
