"""One window by fastsync.sample is the pipeline's own picture, with its own scheduler and with any that it accepts."""

import pytest
import torch
from exact_priors import relative
from families import FAMILIES
from families.asking import one_window, probed
from families.expected import REPLAYED
from families.running import own_run
from families.schedulers import schedulers

# Those whose every scheduler is tried: one of each kind of network, guidance, layout and condition.
CHOSEN = [
    "sd", "sd-v", "sdxl", "sd3", "flux", "flux-cfg", "flux-kontext", "flux-fill", "sana", "pixart-sigma", "lumina2",
    "qwen-image", "z-image", "if", "sd-controlnet", "sdxl-controlnet-two", "sd3-controlnet", "flux-controlnet-two",
    "sd-ip-adapter", "sdxl-ip-adapter", "sd-lora", "flux-lora", "sd-inpaint-9", "sdxl-inpaint-9", "sd-img2img",
    "sdxl-img2img", "sd3-img2img", "flux-img2img",
]  # fmt: skip
CASES = [(name, scheduler) for name in CHOSEN for scheduler in schedulers(FAMILIES[name])]


def compare(name, scheduler):
    """The final latents and the picture of one window are the pipeline's own."""
    steps = FAMILIES[name].steps
    run = (own_run if scheduler is None else own_run.__wrapped__)(name, steps=steps, scheduler=scheduler)
    # Those with schedulers of other kinds are asked here alone, and not kept.
    prior, told = probed(name) if scheduler is None else probed.__wrapped__(name, scheduler)
    final = one_window(prior, told, run, steps)
    assert relative(final, prior.layout.unpacked(run.final)) < 1e-4
    with torch.no_grad():
        picture = (prior.decode(final) / 2 + 0.5).clamp(0, 1)
    wanted = torch.as_tensor(run.picture)
    wanted = wanted.movedim(-1, 1) if wanted.shape[-1] == 3 else wanted  # some give arrays whatever is asked for
    wanted = wanted if wanted.min() >= 0 else (wanted / 2 + 0.5).clamp(0, 1)  # and some their last state
    assert picture.shape == wanted.shape and relative(picture, wanted) < 1e-4
    assert run.picture.std() > 0.01


@pytest.mark.parametrize("name", REPLAYED)
def test_by_its_own_scheduler(name, outcome):
    compare(name, None)
    outcome(name, scheduler="its own")


@pytest.mark.parametrize("name, scheduler", CASES, ids=map("-with-".join, CASES))
def test_by_each_scheduler(name, scheduler, outcome):
    compare(name, schedulers(FAMILIES[name])[scheduler])
    outcome(name, scheduler=scheduler)
