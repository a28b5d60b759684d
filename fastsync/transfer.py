"""Indices that the host makes, on the device where they are read."""

from __future__ import annotations

import torch


def to_device(indices: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small CPU tensor to ``device``; the host does not wait for a GPU to receive it."""
    if device.type != "cuda":
        return indices.to(device)
    return indices.pin_memory().to(device, non_blocking=True)
