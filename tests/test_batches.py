"""Batches that adapt to the memory: halved when it is too small, with the same numbers and the same account."""

import pytest
import torch
from exact_priors import ddim, nonlinear, relative

import fastsync as fs

SHAPE = (2, 4, 6)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


def run(method, room=None, error=None, max_batch="auto", guided=False, **settings):
    """A network that has room for so many rows."""
    sizes = []

    def network(x, t, cond):
        if room is not None and len(x) > room:
            raise error
        sizes.append(len(x))
        return nonlinear(x, t, cond)

    prior = fs.FunctionPrior(network, ddim(steps_offset=1), SHAPE, dtype=torch.float64)
    cond = torch.sin(torch.arange(7 * 48, dtype=torch.float64)).reshape(7, *SHAPE)
    out = fs.sample(
        prior, fs.WideCanvas((4, 30), (4, 6), 4), method, cond=cond, uncond=cond[:1] if guided else None, eta=0.5,
        num_inference_steps=4, max_batch=max_batch, generator=torch.Generator().manual_seed(0), **settings,
    )  # fmt: skip
    return out, sizes


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "method", [fs.Independent(), fs.MultiDiffusion(), fs.SyncTweedies(), fs.SyncVC(iterations=2), fs.SyncSDE()]
)
def test_what_does_not_fit_is_halved(method, error):
    whole, _ = run(method)
    some, sizes = run(method, room=2, error=error)
    assert relative(some.canvas, whole.canvas) < 1e-10
    # What was asked before an attempt turned out too large is asked again, and counted once.
    assert some.stats.evaluations == whole.stats.evaluations <= sum(sizes)
    assert some.stats.gradients == whole.stats.gradients
    assert some.stats.max_batch <= 2 < whole.stats.max_batch <= 7
    assert max(sizes) <= 2


def test_guidance_doubles_the_rows():
    some, sizes = run(fs.MultiDiffusion(), room=4, error=ERRORS[0], guided=True)
    assert some.stats.max_batch == 2 and max(sizes) == 4


@pytest.mark.parametrize("room", [1, 2, 3])
def test_what_is_halved_is_not_padded_to_what_did_not_fit(room):
    whole, _ = run(fs.SyncVC(iterations=2))
    some, sizes = run(fs.SyncVC(iterations=2), room=room, error=ERRORS[0], fixed_batches=True)
    assert relative(some.canvas, whole.canvas) < 1e-10
    assert some.stats.max_batch <= room and max(sizes) <= room


@pytest.mark.parametrize("max_batch", [None, 3])
def test_only_when_asked(max_batch):
    with pytest.raises(torch.OutOfMemoryError):
        run(fs.Independent(), room=2, error=ERRORS[0], max_batch=max_batch)


def test_one_view_that_does_not_fit_and_other_errors_go_through():
    with pytest.raises(torch.OutOfMemoryError):
        run(fs.Independent(), room=0, error=ERRORS[0])
    with pytest.raises(RuntimeError, match="shapes"):
        run(fs.Independent(), room=2, error=RuntimeError("shapes do not fit"))
    with pytest.raises(ValueError, match="max_batch must be a whole number, 'auto' or None, got 'most'"):
        run(fs.Independent(), max_batch="most")


def test_what_fitted_is_remembered_for_the_network_and_the_method():
    sizes = []

    def network(x, t, cond):
        if len(x) > 2:
            raise ERRORS[0]
        sizes.append(len(x))
        return nonlinear(x, t, cond)

    prior = fs.FunctionPrior(network, ddim(steps_offset=1), SHAPE, dtype=torch.float64)
    common = {"cond": torch.zeros(1, *SHAPE, dtype=torch.float64), "num_inference_steps": 3, "max_batch": "auto"}
    canvas = fs.WideCanvas((4, 30), (4, 6), 4)
    first, second = (fs.sample(prior, canvas, fs.Independent(), fixed_batches=f, **common) for f in (False, True))
    assert first.stats.max_batch == second.stats.max_batch == 2
    # Nothing was tried again that had not fitted, and nothing is padded up to it: 2, 2, 2 and 1 views at each step.
    assert second.stats.calls == 3 * 4 and second.stats.padded == 0
    assert sizes[-12:] == [2, 2, 2, 1] * 3
    tried = fs.Independent()
    with pytest.raises(torch.OutOfMemoryError):
        fs.sample(prior, canvas, tried, **{**common, "max_batch": None})
