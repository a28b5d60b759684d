"""Which backend runs an op: by device, dtype and availability, or as ``FASTSYNC_BACKEND`` says.

- ``eager``: the reference in PyTorch; always there.
- ``triton``: `fastsync.kernels`; on CUDA devices; on CPUs, if forced, in Triton's interpreter (``TRITON_INTERPRET=1``).
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

BACKENDS = ("eager", "triton", "native")
Kernel = Callable[..., Any]

_REFERENCES = {
    "cfg_tweedie": "cfg_tweedie:reference",
    "ddim_step": "ddim_step:reference",
    "overlap_loss": "overlap_loss:reference",
    "control_grad": "control_grad:reference",
    "control_update": "control_update:reference",
    "transform": "transform:reference",
    "accumulate": "accumulate:accumulate_reference",
    "merge": "accumulate:merge_reference",
    "resample": "resample:resample_reference",
    "splat": "resample:splat_reference",
    "uv_accumulate": "uv_accumulate:reference",
}
OPS = tuple(_REFERENCES)
_TRITON = {name: name for name in OPS if name != "uv_accumulate"} | {"accumulate": "merge", "splat": "resample"}
_NATIVE_CPU = ("overlap_loss", "transform", "accumulate", "merge", "resample", "splat", "uv_accumulate")
_NATIVE_CUDA = ("splat", "uv_accumulate")
_warned: set[str] = set()


def choose(op: str, tensor: torch.Tensor) -> Kernel:
    """The function that runs ``op`` on tensors like ``tensor``, with the arguments of ``torch.ops.fastsync.<op>``."""
    return _choose(op, tensor.device.type, tensor.dtype, os.environ.get("FASTSYNC_BACKEND", ""))


def available(op: str, backend: str, device: str, dtype: torch.dtype, forced: bool = False) -> str:
    """Why ``backend`` cannot run ``op`` on tensors of that device type and dtype, with the mend; empty if it can."""
    if backend == "eager":
        return ""
    if backend == "triton":
        return _no_triton(op, device, dtype, forced)
    return _no_native(op, device, dtype)


def kernel(op: str, backend: str) -> Kernel:
    """The backend's function of an op; to be called only where it is :func:`available`."""
    if backend == "native":
        return getattr(_ext.load(), op)
    if backend == "triton":
        return getattr(importlib.import_module(f"fastsync.kernels.{_TRITON[op]}"), op)
    module, name = _REFERENCES[op].split(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)


@cache
def _choose(op: str, device: str, dtype: torch.dtype, wish: str) -> Kernel:
    if wish and wish not in BACKENDS:
        raise ValueError(
            f"FASTSYNC_BACKEND must be one of {', '.join(BACKENDS)}, got {wish!r}: unset it to choose freely."
        )
    ranked: tuple[str, ...] = (
        ("native", "triton", "eager") if op in _NATIVE_CUDA or device == "cpu" else ("triton", "eager")
    )
    if wish:
        problem = available(op, wish, device, dtype, forced=True)
        if not problem:
            return kernel(op, wish)
        _warn_once(f"FASTSYNC_BACKEND={wish} cannot run {op} on {device} tensors of {dtype}: {problem}.")
        ranked = tuple(backend for backend in ranked if backend != wish)
    for backend in ranked:
        problem = available(op, backend, device, dtype)
        if not problem:
            return kernel(op, backend)
        if not wish and problem in (_ext.reason(), _missing_triton()) and not (backend == "triton" and device == "cpu"):
            _warn_once(f"fastsync runs {op} and others on {device} tensors without its {backend} backend: {problem}.")
    raise AssertionError("eager runs everywhere")


def _no_triton(op: str, device: str, dtype: torch.dtype, forced: bool) -> str:
    if op not in _TRITON:
        return f"{op} has no Triton kernel; unset FASTSYNC_BACKEND"
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"Triton kernels compute in float32, not in {dtype}; unset FASTSYNC_BACKEND"
    if device == "cpu" and not (forced and os.environ.get("TRITON_INTERPRET") == "1"):
        return "on a CPU Triton only interprets, for tests: set TRITON_INTERPRET=1 before torch is imported"
    if device not in ("cpu", "cuda"):
        return f"Triton kernels do not run on {device} devices; unset FASTSYNC_BACKEND"
    return _missing_triton()


@cache
def _missing_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install 'fastsync[triton]'"
    if importlib.util.find_spec("fastsync.kernels") is None:
        return "fastsync.kernels is not importable: install fastsync with pip install -e . or from a wheel"
    return ""


def _no_native(op: str, device: str, dtype: torch.dtype) -> str:
    if device == "cuda":
        if op not in _NATIVE_CUDA:
            return f"{op} has no CUDA kernel in fastsync._C; unset FASTSYNC_BACKEND"
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return f"fastsync._C's CUDA kernels compute in float32, not in {dtype}; unset FASTSYNC_BACKEND"
        native = _ext.load()
        if native is not None and not native.with_cuda:
            return "fastsync._C was built without CUDA: build it with FASTSYNC_BUILD=cuda where nvcc is"
        return _ext.reason()
    if device != "cpu" or op not in _NATIVE_CPU:
        return f"{op} has no kernel for {device} devices in fastsync._C; unset FASTSYNC_BACKEND"
    if dtype not in (torch.float32, torch.float64):
        return f"fastsync._C's CPU kernels compute in float32 and float64, not in {dtype}; unset FASTSYNC_BACKEND"
    return _ext.reason()


def _warn_once(text: str) -> None:
    # One sentence per reason: a run calls thousands of ops.
    reason = text.split(": ", 1)[-1]
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(text, RuntimeWarning, stacklevel=5)
