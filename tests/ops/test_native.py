"""The compiled extension against the references: numbers, threads, runs. Fails, not skips, where it is not built."""

import os

import op_cases
import pytest
import torch

from fastsync.ops import _ext, dispatch
from fastsync.ops.registry import OPS

CPU = tuple(name for name, op in OPS.items() if "cpu" in op.native)
pytestmark = pytest.mark.skipif(os.environ.get("FASTSYNC_BUILD") == "none", reason="FASTSYNC_BUILD=none")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def poison():
    """torch fills fresh memory with NaN, also where C++ asks for it, so that what an op does not write shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def flat(result):
    return result if isinstance(result, tuple) else (result,)


def test_the_extension_is_built_and_chosen():
    assert _ext.load() is not None, _ext.reason()
    assert set(OPS) - set(CPU) == {"scale_cotangent"}
    for op in CPU:
        assert dispatch.unavailable(op, "native", "cpu", torch.float32) == ""
        assert dispatch.choose(op, torch.zeros(1)) is getattr(_ext.load(), op) or os.environ.get("FASTSYNC_BACKEND")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", CPU)
@pytest.mark.parametrize("seed", [0, 1])
def test_numbers(op, dtype, seed):
    for arguments in op_cases.cases(op, dtype, "cpu", seed):
        op_cases.check(op, getattr(_ext.load(), op), arguments)


@pytest.mark.parametrize("op", CPU)
def test_the_same_bits_for_any_number_of_threads_and_in_every_run(op):
    for arguments in op_cases.cases(op, torch.float32, "cpu", 2):
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for _ in range(10):
                given = op_cases.copied(arguments)
                changed = tuple(given[i] for i in OPS[op].mutates)
                results.append(flat(getattr(_ext.load(), op)(*given)) + changed)
        for result in results[1:]:
            assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(result, results[0], strict=True))


def test_large_inputs_are_split_over_threads():
    # Larger than one thread's share, in every op; the cases above are not.
    torch.set_num_threads(3)
    generator = torch.Generator().manual_seed(0)
    x, source = torch.randn(2, 3, 2, 150, 170, generator=generator)[:, :, :, :150].unbind()
    place = torch.tensor([[1, 3, 40], [0, 0, -20], [-1, 0, 0]])
    op_cases.check("overlap_loss", _ext.load().overlap_loss, (x, source, place, None, None, [0, 0]))
    op_cases.check("overlap_loss", _ext.load().overlap_loss, (x, source, place, None, None, [0, 200]))
    y, states = (
        torch.randn(4, 3, 2, 150, 150, generator=generator),
        torch.rand(3, 3, 2, 150, 150, generator=generator).add(0.1),
    )
    a, b, s = torch.rand(3, 3, generator=generator, dtype=torch.float64).add(0.3).unbind()
    address = (source, place, None, None)
    op_cases.check("cfg_tweedie", _ext.load().cfg_tweedie, (y[0], y[1], y[2], a, b, s, "epsilon"))
    step = (y[0], y[1], a, b, s, y[2], a, y[3], *address, [0, 200])
    op_cases.check("ddim_step", _ext.load().ddim_step, step)
    control = (*y, y[0], None, *address, a, a, b, s, b, 1.3, 0.1, [0, 0], "v_prediction", True)
    op_cases.check("control_grad", _ext.load().control_grad, control)
    op_cases.check("control_update", _ext.load().control_update, (*states, y[0], s, y[1], y[2], 0, 0.1, 2.0))
    permutation = torch.randperm(150 * 170, generator=generator).reshape(1, 150, 170)
    op_cases.check("transform", _ext.load().transform, (x, permutation, None))
    origins = torch.tensor([[0, 0], [100, 120], [220, 190]])
    op_cases.check("accumulate", _ext.load().accumulate, (x, origins, [260, 300]))
    weights = torch.rand(1, 1, 150, 170, generator=generator)
    op_cases.check("merge", _ext.load().merge, (x, weights, origins, [260, 300], None))
    index = torch.randint(-3000, 64 * 64, (3, 150, 170, 4), generator=generator, dtype=torch.int32)
    weight = torch.rand(3, 150, 170, 4, generator=generator)
    z = torch.randn(1, 2, 64, 64, generator=generator)
    op_cases.check("resample", _ext.load().resample, (z, index, weight))
    table = _ext.load().sort_taps(index, weight, 64 * 64)
    confidence = torch.rand(3, 1, 150, 170, generator=generator)
    for form in ((None, None, None), table):
        op_cases.check("splat", _ext.load().splat, (x, index, weight, *form, [64, 64]))
        op_cases.check("uv_accumulate", _ext.load().uv_accumulate, (x, confidence, index, weight, *form, [64, 64]))


def test_results_larger_than_the_caches_are_written_past_them():
    x, source = torch.randn(2, 2, 3, 601, 599)
    assert x.nbytes > 8 * 2**20
    place = torch.tensor([[1, 3, 140], [0, -40, -20]])
    op_cases.check("overlap_loss", _ext.load().overlap_loss, (x, source, place, None, None, [0, 0]))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 7, 3)])
def test_sorted_taps_are_the_reference_s(shape):
    from fastsync.ops.taps import sort_reference

    generator = torch.Generator().manual_seed(1)
    index = torch.randint(-4, 11, shape, generator=generator, dtype=torch.int32)
    weight = torch.rand(shape, generator=generator)
    for mine, right in zip(_ext.load().sort_taps(index, weight, 11), sort_reference(index, weight, 11), strict=True):
        assert mine.dtype == right.dtype and torch.equal(mine, right)


def test_other_dtypes_are_refused_in_one_sentence():
    with pytest.raises(RuntimeError, match="x must be a float32 or float64 tensor on the CPU, got Half"):
        _ext.load().transform(torch.zeros(1, 1, 1, 1).half(), torch.zeros(1, 1, 1, dtype=torch.long), None)
