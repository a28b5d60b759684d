"""How much memory a run has needed."""

from __future__ import annotations

import sys

import torch


def begin_peak(device: torch.device) -> None:
    """From here on the peak of a CUDA device's allocations is counted; a process's peak cannot be set back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes: of the device's allocations on CUDA, of the process on a CPU; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
