"""How per-sample numbers meet image tensors, and in which precision ops compute."""

from __future__ import annotations

import torch


def per_sample(coefficient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """View a coefficient [B] so that it multiplies ``like`` [B, ...], in ``like``'s dtype and on its device."""
    return coefficient.to(device=like.device, dtype=like.dtype).reshape(-1, *([1] * (like.ndim - 1)))


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """In the precision that an op computes in: float32 for half types, else the tensor's own."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_per_sample(name: str, batch: int, **coefficients: torch.Tensor | None) -> None:
    """One sentence where a coefficient is not [B]: kernels read it by the sample's number."""
    for which, coefficient in coefficients.items():
        if coefficient is not None and coefficient.shape != (batch,):
            raise ValueError(f"{name}: {which} must be [{batch}], one number a sample, got {list(coefficient.shape)}.")


def check_same(name: str, like: str, shape: torch.Size, **tensors: torch.Tensor | None) -> None:
    """One sentence where a tensor has not the shape of the one called ``like``."""
    for which, tensor in tensors.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name}: {which} must have {like}'s shape {list(shape)}, got {list(tensor.shape)}.")
