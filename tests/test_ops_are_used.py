"""The sampler's formulas live in the ops: a run goes through them, and computes nothing beside them."""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from exact_priors import ddim, nonlinear, randn
from torch.utils._python_dispatch import TorchDispatchMode

import fastsync as fs
from fastsync.ops import dispatch

METHODS = {
    "independent": fs.Independent,
    "multidiffusion": fs.MultiDiffusion,
    "synctweedies": fs.SyncTweedies,
    "syncsde": fs.SyncSDE,
    "syncvc": lambda: fs.SyncVC(iterations=2),
}
STEPS, VIEWS = 3, 3


def run(name, eps_fn=nonlinear, watch=None, dtype=torch.float64):
    canvas = fs.WideCanvas((4, 14), (4, 6), 4)
    prior = fs.FunctionPrior(eps_fn, ddim(steps_offset=1), (2, 4, 6), dtype=dtype)
    cond, uncond = 0.5 * randn(VIEWS, 2, 4, 6, seed=1), 0.5 * randn(1, 2, 4, 6, seed=2)
    with watch or nullcontext():
        fs.sample(
            prior, canvas, METHODS[name](), cond=cond, uncond=uncond, guidance_scale=2.0, num_inference_steps=STEPS,
            latents=randn(1, 2, 4, 14, seed=3), eta=0.5, generator=torch.Generator().manual_seed(0), order="sequential",
        )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_run_goes_through_the_ops(name, monkeypatch):
    used, choose = Counter(), dispatch.choose

    def spy(op, tensor):
        used[op] += 1
        return choose(op, tensor)

    monkeypatch.setattr(dispatch, "choose", spy)
    run(name)
    network = STEPS * VIEWS
    controls = STEPS * (VIEWS - 1) * 2 if name == "syncvc" else 0
    merged = STEPS if name == "synctweedies" else 0
    assert used["cfg_tweedie"] == network + controls + merged
    assert used["ddim_step"] == (STEPS if merged else network)
    assert used["overlap_loss"] == used["control_grad"] == used["control_update"] == controls
    assert used["merge"] == {"independent": 1, "multidiffusion": STEPS + 1, "synctweedies": STEPS + 1}.get(name, 0)


def test_cotangents_of_half_precision_are_scaled_by_an_op(monkeypatch):
    used, choose = Counter(), dispatch.choose
    monkeypatch.setattr(dispatch, "choose", lambda op, tensor: used.update([op]) or choose(op, tensor))
    run("syncvc", lambda x, t, c: torch.tanh(x.half()), dtype=torch.float16)
    assert used["scale_cotangent"] == used["control_update"] == STEPS * (VIEWS - 1) * 2


class Arithmetic(TorchDispatchMode):
    """Counts what ATen computes on whole views outside the ops and the network."""

    names = ("add", "sub", "mul", "div", "sqrt", "addcmul", "addcdiv", "lerp", "pow", "sum", "mean", "where")

    def __init__(self):
        super().__init__()
        self.found, self.inside = Counter(), 0

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        name = function._schema.name
        tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
        if name.startswith("fastsync::"):
            self.inside += 1
            try:
                return function(*arguments, **(kwargs or {}))
            finally:
                self.inside -= 1
        stem = name.removeprefix("aten::").rstrip("_")
        if not self.inside and stem in self.names and any(t.is_floating_point() and t.ndim == 4 for t in tensors):
            self.found[stem] += 1
        return function(*arguments, **(kwargs or {}))


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_computed_beside_them(name):
    watch = Arithmetic()
    run(name, lambda x, t, c: torch.tanh(x), watch)  # a network of no counted function
    # The backward of guidance's two halves ends where both began: one sum a control iteration, the network's own.
    assert watch.found == Counter(add=STEPS * (VIEWS - 1) * 2 if name == "syncvc" else 0), watch.found
