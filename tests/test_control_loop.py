"""What a control's iteration launches beside the network, and where the host waits: counted."""

from collections import Counter

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from exact_priors import ddim, randn
from torch.utils._python_dispatch import TorchDispatchMode

import fastsync as fs
from bench.memory import peak_of

WAITS = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::equal")


class Launches(TorchDispatchMode):
    """Counts what would be launched on a GPU: everything that computes or copies; ours count as one each."""

    def __init__(self):
        super().__init__()
        self.found, self.inside = Counter(), 0

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        name = function._schema.name
        ours = name.startswith("fastsync::")
        returns = function._schema.returns
        is_view = returns and returns[0].alias_info is not None and not returns[0].alias_info.is_write
        # torch.tensor(...) lifts what it has made on the host, which is counted where it is sent to a device.
        if not self.inside and not is_view and name != "aten::lift_fresh":
            self.found[name] += 1
        self.inside += ours
        try:
            return function(*arguments, **(kwargs or {}))
        finally:
            self.inside -= ours


def network(x, t, cond):
    """One launch forward, one back."""
    return 0.1 * x


def launched(method, steps=3, views=3, order="wavefront", guided=True, half=False, scheduler=None, guidance=2.0):
    prior = fs.FunctionPrior(
        network, scheduler or ddim(steps_offset=1), (2, 4, 6), dtype=torch.half if half else torch.float32
    )
    cond = randn(views, 2, 4, 6, seed=1).float()
    canvas = fs.WideCanvas((4, 4 * views + 2), (4, 6), 4)
    with Launches() as launches:
        fs.sample(
            prior, canvas, method, cond=cond, uncond=cond[:1] if guided else None, guidance_scale=guidance,
            num_inference_steps=steps, latents=randn(1, 2, *canvas.size, seed=3).float(), order=order,
        )  # fmt: skip
    return launches.found


def counts(iterations, steps=3, views=3, order="wavefront", guided=True, half=False, **settings):
    return launched(fs.SyncVC(iterations=iterations, **settings), steps, views, order, guided, half)


def an_iteration(**setting):
    """Launches that one more iteration adds to a batch."""
    few, many = counts(2, **setting), counts(6, **setting)
    batches = (many["fastsync::control_grad"] - few["fastsync::control_grad"]) / 4
    return {name: (many[name] - few[name]) / 4 / batches for name in many if many[name] != few[name]}


NETWORK = {"aten::mul": 2.0}
FUSED = {f"fastsync::{op}": 1.0 for op in ("cfg_tweedie", "overlap_loss", "control_grad", "control_update")}
# Guidance's two halves share a batch: one launch puts them there, autograd's sum takes the way back.
HALVES = {"aten::cat": 1.0, "aten::add": 1.0}


@pytest.mark.parametrize(
    "setting",
    [{}, {"steps": 7}, {"views": 7}, {"order": "sequential"}, {"inv_lambda": 0.0}, {"kl_scheme": "ddim"}],
    ids=str,
)
def test_an_iteration_is_four_launches_beside_the_network_and_its_batch(setting):
    assert an_iteration(**setting) == {**NETWORK, **FUSED, **HALVES}


def test_without_guidance_it_is_four():
    assert an_iteration(guided=False) == {**NETWORK, **FUSED}


def test_half_precision_adds_the_scaling_and_the_casts_of_what_goes_in_and_comes_back():
    casts = {"aten::_to_copy": 2.0, "fastsync::scale_cotangent": 1.0}
    assert an_iteration(half=True) == {**NETWORK, **FUSED, **HALVES, **casts}


@pytest.mark.parametrize("order", ["wavefront", "sequential"])
def test_the_host_does_not_wait_inside_the_loop(order):
    few, many = counts(2, order=order), counts(6, order=order)
    assert {name: few[name] for name in WAITS} == {name: many[name] for name in WAITS}


def test_the_host_waits_once_a_batch():
    few, many = (sum(counts(2, steps=steps)[name] for name in WAITS) for steps in (3, 9))
    # A wavefront of six steps more has six batches more, each with one look at whether its controls are finite.
    assert many - few == 6


LOOKING_BACK = DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2)


@pytest.mark.parametrize(
    "setting",
    [
        {"scheduler": LOOKING_BACK},
        {"guidance": fs.Guidance(2.0, interval=(0.25, 0.75))},
        {"guidance": fs.Guidance(2.0, rescale=0.5, interval=(0.25, 0.75))},
    ],
    ids=["a solver that looks back", "an interval of guidance", "rescaled guidance"],
)
@pytest.mark.parametrize(
    "method",
    [fs.SyncVC(iterations=2), fs.SyncSDE(), fs.MultiDiffusion(), fs.SyncTweedies()],
    ids=lambda method: type(method).__name__,
)
def test_solvers_and_guidance_make_the_host_wait_no_more_often(method, setting):
    def waits_a_step(**setting):
        order = method.orders[0]
        few, many = (sum(launched(method, n, order=order, **setting)[name] for name in WAITS) for n in (20, 24))
        return (many - few) / 4

    assert waits_a_step(**setting) == waits_a_step() == isinstance(method, fs.SyncVC)


@pytest.mark.parametrize("order", ["wavefront", "sequential"])
def test_what_is_alive_at_once_does_not_grow_with_the_steps(order):
    canvas = fs.WideCanvas((32, 80), (32, 32), 24)
    z = randn(1, 4, *canvas.size, seed=3).float()

    def peak(steps):
        prior = fs.FunctionPrior(network, ddim(steps_offset=1), (4, 32, 32))
        return peak_of(
            lambda: fs.sample(
                prior, canvas, fs.SyncVC(iterations=2), num_inference_steps=steps, latents=z, order=order, eta=0.5
            )
        )

    # Coefficients are some numbers a step; a state of a view is 16 KiB.
    assert abs(peak(14) - peak(7)) < 8192
