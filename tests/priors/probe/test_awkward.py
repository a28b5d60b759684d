"""Awkward pipelines: replayed where their steps are alike, refused in one sentence where they are not, never harmed."""

import contextlib

import pytest
import torch
from exact_priors import relative
from families import FAMILIES
from families.asking import first_noise, request, wrapped
from families.awkward import AWKWARD
from families.expected import AWKWARD_SAYS, UNKNOWN_RECIPES
from families.running import spied
from families.state import assert_same, snapshot

import fastsync as fs

REGULAR = [name for name, family in AWKWARD.items() if family.needs == "replay" and name not in AWKWARD_SAYS]
IRREGULAR = [name for name in AWKWARD if name not in (*REGULAR, "exiting")]
CHANGING = [name for name, family in FAMILIES.items() if family.needs != "replay"]


def eager(name):
    return torch.compiler.set_stance("force_eager") if name == "compiled" else contextlib.nullcontext()


@pytest.mark.parametrize("name", REGULAR)
def test_the_regular_ones_are_their_own_run(name):
    family = AWKWARD[name]
    pipe = family.make()
    with eager(name):
        run = spied(pipe, family.call(0), steps=4)
        before = snapshot(pipe)
        prior = wrapped(family, pipe)
        told = prior.told(request(family))
        out = fs.sample(
            prior, fs.WideCanvas(prior.window, prior.window, 1), fs.MultiDiffusion(), cond=told.cond,
            uncond=told.uncond, guidance_scale=told.guidance, num_inference_steps=4,
            latents=first_noise(prior, told, run, 4),
        )  # fmt: skip
    assert relative(out.canvas, run.final) < 1e-4
    assert_same(before, snapshot(pipe))


def refused(family, pipe):
    """The sentence by which a family's pipeline is refused, at the latest when a run's steps are asked for."""
    with pytest.raises(ValueError) as caught:
        prior = wrapped(family, pipe)
        prior.told(request(family))
        prior.steps(6)  # some change in their second half only
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 320, message
    return message


@pytest.mark.parametrize("name", IRREGULAR)
def test_the_others_are_refused_in_one_sentence(name):
    family = AWKWARD[name]
    pipe = family.make()
    before = snapshot(pipe)
    assert AWKWARD_SAYS[name] in refused(family, pipe)
    assert_same(before, snapshot(pipe))


@pytest.mark.parametrize("name", [*UNKNOWN_RECIPES, *CHANGING])
def test_families_that_cannot_be_probed_are_refused_in_one_sentence(name, outcome):
    message = refused(FAMILIES[name], FAMILIES[name].make())
    assert UNKNOWN_RECIPES.get(name, "") in message
    outcome(name, sentence=message)


def test_what_is_no_exception_is_passed_on():
    pipe = AWKWARD["exiting"].make()
    before = snapshot(pipe)
    with pytest.raises(KeyboardInterrupt):
        wrapped(AWKWARD["exiting"], pipe)
    assert_same(before, snapshot(pipe))
