"""Triton kernels in Triton's interpreter, against the references; `tests/gpu` runs the compiled ones."""

import os
import subprocess
import sys
from pathlib import Path

import op_cases
import pytest
import torch

from fastsync.ops import dispatch
from fastsync.ops.registry import OPS
from fastsync.ops.samples import lay_out
from fastsync.ops.taps import sort_reference

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("Triton compiles where there is a GPU: tests/gpu runs these cases there", allow_module_level=True)

from fastsync.kernels import _tiles, control_grad, control_update, ddim_step, overlap_loss  # noqa: E402

TESTS = Path(__file__).parent.parent
TRITON = [name for name, op in OPS.items() if op.triton]


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Fresh memory holds NaN, so that what a kernel does not write shows."""
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *size, **kind: nans(empty(*size, **kind)))
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **kind: nans(empty_like(tensor, **kind)))


def nans(tensor):
    return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor


def kernel(op):
    return dispatch.kernel(op, "triton")


def test_every_op_but_one_has_a_kernel_that_runs_here():
    runs = [op for op in OPS if not dispatch.unavailable(op, "triton", "cpu", torch.float32, forced=True)]
    assert runs == TRITON and set(OPS) - set(runs) == {"uv_accumulate"}


@pytest.mark.parametrize("op", TRITON)
def test_kernels_compute_what_the_references_say(op):
    for arguments in op_cases.cases(op, torch.float32, "cpu", 0):
        op_cases.check(op, kernel(op), arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", TRITON)
def test_half_types_are_computed_in_float32(op, dtype):
    # Every third case: over both dtypes each kind of neighbour and layout comes about.
    for arguments in op_cases.cases(op, dtype, "cpu", 1)[dtype == torch.float16 :: 3]:
        op_cases.check(op, kernel(op), arguments)


@pytest.mark.parametrize("op", TRITON)
def test_nan_comes_through_where_the_reference_lets_it(op):
    for arguments in op_cases.cases(op, torch.float32, "cpu", 2)[:9:2]:
        state = next(a for a in arguments if isinstance(a, torch.Tensor) and a.ndim == 4 and a.is_floating_point())
        state[..., ::3, 0] = float("nan")
        op_cases.check(op, kernel(op), arguments)


@pytest.mark.parametrize("op", TRITON)
def test_the_self_test_of_the_doctor_runs_them(op):
    assert dispatch.self_test(op, "triton").startswith("cpu ")


ROWS = [(1, 2, 3, 701), (2, 1, 97, 1), (1, 67, 31, 1), (1, 1, 2, 2501)]  # longer than a tile, or many of them
REDUCING = ("overlap_loss", "control_grad")
ELEMENTWISE = ("cfg_tweedie", "ddim_step", "control_update", "scale_cotangent")


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("op", REDUCING + ELEMENTWISE)
def test_sizes_that_need_many_tiles(op, shape):
    for arguments in op_cases.cases(op, torch.float32, "cpu", 2, shapes=[shape])[:8]:
        op_cases.check(op, kernel(op), arguments)


@pytest.mark.parametrize("shape", [(2, 3, 151, 149), (1, 1, 2, 33_001)])
@pytest.mark.parametrize("op", REDUCING)
def test_views_too_large_for_one_program_are_reduced_in_parts(op, shape):
    for dtype in (torch.float32, torch.bfloat16):
        op_cases.check(op, kernel(op), op_cases.cases(op, dtype, "cpu", 2, shapes=[shape])[2])


@pytest.mark.parametrize("reduces", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_tiles_cover_each_cell_once(flat, reduces):
    sizes = [(c, h, w) for c in (1, 3, 4, 9) for h in (1, 2, 37, 64) for w in (1, 5, 64, 257, 600)]
    for size in [*sizes, (1, 1, 70_001), (3, 300, 301), (4, 4099, 3)]:
        p = _tiles.plan(*size, flat, reduces)
        channels, height, width = p.shape
        row = torch.arange(p.blocks * p.rounds)[:, None, None] // p.across * p.ROWS + torch.arange(p.ROWS)[:, None]
        column = torch.arange(p.blocks * p.rounds)[:, None, None] % p.across * p.COLUMNS + torch.arange(p.COLUMNS)
        live = (row < channels * height) & (column < width)
        visits = torch.bincount((row * width + column)[live], minlength=size[0] * size[1] * size[2])
        assert bool((visits == 1).all()), size
        assert p.blocks == 1 or not reduces or size[0] * size[1] * size[2] > _tiles.WHOLE_VIEW


def neighbours(batch, shape, **changes):
    x, source = torch.randn(batch, *shape), torch.randn(batch, *shape)
    address = {"place": torch.tensor([[i, 0, 1] for i in range(batch)]), "index": None, "mask": None, "period": [0, 0]}
    return x, source, *(address | changes).values()


@pytest.mark.parametrize("shape", [(2, 4, 6), (3, 151, 149)])
def test_nan_and_inf_stay_with_their_view(shape):
    x, *address = neighbours(3, shape)
    x[1, 0, 2, 3] = float("nan")
    loss, gradient = overlap_loss.overlap_loss(x, *address)
    assert loss.isnan().tolist() == [False, True, False] and int(gradient.isnan().sum()) == 1
    ones, zeros = torch.ones(3, dtype=torch.float64), torch.zeros(3, *shape)
    overlap_gradient = torch.zeros(3, *shape)
    overlap_gradient[0, 1, 1, 1], overlap_gradient[2, 0, -1, -1] = -float("inf"), float("nan")
    states = (zeros, zeros, zeros, zeros, overlap_gradient, None)
    numbers = (0 * ones, ones, ones, 3 * ones, ones, 1.0, 0.0, [0, 0], "epsilon", True)
    peak = control_grad.control_grad(*states, *address[:4], *numbers)[3]
    assert peak.isinf().tolist() == [True, False, False] and peak.isnan().tolist() == [False, False, True]


def test_nothing_outside_is_read():
    nan = torch.full((1, 2, 4, 6), float("nan"))
    for place in ([-1, 0, 0], [0, 4, 0], [0, 0, -6], [0, 1 << 60, 0], [0, 0, -(1 << 60)]):
        loss, gradient = overlap_loss.overlap_loss(nan, nan, torch.tensor([place]), None, None, [0, 0])
        assert float(loss) == 0.0 and not bool(gradient.any())


def test_pools_beyond_int32_are_addressed_alike(monkeypatch):
    cases = [
        arguments for arguments in op_cases.cases("overlap_loss", torch.float32, "cpu", 3) if arguments[3] is not None
    ]
    for module in (overlap_loss, ddim_step, control_grad):
        monkeypatch.setattr(module, "wide", lambda source: True)
    for arguments in cases:
        op_cases.check("overlap_loss", overlap_loss.overlap_loss, arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_coefficients_may_be_expanded_and_of_any_float_dtype(dtype):
    x = torch.randn(3, 2, 4, 5)
    half, two = torch.tensor([0.5], dtype=dtype).expand(3), torch.tensor([2.0], dtype=dtype).expand(3)
    arguments = (x, 2 * x, -x, half, half, two, "v_prediction")
    for mine, right in zip(kernel("cfg_tweedie")(*arguments), OPS["cfg_tweedie"].reference(*arguments), strict=True):
        assert torch.allclose(mine, right, rtol=1e-5, atol=1e-6)


def test_adam_moves_states_of_any_layout_in_place():
    wide = torch.randn(2, 3, 5, 14)
    given = [lay_out(wide[..., :7], "strided") for _ in range(3)]
    given[2].square_()
    rest = (wide[..., 7:], None, wide[..., :7], wide[..., :7], 1, 0.1, 1.0)
    held = [t.clone() for t in given]
    moved = control_update.control_update(*given, *rest)
    expected = OPS["control_update"].reference(*held, *rest)
    for mine, right in zip((moved, *given), (expected, *held), strict=True):
        assert torch.allclose(mine, right, rtol=1e-5, atol=1e-6)


def test_windows_wrap_from_either_side_and_weightless_cells_are_kept():
    views, weights = torch.randn(3, 11, 3, 5), torch.rand(3, 1, 3, 5)
    origins = torch.tensor([[-1, -4], [13, 22], [0, -700]])
    op_cases.check("accumulate", kernel("accumulate"), (views, origins, [6, 9]))
    op_cases.check("merge", kernel("merge"), (views, weights, origins, [6, 9], torch.randn(1, 11, 6, 9)))
    # A canvas row of more than one block of cells.
    op_cases.check("merge", kernel("merge"), (views, weights, origins, [4, 300], None))


def test_many_channels_are_gone_through_in_chunks():
    index, weight = torch.randint(-1, 30, (2, 4, 3, 2)).int(), torch.rand(2, 4, 3, 2)
    op_cases.check("resample", kernel("resample"), (torch.randn(1, 19, 5, 6), index, weight))
    order = sort_reference(index, weight, 30)
    for csr in ((None, None, None), order):
        op_cases.check("splat", kernel("splat"), (torch.randn(2, 19, 4, 3), index, weight, *csr, [5, 6]))


@pytest.mark.parametrize("op", ["overlap_loss", "control_grad", "cfg_tweedie", "ddim_step"])
def test_no_views_make_no_result(op):
    for arguments in op_cases.cases(op, torch.float32, "cpu", 0)[:2]:
        batch = len(arguments[OPS[op].dispatch_on])
        none = [a[:0] if isinstance(a, torch.Tensor) and len(a) == batch else a for a in arguments]
        outputs = kernel(op)(*none)
        assert all(len(out) == 0 for out in (outputs if isinstance(outputs, tuple) else (outputs,)))


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_there():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    script = [sys.executable, str(TESTS / "compile_kernels.py"), "90"]
    result = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    assert [line.split()[0] for line in result.stdout.splitlines()] == TRITON
