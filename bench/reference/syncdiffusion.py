"""SyncDiffusion (Lee 2023): windows move along a perceptual gradient towards the middle one, then MultiDiffusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.reference.model import Model, average, crop


def syncdiffusion(
    model: Model,
    z: Tensor,
    origins: Sequence[tuple[int, int]],
    window: tuple[int, int],
    steps: int,
    decode: Callable[[Tensor], Tensor],
    perceptual: Callable[[Tensor, Tensor], Tensor],
    weight: float = 20.0,
    decay: float = 0.95,
) -> Tensor:
    """The canvas [1, C, H, W] from noise z of its shape; ``perceptual(a, b)`` compares pictures [1, 3, h', w']."""
    anchor = len(origins) // 2
    for k, step in enumerate(model.steps(steps)):
        with torch.no_grad():
            target = decode(model.predict(crop(z, origins[anchor], window), step)[0])
        denoised = []
        for i, origin in enumerate(origins):
            x = crop(z, origin, window)
            if i != anchor:
                x = x.detach().requires_grad_()
                distance = perceptual(decode(model.predict(x, step)[0]), target)
                x = x.detach() - weight * decay**k * torch.autograd.grad(distance, x)[0]
            with torch.no_grad():
                x0, eps = model.predict(x, step)
                denoised.append(step.a_next * x0 + step.b_next * eps)
        z = average(denoised, origins, z)
    return z
