"""Compiled kernels on a CUDA device: values, launches, determinism, host synchronisation, sizes beyond int32."""

import op_cases
import pytest
import torch

from fastsync import ops
from fastsync.ops import _ext, dispatch
from fastsync.ops.registry import OPS
from fastsync.ops.samples import Draw

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

TRITON = [name for name, op in OPS.items() if op.triton]
NATIVE = [name for name, op in OPS.items() if "cuda" in op.native]
HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALF)
LARGE = ((2, 3, 151, 149), (1, 1, 2, 33_001), (1, 2, 3, 701), (3, 4, 128, 128), (1, 3, 511, 513))


def kernel(op):
    reason = dispatch.unavailable(op, "triton", "cuda", torch.float32)
    assert not reason, reason
    return dispatch.kernel(op, "triton")


def native(op):
    reason = dispatch.unavailable(op, "native", "cuda", torch.float32)
    if reason:
        pytest.skip(f"{reason} ({_ext.reason()})")
    return dispatch.kernel(op, "native")


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Fresh memory holds NaN, so that what a kernel does not write shows."""
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *size, **kind: nans(empty(*size, **kind)))
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **kind: nans(empty_like(tensor, **kind)))


def nans(tensor):
    return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", TRITON)
def test_kernels_compute_what_the_references_say(op, dtype):
    for arguments in op_cases.cases(op, dtype, "cuda", 0):
        op_cases.check(op, kernel(op), arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize(
    "op",
    ["cfg_tweedie", "ddim_step", "overlap_loss", "control_grad", "scale_cotangent", "control_update", "transform"],
)
def test_large_views(op, shape, dtype):
    if op == "control_grad" and dtype == torch.float16:
        pytest.skip("its loss is in the views' dtype, and such sums overflow float16")
    for arguments in op_cases.cases(op, dtype, "cuda", 1, shapes=[shape]):
        op_cases.check(op, kernel(op), arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["accumulate", "merge", "resample", "splat"])
def test_large_canvases(op, dtype):
    windows = [((3, 128, 128), (128, 700), [(0, 64 * i) for i in range(11)])]
    tables = [(4, (257, 255), (300, 310), 4, 3)]
    for arguments in op_cases.cases(op, dtype, "cuda", 1, windows=windows, tables=tables):
        op_cases.check(op, kernel(op), arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", NATIVE)
def test_native_forms(op, dtype):
    for arguments in op_cases.cases(op, dtype, "cuda", 0):
        op_cases.check(op, native(op), arguments)


@pytest.mark.parametrize("op", TRITON)
def test_nan_comes_through_where_the_reference_lets_it(op):
    for arguments in op_cases.cases(op, torch.float32, "cuda", 2)[:9]:
        state = next(a for a in arguments if isinstance(a, torch.Tensor) and a.ndim == 4 and a.is_floating_point())
        state[..., ::3, 0] = float("nan")
        op_cases.check(op, kernel(op), arguments)


def outputs(op, function, arguments):
    given = op_cases.copied(arguments)
    got = function(*given)
    results = (got,) if isinstance(got, torch.Tensor) else tuple(got)
    return results + tuple(given[i] for i in OPS[op].mutates)


@pytest.mark.parametrize(("op", "backend"), [(op, "triton") for op in TRITON] + [(op, "native") for op in NATIVE])
def test_ten_runs_give_the_same_bits(op, backend):
    function = kernel(op) if backend == "triton" else native(op)
    cases = op_cases.cases(op, torch.float32, "cuda", 3, shapes=LARGE[:1])
    if op in ("splat", "uv_accumulate"):  # the atomic form promises nothing
        cases = [arguments for arguments in cases if arguments[-2] is not None]
    for arguments in cases[:6]:
        first = outputs(op, function, arguments)
        for _ in range(9):
            again = outputs(op, function, arguments)
            assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("op", TRITON)
def test_the_host_never_waits(op):
    function, cases = kernel(op), op_cases.cases(op, torch.float32, "cuda", 4)[:6]
    for arguments in cases:  # compiling may wait
        function(*op_cases.copied(arguments))
    copies = [op_cases.copied(arguments) for arguments in cases]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for arguments in copies:
            function(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def control_iteration(shape, half=False):
    """One iteration of SyncVC outside the network (in float16 if half), on B views of C, h, w."""
    batch = shape[0]
    draw = Draw(torch.float32, "cuda", 0)
    raw, uncond, x, eps_free, control, first, vjp = (draw.normal(*shape) for _ in range(7))
    second, pool, clean = draw.normal(*shape).square(), draw.normal(*shape), draw.normal(*shape)
    a, b, guidance, coupling, kl = (draw.uniform(batch, low=0.3) for _ in range(5))
    if half:
        raw, uncond, vjp = raw.half(), uncond.half(), vjp.half()
    place = torch.tensor([[i, 0, shape[3] // 2] for i in range(batch)], device="cuda")

    def iterate():
        x0, eps = ops.cfg_tweedie(raw, uncond, x, a, b, guidance, "epsilon")
        loss, gradient = ops.overlap_loss(x0, clean, place)
        states = (x, eps, eps_free, control, gradient, None, pool, place, None, None)
        numbers = (coupling, a, b, guidance, kl, 1.0, 0.0, (0, 0), "epsilon", True)
        _, cotangent, direct, peak = ops.control_grad(*states, *numbers)
        if half:
            ops.scale_cotangent(cotangent, peak, torch.float16)
        scale = peak if half else None
        return ops.control_update(control, first, second, vjp, scale, direct, x, 0, 0.02, 1.0)

    return iterate


def launches(function):
    function()
    torch.cuda.synchronize()
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        function()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shape", [(5, 4, 64, 64), (25, 4, 64, 64), (7, 4, 128, 128)])
def test_a_control_iteration_is_at_most_five_launches(shape, half, monkeypatch):
    monkeypatch.undo()  # filling memory with NaN launches kernels too
    names = launches(control_iteration(shape, half))
    assert len(names) == (5 if half else 4), names


@pytest.mark.parametrize(
    "op",
    ["cfg_tweedie", "ddim_step", "scale_cotangent", "control_update", "transform", "overlap_loss", "control_grad"],
)
def test_one_launch_an_op(op, monkeypatch):
    monkeypatch.undo()
    arguments = op_cases.cases(op, torch.float32, "cuda", 0, shapes=[(5, 4, 64, 64)])[0]
    names = launches(lambda: kernel(op)(*arguments))
    assert len(names) == 1, names


def test_a_control_iteration_can_be_captured_in_a_graph(monkeypatch):
    monkeypatch.undo()
    iterate = control_iteration((5, 4, 64, 64))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        iterate()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        moved = iterate()
    graph.replay()
    torch.cuda.synchronize()
    assert bool(moved.isfinite().all())


def test_canvases_beyond_int32(monkeypatch):
    monkeypatch.undo()
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    size = [46_342, 46_342]  # 2^31 cells and a few
    views = torch.randn(2, 1, 8, 8, device="cuda", dtype=torch.float16)
    origins = torch.tensor([[0, 0], [size[0] - 8, size[1] - 8]], device="cuda")
    canvas = kernel("accumulate")(views, origins, size)
    assert torch.equal(canvas[0, 0, -8:, -8:], views[1, 0]) and torch.equal(canvas[0, 0, :8, :8], views[0, 0])
    one = torch.ones(1, device="cuda")
    half = kernel("ddim_step")(canvas, canvas, 0.5 * one, 0 * one, one, *[None] * 7, [0, 0])
    assert torch.equal(half[0, 0, -8:, -8:], 0.5 * views[1, 0])
    del half
    place = torch.zeros(1, 3, dtype=torch.int64, device="cuda")
    loss, _ = kernel("overlap_loss")(canvas, torch.zeros(1, 1, 8, 8, device="cuda"), place, None, None, [0, 0])
    assert torch.allclose(loss[0], views[0].float().square().sum(), rtol=1e-3)
    index = torch.tensor([[[size[0] * size[1] - 1, -1]]], device="cuda")
    assert torch.equal(kernel("transform")(canvas, index, None)[0, 0, 0, :1], views[1, 0, -1, -1:])
