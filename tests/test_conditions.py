"""Conditions of several tensors: validated, gathered, split and padded as one tensor is."""

import pytest
import torch
from exact_priors import Counting, ddim, nonlinear, randn, relative

import fastsync as fs
from fastsync import conditions
from fastsync.sampling_checks import state_dtype as _state_dtype

SHAPE = (2, 4, 6)
VIEWS = 4
CANVAS = fs.WideCanvas((4, 18), (4, 6), 4)


def sampled(eps_fn, cond, uncond=None, method=None, **settings):
    prior = fs.FunctionPrior(eps_fn, ddim(steps_offset=1), SHAPE, dtype=torch.float64)
    return fs.sample(
        prior, CANVAS, method or fs.SyncVC(iterations=2), cond=cond, uncond=uncond, num_inference_steps=4,
        generator=torch.Generator().manual_seed(0), **settings,
    )  # fmt: skip


def of_two(x, t, cond):
    text, control = cond
    return nonlinear(x, t, text + control.flatten(1).sum(1).reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": "sequential"},
        {"max_batch": 2},
        {"max_batch": 3, "fixed_batches": True},
        {"method": fs.SyncVC(iterations=2, guidance_gradient="cond")},
        {"method": fs.MultiDiffusion(), "max_batch": 3, "fixed_batches": True},
        {"method": fs.StochSync(steps=3)},
    ],
    ids=lambda s: "-".join(map(str, s)) or "plain",
)
def test_a_tuple_is_what_its_members_make_of_it(settings, guided):
    text, control = 0.5 * randn(VIEWS, *SHAPE, seed=1), 0.1 * randn(VIEWS, 3, seed=2)
    text_uncond = 0.5 * randn(1, *SHAPE, seed=3)
    total = control.sum(1).reshape(-1, 1, 1, 1)
    one = sampled(nonlinear, text + total, text_uncond + total if guided else None, **settings)
    two = sampled(of_two, (text, control), (text_uncond, control) if guided else None, **settings)
    assert relative(two.views, one.views) < 1e-12
    assert vars(two.stats) | {"seconds": 0, "peak_memory": 0} == vars(one.stats) | {"seconds": 0, "peak_memory": 0}


def test_the_function_gets_the_tuple_with_both_halves_in_a_batch():
    counting = Counting(of_two)
    text, control = 0.5 * randn(1, *SHAPE), 0.1 * randn(VIEWS, 3)
    sampled(counting, (text, control), (-text, control), method=fs.Independent())
    _, seen = counting.seen[0]
    assert isinstance(seen, tuple) and [tuple(member.shape) for member in seen] == [(8, *SHAPE), (8, 3)]
    assert torch.equal(seen[0][:4], -text.expand(4, -1, -1, -1)) and torch.equal(seen[1], torch.cat([control] * 2))


def test_members_that_both_halves_share_are_computed_once_and_stay_shared():
    text, other, control = torch.zeros(1), torch.ones(1), torch.ones(2)
    calls = []
    cond, uncond = conditions.both(lambda m: calls.append(m) or m + 1, (text, control), (other, control))
    assert len(calls) == 3 and cond[1] is uncond[1] and torch.equal(cond[1], control + 1)
    assert conditions.both(torch.clone, text, None)[1] is None
    assert isinstance(conditions.both(torch.clone, text, other)[0], torch.Tensor)


def test_precision_is_that_of_the_finest_member():
    prior = fs.FunctionPrior(of_two, ddim(), SHAPE)
    half, whole = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    assert _state_dtype(prior, (half, whole), None) == torch.float64
    assert _state_dtype(prior, (half, half), None) == torch.float32


ones = torch.ones


@pytest.mark.parametrize(
    "cond, uncond, error, words",
    [
        ((ones(1, 5), ones(3, 5)), None, ValueError, ["cond[1]", "1", "4", "[3, 5]"]),
        ((ones(1, 5), "text"), None, TypeError, ["cond[1]", "str", "torch.as_tensor"]),
        ((), None, TypeError, ["cond", "tuple", "()"]),
        ([ones(1, 5), ones(1, 5)], None, TypeError, ["cond", "tuple", "pass e.g. (text, control)"]),
        ((ones(1, 5), ones(1, 2) / 0), None, ValueError, ["cond[1]", "infinite"]),
        ((ones(1, 5), ones(1, 2)), ones(1, 5), ValueError, ["same shape", "([5], [2]) and [5]"]),
        ((ones(1, 5),), ones(1, 5), ValueError, ["same shape", "([5]) and [5]"]),
        ((ones(1, 5), ones(1, 2)), (ones(1, 5), ones(1, 3)), ValueError, ["([5], [2]) and ([5], [3])"]),
        (None, (ones(1, 5), ones(1, 2)), ValueError, ["without cond"]),
    ],
)
def test_one_sentence_for_what_is_no_condition(cond, uncond, error, words):
    with pytest.raises(error) as caught:
        sampled(of_two, cond, uncond)
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message and len(message) < 300
