"""Views with times, prompts and conditions of their own, in one batch and one by one, and their gradients."""

import pytest
import torch
from exact_priors import randn, relative
from families import FAMILIES
from families.asking import model_output, probed, request, wrapped
from families.expected import REPLAYED
from families.running import own_run

VIEWS = (0, 1, 2, 3, 4)
PICTURES = {"sd-upscale": (0, 1, 0, 1, 0)}  # noise levels end before those of the others


@pytest.mark.parametrize("name", REPLAYED)
def test_five_views_in_one_batch_are_what_they_are_alone(name):
    family = FAMILIES[name]
    pictures = PICTURES.get(name, VIEWS)
    prior, told = probed(name, None, pictures)
    runs = {view: own_run(name, index=pictures[view]) for view in (0, 3)}
    steps = {view: view % len(runs[0].times) for view in VIEWS}
    x, t = randn(len(VIEWS), *prior.view_shape, dtype=torch.float32), []
    for view in VIEWS:
        run = runs.get(view, runs[0])
        given = run.samples[steps[view]] if run.inputs[steps[view]] is None else run.inputs[steps[view]]
        if view in runs:
            x[view] = prior.layout.unpacked(given[:, : prior.layout.state_shape[0]])[0]
        t.append(torch.as_tensor(run.times[steps[view]]))
    t = torch.stack(t)
    halves = [c for c in (told.cond, told.uncond) if c is not None]
    with torch.no_grad():
        together = prior.raw(x, t, *halves)
        alone = [prior.raw(x[i : i + 1], t[i : i + 1], *(c.select([i]) for c in halves)) for i in VIEWS]
    rows = [together[i :: len(VIEWS)] for i in VIEWS]
    assert max(map(relative, rows, alone)) < 1e-5
    for view, run in runs.items():
        got = prior.layout.packed(model_output(prior, told, rows[view]))
        own = run.outputs[steps[view]]
        own = own[tuple(slice(0, side) for side in got.shape)] if own.ndim == got.ndim else own.reshape(got.shape)
        assert relative(got, own) < 1e-4
    # Conditions are each view's own: what is told of one changes another's output.
    if {"prompt", "image", "prompt_embeds", "prompt_embeds_t5"} & set(family.matters):
        other = prior.raw(x[:1], t[:1], *(c.select([1]) for c in halves)).detach()
        assert relative(other, alone[0]) > 1e-5


# ---- gradients --------------------------------------------------------------------------------------------------

# Those that rotate by positions, or make features of the time, in float32 whatever they compute in.
SINGLE = ("flux", "flux-cfg", "lumina2", "qwen-image", "z-image", "aura-flow", "hunyuan-dit")
DOUBLE = ("sd", "sdxl", "sd3", "pixart-sigma", "if", "sd-controlnet", "sd-ip-adapter", "sd-lora", "sd-inpaint-9")


@pytest.mark.parametrize("name", DOUBLE + SINGLE)
def test_gradients_are_those_of_central_differences(name):
    family = FAMILIES[name]
    prior = wrapped(family, family.make(dtype=torch.float64), dtype=torch.float64)
    told = prior.told(request(family))
    t = torch.tensor([700, 300], dtype=torch.int64 if prior.schedule.kind == "vp" else torch.float32)
    halves = [c.select([0, 0]) for c in (told.cond, told.uncond) if c is not None]
    x, weights, direction = (randn(2, *prior.view_shape, seed=seed) for seed in (0, 1, 2))

    def value(x):
        return (weights * prior.raw(x, t, *halves)[-2:]).sum()

    leaf = x.clone().requires_grad_()
    [gradient] = torch.autograd.grad(value(leaf), leaf)
    step, bound = (1e-5, 1e-8) if name in DOUBLE else (1e-3, 1e-4)
    with torch.no_grad():
        slope = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert gradient.norm() > 1e-6 and abs(float((gradient * direction).sum() - slope)) < bound * float(gradient.norm())
    assert gradient.dtype == torch.float64 and gradient[0].abs().max() > 0 < gradient[1].abs().max()
