import importlib
import types
import warnings

import pytest
import torch

from fastsync import ops
from fastsync.ops import _ext, dispatch
from fastsync.ops.accumulate import merge_reference

X = torch.zeros(1, 1, 2, 2)


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """No choice and no warning of an earlier test is remembered."""
    monkeypatch.delenv("FASTSYNC_BACKEND", raising=False)
    monkeypatch.setattr(dispatch, "_warned", set())
    for cached in (dispatch._choose, dispatch._missing):
        cached.cache_clear()
    yield
    for cached in (dispatch._choose, dispatch._missing):
        cached.cache_clear()


def extension(monkeypatch, **functions):
    """A made-up fastsync._C, or none with its reason."""
    module = types.SimpleNamespace(with_cuda=False, **functions) if functions else None
    monkeypatch.setattr(_ext, "load", lambda: module)
    monkeypatch.setattr(_ext, "reason", lambda: "" if module else "it is not built: build it")
    return module


def pick(op="merge", device="cpu", dtype=torch.float32, wish=""):
    return dispatch._choose(op, device, dtype, wish)


def test_cpu_takes_native_where_it_is(monkeypatch):
    native = extension(monkeypatch, merge=object())
    assert pick() is native.merge and pick(dtype=torch.float64) is native.merge
    # Half types, and ops without a native form, go to the reference, without a word.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pick(dtype=torch.float16) is merge_reference
        assert pick("scale_cotangent") is dispatch.kernel("scale_cotangent", "eager")


def test_a_missing_backend_is_named_once_with_the_mend(monkeypatch):
    extension(monkeypatch)
    with pytest.warns(RuntimeWarning, match="runs slower than it could on cpu: it is not built: build it") as caught:
        for op in ("merge", "accumulate", "splat"):
            for _ in range(3):
                assert pick(op) is dispatch.kernel(op, "eager")
    assert len(caught) == 1


def test_an_extension_of_another_version_is_not_trusted(monkeypatch):
    extension(monkeypatch, merge=object())
    with pytest.warns(RuntimeWarning, match="fastsync._C has no splat, it is of another version: install"):
        assert pick("splat") is dispatch.kernel("splat", "eager")


def test_cuda_prefers_triton_and_for_scatters_native(monkeypatch):
    native = extension(monkeypatch, splat=object(), uv_accumulate=object())
    triton = types.SimpleNamespace(merge=object(), splat=object())
    imported = importlib.import_module
    fakes = {"fastsync.kernels.merge": triton, "fastsync.kernels.resample": triton}
    monkeypatch.setattr(dispatch.importlib, "import_module", lambda name: fakes.get(name) or imported(name))
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: True)
    with pytest.warns(RuntimeWarning, match="built without CUDA: install fastsync with FASTSYNC_BUILD=cuda") as caught:
        assert pick("splat", "cuda") is triton.splat
        assert pick("uv_accumulate", "cuda") is dispatch.kernel("uv_accumulate", "eager")
    assert len(caught) == 1
    dispatch._choose.cache_clear(), dispatch._missing.cache_clear()
    native.with_cuda = True
    assert pick("splat", "cuda") is native.splat and pick("uv_accumulate", "cuda") is native.uv_accumulate
    assert pick("merge", "cuda") is triton.merge
    for op in ("splat", "merge"):
        assert pick(op, "cuda", torch.float64) is dispatch.kernel(op, "eager")


def test_triton_that_is_missing_or_broken_is_named(monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    with pytest.warns(RuntimeWarning, match="on cuda: Triton is not installed: pip install 'fastsync"):
        assert pick("merge", "cuda") is merge_reference
    dispatch._choose.cache_clear(), dispatch._missing.cache_clear()
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(dispatch.importlib, "import_module", lambda name: (_ for _ in ()).throw(OSError("no ptxas")))
    assert "fastsync.kernels.merge does not load (no ptxas)" in dispatch.unavailable("merge", "triton", "cuda", X.dtype)


def test_a_forced_backend_runs_or_says_why_not(monkeypatch):
    native = extension(monkeypatch, merge=object())
    assert pick(wish="eager") is merge_reference and pick(wish="native") is native.merge
    message = "FASTSYNC_BACKEND=native is not possible for merge on cpu in torch.float16: .* unset FASTSYNC_BACKEND"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        for _ in range(3):
            assert pick(dtype=torch.float16, wish="native") is merge_reference
    assert len(caught) == 1
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.warns(RuntimeWarning, match="Triton only interprets on a CPU, for tests: set TRITON_INTERPRET=1"):
        assert pick(wish="triton") is native.merge
    with pytest.raises(ValueError, match="FASTSYNC_BACKEND must be one of eager, triton, native, got 'cuda'"):
        pick(wish="cuda")


def test_the_environment_is_read_at_each_call(monkeypatch):
    native = extension(monkeypatch, merge=object())
    assert dispatch.choose("merge", X) is native.merge
    monkeypatch.setenv("FASTSYNC_BACKEND", "eager")
    assert dispatch.choose("merge", X) is merge_reference
    monkeypatch.delenv("FASTSYNC_BACKEND")
    assert dispatch.choose("merge", X) is native.merge


def test_ops_run_what_dispatch_chooses(monkeypatch):
    def spy(views, origins, size):
        return torch.full((1, 1, *size), 3.0)

    monkeypatch.setattr(dispatch, "choose", lambda op, tensor: spy)
    out = ops.accumulate(X, torch.zeros(1, 2, dtype=torch.int64), (4, 4))
    assert torch.equal(out, torch.full((1, 1, 4, 4), 3.0))


def test_table_has_every_op_and_backend_with_a_status():
    rows = dispatch.table()
    assert [(op, backend) for op, backend, _ in rows] == [(o, b) for o in dispatch.OPS for b in dispatch.BACKENDS]
    assert all(status for _, _, status in rows)
    assert all(status.startswith("runs on cpu") for _, backend, status in rows if backend == "eager")


@pytest.mark.parametrize("op", dispatch.OPS)
def test_self_test_of_the_reference_agrees_with_itself(op):
    assert dispatch.self_test(op, "eager").startswith("cpu 0e+00")


def test_self_test_catches_a_wrong_kernel(monkeypatch):
    extension(monkeypatch, merge=lambda *given: 1.01 * merge_reference(*given))
    with pytest.raises(RuntimeError, match="merge on backend native deviates by .* set FASTSYNC_BACKEND=eager"):
        dispatch.self_test("merge", "native")
    # A kernel whose result is not a number must not pass.
    extension(monkeypatch, merge=lambda *given: float("nan") * merge_reference(*given))
    with pytest.raises(RuntimeError, match="deviates by nan"):
        dispatch.self_test("merge", "native")
    with pytest.raises(RuntimeError, match="scale_cotangent does not run on backend native here: .* no scale_cotang"):
        dispatch.self_test("scale_cotangent", "native")
