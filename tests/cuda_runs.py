"""Runs that tests/gpu takes on a device, and what they launch there."""

from collections import Counter

import torch

import fastsync as fs

SHAPE = (4, 16, 16)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def ddim(kind="DDIM", **config):
    """Stable Diffusion's schedule, as one of diffusers' schedulers has it."""
    import diffusers

    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    if kind == "DDIM":
        settings |= {"clip_sample": False, "set_alpha_to_one": False}
    return getattr(diffusers, f"{kind}Scheduler")(**settings, **config)


def two_m():
    """DPM-Solver++ of second order, which looks back at the step before."""
    return ddim("DPMSolverMultistep", algorithm_type="dpmsolver++", solver_order=2)


def arguments(device, method, network=lambda x, t, c: torch.tanh(x + c), dtype=torch.float32, views=5, steps=4,
              scheduler=ddim, generator=None, **settings):  # fmt: skip
    """``(prior, canvas, method)`` and keywords of ``fs.sample`` and ``fs.Session``."""
    prior = fs.FunctionPrior(network, scheduler(), SHAPE, device=device, dtype=dtype)
    canvas = fs.WideCanvas((16, 16 + 12 * (views - 1)), (16, 16), 12)
    cond = torch.sin(torch.arange(views * 1024.0)).reshape(views, *SHAPE).to(device, dtype)
    z = torch.randn(1, 4, *canvas.size, generator=torch.Generator().manual_seed(0)).to(device)
    generator = torch.Generator().manual_seed(1) if generator is None else generator
    given = {"cond": cond, "uncond": -cond[:1], "guidance_scale": 2.0, "num_inference_steps": steps, "latents": z}
    return (prior, canvas, method), {**given, "generator": generator, **settings}


def run(device, method, network=lambda x, t, c: torch.tanh(x + c), **settings):
    """What a whole run gives."""
    parts, keywords = arguments(device, method, network, **settings)
    return fs.sample(*parts, **keywords)


def watched(method, **settings):
    """How much a run launches, and in which calls the host waits; its network is one launch each way."""

    def once():
        run("cuda", method, network=lambda x, t, c: 0.1 * x, **settings)
        torch.cuda.synchronize()

    once()
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        once()
    events = profile.events()
    launched = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    return launched, Counter(event.name for event in events if event.name in WAITS)


def waits_a_step(method, **settings):
    """How often the host waits for a step more."""
    few, many = (sum(watched(method, steps=steps, **settings)[1].values()) for steps in (20, 24))
    return (many - few) / 4
