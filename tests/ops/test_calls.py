"""Ops go through torch.library where something has to see the call, and past it elsewhere."""

from dataclasses import replace

import op_cases
import pytest
import torch
from exact_priors import randn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from fastsync import ops
from fastsync.ops import dispatch


@pytest.fixture
def registered(monkeypatch):
    """The names of ops that went through torch.library."""
    seen, call = [], dispatch.call

    def spy(op, *arguments):
        watched = replace(op, registered=lambda *given: seen.append(op.name) or op.registered(*given))
        return call(watched, *arguments)

    monkeypatch.setattr(dispatch, "call", spy)
    return seen


def transform(x):
    return ops.transform(x, torch.arange(20).reshape(1, 4, 5).flip(1))


def test_a_plain_call_goes_past_it(registered):
    x = randn(2, 3, 4, 5)
    assert torch.equal(transform(x), x.flip(2))
    with torch.no_grad():
        transform(x.requires_grad_())
    assert registered == []


def test_gradients_are_recorded(registered):
    x = randn(2, 3, 4, 5).requires_grad_()
    (g,) = torch.autograd.grad(transform(x).square().sum(), x)
    assert torch.equal(g, 2 * x) and registered[0] == "transform"


def test_modes_subclasses_and_transforms_see_the_op(registered):
    class Watch(TorchDispatchMode):
        names = ()

        def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
            self.names += (function._schema.name,)
            return function(*arguments, **(kwargs or {}))

    x = randn(2, 3, 4, 5)
    with Watch() as watch:
        transform(x)
    assert "fastsync::transform" in watch.names
    assert "fastsync.transform" in make_fx(transform)(x).code
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        assert transform(fake).shape == x.shape
    assert torch.equal(torch.compile(transform, backend="eager", fullgraph=True)(x), x.flip(2))
    assert registered.count("transform") >= 3


def test_autograd_notices_what_is_changed_in_place():
    arguments = op_cases.cases("control_update", torch.float32, "cpu", 0)[0]
    control, factor = arguments[0], torch.ones((), requires_grad=True)
    saved = control * factor  # remembers the control
    ops.control_update(*arguments)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()
