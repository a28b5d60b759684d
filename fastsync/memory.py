"""How much memory a run has needed."""

from __future__ import annotations

import sys

import torch


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
