"""Which backend runs an op: by device, dtype and availability, or as ``FASTSYNC_BACKEND`` says.

- ``eager``: the reference in PyTorch; always there.
- ``triton``: `fastsync.kernels`; on CUDA devices, and if forced in Triton's interpreter (``TRITON_INTERPRET=1``).
- ``native``: the C++/CUDA extension `fastsync._C`.

A backend that would be faster and is missing, or one that was forced and cannot, is named in one warning.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from . import _ext
from .registry import OPS, Kernel, Op
from .samples import Draw

BACKENDS = ("eager", "triton", "native")
RANKED = ("native", "triton", "eager")  # the fastest first
_TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_NATIVE_DTYPES = {"cpu": (torch.float32, torch.float64), "cuda": _TRITON_DTYPES}
_NO_TENSORS = frozenset((type(None), bool, int, float, str, list))  # a look-up here is faster than isinstance
_warned: set[tuple[str, str]] = set()

# Private torch hooks that tell whether a mode or transform would see this call; if absent, assume yes.
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_functions: Callable[[], int] = getattr(torch._C, "_len_torch_function_stack", lambda: 1)
_transforms: Callable[[], object] = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: 1)


def choose(op: str, tensor: torch.Tensor) -> Kernel:
    """The function that runs ``op`` on tensors like ``tensor``, with the arguments of ``torch.ops.fastsync.<op>``."""
    return _choose(op, tensor.device.type, tensor.dtype, os.environ.get("FASTSYNC_BACKEND", ""))


def call(op: Op, *arguments: Any) -> Any:
    """The op's results: through torch.library where something has to see the call, else straight from the backend.

    Autograd, compilation, modes, transforms and tensor subclasses have to see it. Otherwise torch.library is passed by,
    because it takes as long as the work on a batch of latents.
    """
    if torch.compiler.is_compiling() or _is_watched(arguments):
        return op.registered(*arguments)
    result = choose(op.name, arguments[op.dispatch_on])(*arguments)
    if op.mutates:  # autograd must notice if it saved one of them
        torch.autograd.graph.increment_version([arguments[position] for position in op.mutates])
    return result


def unavailable(op: str, backend: str, device: str, dtype: torch.dtype, forced: bool = False) -> str:
    """Why ``backend`` does not run ``op`` on tensors of a device type and dtype; empty if it does.

    ``forced``: whether slow paths that only tests want count, i.e. Triton's interpreter.
    """
    return _unsuited(op, backend, device, dtype, forced) or _missing(op, backend, device)


def kernel(op: str, backend: str) -> Kernel:
    """A backend's function of an op, where that is not :func:`unavailable`."""
    if backend == "native":
        return getattr(_ext.load(), op)
    if backend == "triton":
        return getattr(importlib.import_module(f"fastsync.kernels.{OPS[op].triton}"), op)
    return OPS[op].reference


def table() -> list[tuple[str, str, str]]:
    """``(op, backend, status)`` of all: on which devices it runs here (in float32), or why it does not."""
    devices = _devices()
    rows = []
    for op in OPS:
        for backend in BACKENDS:
            reasons = {device: unavailable(op, backend, device, torch.float32, forced=True) for device in devices}
            runs = ", ".join(device for device, reason in reasons.items() if not reason)
            rows.append((op, backend, f"runs on {runs}" if runs else reasons[devices[-1]]))
    return rows


def self_test(op: str, backend: str) -> str:
    """Run ``op`` on its first sample on every device where ``backend`` runs it, and compare with the reference.

    Returns:
        The largest relative deviation on each device, e.g. ``"cpu 1e-07, cuda 2e-07"``.

    Raises:
        RuntimeError: the backend does not run the op here, or computes something else.
    """
    devices = [d for d in _devices() if not unavailable(op, backend, d, torch.float32, forced=True)]
    if not devices:
        reason = unavailable(op, backend, _devices()[-1], torch.float32, forced=True)
        raise RuntimeError(f"{op} does not run on backend {backend} here: {reason}.")
    found = []
    for device in devices:
        # Two sets of equal arguments: what an op changes in place is compared as well.
        results = []
        for function in (kernel(op, backend), kernel(op, "eager")):
            arguments = next(iter(OPS[op].samples(Draw(torch.float32, device, seed=0))))
            outputs = function(*arguments)
            outputs = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
            given = [a for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()]
            # Samples hold NaN where they must not be read.
            results.append([*outputs, *(a.nan_to_num(7.0) for a in given)])
        error = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in zip(*results, strict=True))
        if not error < 1e-4:
            raise RuntimeError(
                f"{op} on backend {backend} deviates by {error:.0e} from its reference on {device}: install fastsync "
                f"anew, and until then set FASTSYNC_BACKEND=eager."
            )
        found.append(f"{device} {error:.0e}")
    return ", ".join(found)


def _is_watched(arguments: tuple[Any, ...]) -> bool:
    """Whether autograd, a transform, a mode or a tensor subclass has to see the call."""
    if _modes() or _functions() or _transforms() is not None or torch.jit.is_tracing():
        return True
    recording = torch.is_grad_enabled()
    for a in arguments:
        kind = type(a)
        if kind is torch.Tensor:
            if recording and a.requires_grad:
                return True
        elif kind not in _NO_TENSORS and isinstance(a, torch.Tensor):
            if kind is not torch.nn.Parameter or recording and a.requires_grad:
                return True
    return False


def _devices() -> tuple[str, ...]:
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@cache
def _choose(op: str, device: str, dtype: torch.dtype, wish: str) -> Kernel:
    if wish and wish not in BACKENDS:
        raise ValueError(f"FASTSYNC_BACKEND must be one of {', '.join(BACKENDS)}, got {wish!r}: unset it, or set one.")
    if wish:
        reason = unavailable(op, wish, device, dtype, forced=True)
        if not reason:
            return kernel(op, wish)
        _warn_once(
            op,
            reason,
            f"FASTSYNC_BACKEND={wish} is not possible for {op} on {device} in {dtype}: {reason}. Another backend runs "
            "it; unset FASTSYNC_BACKEND to choose freely.",
        )
    for backend in RANKED:
        if _unsuited(op, backend, device, dtype, forced=False):
            continue
        reason = _missing(op, backend, device)
        if not reason:
            return kernel(op, backend)
        if backend != wish:
            _warn_once("", reason, f"fastsync runs slower than it could on {device}: {reason}.")
    raise AssertionError("eager runs everywhere")


@cache
def _missing(op: str, backend: str, device: str) -> str:
    """What this installation lacks, with the mend; empty if nothing."""
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed: pip install 'fastsync[triton]'"
        try:
            kernel(op, backend)
        except Exception as error:  # whatever it is, eager still runs
            return f"fastsync.kernels.{OPS[op].triton} does not load ({error}): install fastsync and Triton anew"
    if backend == "native":
        native = _ext.load()
        if native is None:
            return _ext.reason()
        if not hasattr(native, op):
            return f"fastsync._C has no {op}, it is of another version: install fastsync anew"
        if device == "cuda" and not native.with_cuda:
            return "fastsync._C is built without CUDA: install fastsync with FASTSYNC_BUILD=cuda, where nvcc is"
    return ""


def _unsuited(op: str, backend: str, device: str, dtype: torch.dtype, forced: bool) -> str:
    """What a backend is not made for; empty if it is."""
    if backend == "triton":
        if OPS[op].triton is None:
            return f"{op} has no Triton kernel"
        if device not in ("cpu", "cuda"):
            return f"Triton kernels do not run on {device}"
        if dtype not in _TRITON_DTYPES:
            return f"Triton kernels compute in float32, not in {dtype}"
        if device == "cpu" and not (forced and os.environ.get("TRITON_INTERPRET") == "1"):
            return "Triton only interprets on a CPU, for tests: set TRITON_INTERPRET=1 before Triton is imported"
    if backend == "native":
        if device not in OPS[op].native:
            return f"fastsync._C has no {op} for {device}"
        if dtype not in _NATIVE_DTYPES[device]:
            return f"fastsync._C has no {op} in {dtype} for {device}"
    return ""


def _warn_once(op: str, reason: str, text: str) -> None:
    # A run calls thousands of ops.
    if (op, reason) not in _warned:
        _warned.add((op, reason))
        warnings.warn(text, RuntimeWarning, stacklevel=2)
