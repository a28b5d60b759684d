"""Awkward pipelines: replayed where their steps are alike, refused in one sentence where they are not, never harmed."""

import contextlib
from functools import partial

import pytest
import torch
from exact_priors import relative
from families import FAMILIES
from families.asking import one_window, request, wrapped
from families.awkward import AWKWARD
from families.expected import AWKWARD_SAYS, UNKNOWN_RECIPES
from families.running import own_run, spied
from families.state import assert_same, snapshot

from fastsync import priors
from fastsync.priors.reentry import ReenteredPrior

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
        final = one_window(prior, told, run, 4)
    assert relative(final, run.final) < 1e-4
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
def test_families_that_cannot_be_probed_are_entered_again_or_refused(name, outcome):
    family, steps = FAMILIES[name], max(FAMILIES[name].steps, 6)
    pipe = family.make()
    assert UNKNOWN_RECIPES.get(name, "") in refused(family, pipe)
    try:
        prior = wrapped(family, pipe, by=partial(priors.wrap, num_inference_steps=steps))
        told = prior.told(request(family))
        prior.steps(steps)
    except ValueError as error:
        message = str(error)
        assert message and "\n" not in message and len(message) < 320, message
        outcome(name, sentence=message)
        return
    assert isinstance(prior, ReenteredPrior)
    run = own_run(name, steps=steps)
    assert relative(one_window(prior, told, run, steps), prior.layout.unpacked(run.final)) < 1e-4
    outcome(name, scheduler="its own", way="re-entry")


def test_what_is_no_exception_is_passed_on():
    pipe = AWKWARD["exiting"].make()
    before = snapshot(pipe)
    with pytest.raises(KeyboardInterrupt):
        wrapped(AWKWARD["exiting"], pipe)
    assert_same(before, snapshot(pipe))
