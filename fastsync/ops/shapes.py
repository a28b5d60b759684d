"""How per-sample numbers meet image tensors."""

from __future__ import annotations

import torch


def per_sample(coefficient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """View a coefficient [B] so that it multiplies ``like`` [B, ...], in ``like``'s dtype and on its device."""
    return coefficient.to(device=like.device, dtype=like.dtype).reshape(-1, *([1] * (like.ndim - 1)))
