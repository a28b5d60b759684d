"""The tiny pipelines themselves: quick, repeatable, and moved by every condition that they say they have."""

import time

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from exact_priors import relative

from families import FAMILIES, NOT_BUILT
from families.awkward import AWKWARD
from families.running import own_run, spied
from families.schedulers import FLOW, MAKERS, VP, WITHOUT, schedulers
from families.state import assert_same, differences, snapshot

NAMED = {
    *("sd", "sd-v", "sdxl", "sd3", "flux", "flux-cfg", "flux-kontext", "flux-fill", "sana", "pixart-sigma", "lumina2"),
    *("qwen-image", "z-image", "if", "sd-controlnet", "sd-controlnet-two", "sdxl-controlnet", "sdxl-controlnet-two"),
    *(
        "sd3-controlnet",
        "sd3-controlnet-two",
        "flux-controlnet",
        "flux-controlnet-two",
        "sd-ip-adapter",
        "sdxl-ip-adapter",
    ),
    *(
        "sd-lora",
        "sdxl-lora",
        "flux-lora",
        "sd-inpaint-9",
        "sd-inpaint-4",
        "sd-img2img",
        "sdxl-img2img",
        "flux-img2img",
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def test_all_that_the_issue_names_are_here_and_as_many_that_it_does_not():
    assert NAMED <= set(FAMILIES) and len(FAMILIES) > 2 * len(NAMED)
    assert all(NOT_BUILT.values())


def test_a_picture_by_its_own_call_is_quick_and_the_same_again(family):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    pipe = family.make()
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    run = own_run(family.name)
    first = spied(pipe, family.call(1), steps=family.steps)  # what networks make on their first call is made
    kept = snapshot(pipe)
    start = time.process_time()
    again = spied(pipe, family.call(), steps=family.steps)
    assert time.process_time() - start < 1.0
    assert_same(kept, snapshot(pipe))
    assert not family.matters or relative(first.final, run.final) > 1e-3
    assert torch.equal(torch.as_tensor(run.picture), torch.as_tensor(again.picture))
    assert torch.isfinite(torch.as_tensor(run.picture)).all() and torch.isfinite(run.final).all()
    assert relative(run.final, run.samples[0]) > 1e-3
    assert len(run.times) == len(run.samples) == len(run.outputs) == len(run.inputs) > 1
    if family.latent and family.needs == "replay":  # others change the state after its last step
        latent = spied(pipe, family.call(), steps=family.steps, output_type="latent").picture
        assert torch.equal(latent, run.final)


def test_every_condition_matters(family):
    pipe, run = family.make(), own_run(family.name)
    for name in family.matters:
        call = {**family.call(), name: family.call(1)[name]}
        assert relative(spied(pipe, call, steps=family.steps).final, run.final) > 1e-3, name


def test_weights_depend_on_the_seed_alone_and_times_matter(family):
    networks = {k: v for k, v in family.make().components.items() if k in ("unet", "transformer", "prior")}
    others = family.make(seed=1).components
    for name, net in networks.items():
        assert any(not torch.equal(p, q) for p, q in zip(net.parameters(), others[name].parameters(), strict=True))
    run = own_run(family.name)
    assert len({float(t) for t in run.times}) == len(run.times)


def test_other_dtypes(family):
    pipe = family.make(dtype=torch.float64)
    nets = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {p.dtype for net in nets for p in net.parameters()} == {torch.float64}
    assert all(
        v.dtype == torch.float64
        for k, v in family.call(dtype=torch.float64).items()
        if isinstance(v, torch.Tensor) and v.is_floating_point() and "embeds" in k
    )


# ---- schedulers ----


def test_schedulers_are_made_from_the_pipelines_own():
    assert set(WITHOUT) <= set(FAMILIES) and MAKERS.keys() == {*VP, *FLOW}
    for family in FAMILIES.values():
        found = schedulers(family)
        assert bool(found) == (family.curve != "other")
    found = MAKERS["euler-karras"](FAMILIES["sd"].make().scheduler)
    assert found.config.beta_end == 0.012 and found.config.use_karras_sigmas
    found = MAKERS["flow-unipc"](FAMILIES["sd3"].make().scheduler)
    assert found.config.flow_shift == 3.0 and found.config.prediction_type == "flow_prediction"


@pytest.mark.parametrize("name", ["sd", "sd3", "lcm", "if"])
def test_every_scheduler_of_a_family_runs(name):
    for scheduler in schedulers(FAMILIES[name]).values():
        run = own_run(name, scheduler=scheduler)
        assert torch.isfinite(run.final).all() and len(run.timesteps) >= len(run.times)
    assert isinstance(FAMILIES["sd3"].make().scheduler, FlowMatchEulerDiscreteScheduler)


@pytest.mark.slow
def test_every_scheduler_of_every_family_runs(family):
    for scheduler in schedulers(family).values():
        assert torch.isfinite(own_run(family.name, scheduler=scheduler).final).all()


# ---- snapshots ----


def test_snapshots_see_what_changes():
    pipe, generator = FAMILIES["flux-cfg"].make(), torch.Generator()
    net = pipe.transformer
    weight = next(net.parameters())

    def flip(name, value):
        def change(target):
            old = getattr(target, name)
            setattr(target, name, value)
            return lambda: setattr(target, name, old)

        return change

    def draw(draws, state, restore):
        def change(_):
            old = state()
            draws()
            return lambda: restore(old)

        return change

    def nudge(target):
        old = target.detach().clone()
        with torch.no_grad():
            target.view(-1)[0] += 1e-7
        return lambda: target.data.copy_(old)

    def hook(target):
        handle = target.register_forward_pre_hook(lambda *_: None)
        return handle.remove

    block = net.transformer_blocks[0]
    changes = {
        "weight": (nudge, weight),
        "requires_grad": (flip("requires_grad", False), weight),
        "grad": (flip("grad", torch.zeros_like(weight)), weight),
        "training": (flip("training", True), block),
        "processor": (flip("processor", type(block.attn.processor)()), block.attn),
        "attribute": (flip("gradient_checkpointing", True), net),
        "hook": (hook, block.attn),
        "_guidance_scale": (flip("default_sample_size", 9), pipe),
        "scheduler": (flip("_step_index", 3), pipe.scheduler),
        "generator": (draw(lambda: torch.rand(1, generator=generator), generator.get_state, generator.set_state), None),
        "torch": (draw(lambda: torch.rand(1), torch.get_rng_state, torch.set_rng_state), None),
        "numpy": (draw(lambda: np.random.rand(), np.random.get_state, np.random.set_state), None),
    }
    before = snapshot(pipe, generator)
    assert_same(before, snapshot(pipe, generator))
    for name, (change, target) in changes.items():
        back = change(target)
        assert differences(before, snapshot(pipe, generator)), name
        with pytest.raises(AssertionError, match="things? changed"):
            assert_same(before, snapshot(pipe, generator))
        back()
        assert_same(before, snapshot(pipe, generator))


# ---- awkward pipelines ----

FAILING = {
    "no-scheduler": AttributeError,
    "half-on-meta": RuntimeError,
    "raising": RuntimeError,
    "exiting": KeyboardInterrupt,
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_pipelines_run_or_fail_as_they_say(name):
    found = AWKWARD[name]
    pipe = found.make()
    assert found.needs in ("replay", "reentry", "refusal") and found.why
    with torch.compiler.set_stance("force_eager"):
        if name in FAILING:
            with pytest.raises(FAILING[name]):
                spied(pipe, found.call(), steps=4)
            return
        run = spied(pipe, found.call(), steps=4)
    taken = {"interrupted": 2, "always-interrupted": 0, "own-steps": 0}
    assert len(run.times) == taken.get(name, 4)
    assert torch.isfinite(torch.as_tensor(run.picture)).all() or name == "not-finite"


def picture(name, *, torch_seed):
    """By the pipeline's own call, the global generator at ``torch_seed``."""
    found = AWKWARD[name]
    pipe = found.make()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed)
        generator = torch.Generator().manual_seed(0)
        return pipe(**found.call(), num_inference_steps=4, generator=generator, output_type="latent")[0]


def test_awkward_pipelines_are_awkward():
    for name in ("global-noise", "global-start", "dropout"):
        assert relative(picture(name, torch_seed=1), picture(name, torch_seed=2)) > 1e-3, name
    plain = picture("sets-attributes", torch_seed=1)
    assert torch.equal(plain, picture("keywords-only", torch_seed=1))
    for name in (
        "other-second-step",
        "changing-guidance",
        "last-step-differs",
        "changed-state",
        "step-input",
        "hidden-input",
    ):
        assert relative(picture(name, torch_seed=1), plain) > 1e-4, name
    for name in ("permuted", "doubled", "clamped", "batch-coupled", "other-guidance"):
        assert relative(picture(name, torch_seed=1), plain) > 1e-3, name


def test_the_networks_of_some_are_asked_more_often_later():
    pipe, calls = AWKWARD["more-in-later-calls"].make(), []
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for _ in range(3):
        spied(pipe, AWKWARD["more-in-later-calls"].call(), steps=4)
        counts.append(len(calls))
        calls.clear()
    assert counts == [4, 8, 8]


def test_what_a_broken_off_call_leaves_behind_is_seen():
    found = AWKWARD["left-scaled"]
    pipe = found.make()
    spied(pipe, found.call(), steps=2)
    before = snapshot(pipe)
    spied(pipe, found.call(), steps=2)
    assert_same(before, snapshot(pipe))
    handle = pipe.unet.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        spied(pipe, found.call(), steps=2)
    handle.remove()
    changed = " ".join(differences(before, snapshot(pipe)))
    assert "training" in changed and "scaling" in changed
