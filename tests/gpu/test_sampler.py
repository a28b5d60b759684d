"""Whole runs on a CUDA device: the CPU's numbers, few launches, a host that does not wait."""

from collections import Counter

import pytest
import torch

import fastsync as fs
from bench.models import load
from fastsync.priors import Compiler

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SHAPE = (4, 16, 16)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


def run(device, method, network=lambda x, t, c: torch.tanh(x + c), dtype=torch.float32, views=5, steps=4, **settings):
    prior = fs.FunctionPrior(network, scheduler(), SHAPE, device=device, dtype=dtype)
    canvas = fs.WideCanvas((16, 16 + 12 * (views - 1)), (16, 16), 12)
    cond = torch.sin(torch.arange(views * 1024.0)).reshape(views, *SHAPE).to(device, dtype)
    z = torch.randn(1, 4, *canvas.size, generator=torch.Generator().manual_seed(0)).to(device)
    return fs.sample(
        prior, canvas, method, cond=cond, uncond=-cond[:1], guidance_scale=2.0, num_inference_steps=steps, latents=z,
        generator=torch.Generator().manual_seed(1), **settings,
    )  # fmt: skip


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_near(dtype):
    whole, half = (run("cuda", fs.SyncVC(iterations=2), dtype=d).canvas for d in (torch.float32, dtype))
    assert half.dtype == torch.float32
    assert float((half - whole).norm() / whole.norm()) < 0.1


def watched(iterations, steps=4):
    """Names of what a run launches, and of the calls in which the host waits."""
    method = fs.SyncVC(iterations=iterations)
    run("cuda", method, network=lambda x, t, c: 0.1 * x, steps=steps)
    torch.cuda.synchronize()
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        run("cuda", method, network=lambda x, t, c: 0.1 * x, steps=steps)
        torch.cuda.synchronize()
    events = profile.events()
    launched = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    return launched, Counter(event.name for event in events if event.name in WAITS)


def test_an_iteration_is_a_handful_of_launches_and_the_host_never_waits_in_it():
    (few, waits), (many, waits_of_many) = watched(2), watched(6)
    # Five views and four steps: seven batches with controls. The network here is one launch each way, guidance's two
    # halves another.
    assert (many - few) / (4 * 7) <= 4 + 4
    assert waits == waits_of_many


def test_the_host_waits_once_a_batch():
    (_, few), (_, many) = watched(2, steps=4), watched(2, steps=8)
    # Four fronts more, each with a look at whether its controls are finite. What goes to the GPU is not waited for.
    assert sum(many.values()) - sum(few.values()) <= 4


def test_compiled_networks_make_the_same_picture():
    network = load("scenes", "cuda", torch.float32)
    prior = network.prior()
    c, h, w = network.view_shape
    canvas = fs.WideCanvas((h, w + 2 * (3 * w // 4)), (h, w), 3 * w // 4)
    z = torch.randn(1, c, *canvas.size, generator=torch.Generator().manual_seed(0)).cuda()
    settings = {"cond": network.cond, "uncond": network.uncond, "guidance_scale": 5.0, "num_inference_steps": 4}
    plain = fs.sample(prior, canvas, fs.SyncVC(iterations=2), latents=z, **settings)
    with Compiler(network.module, "regional").on():
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
