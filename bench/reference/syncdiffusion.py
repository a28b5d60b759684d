"""SyncDiffusion (Lee 2023): windows move along a perceptual gradient towards the middle one, then MultiDiffusion."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.reference.model import Model
from bench.reference.windows import Windows


def syncdiffusion(
    model: Model,
    z: Tensor,
    place: Windows,
    steps: int,
    decode: Callable[[Tensor], Tensor],
    perceptual: Callable[[Tensor, Tensor], Tensor],
    weight: float = 20.0,
    decay: float = 0.95,
    every: int = 1,
) -> Tensor:
    """The canvas [1, C, H, W] from noise z of its shape.

    ``perceptual(a, b)`` compares pictures [1, 3, h', w']. Windows move at steps ``every``, ``2 every``, ..., counted
    from 1.
    """
    anchor = len(place) // 2
    for k, step in enumerate(model.steps(steps)):
        due = (k + 1) % every == 0
        if due:
            with torch.no_grad():
                target = decode(model.predict(place.view(z, anchor), step, [anchor])[0])
        denoised = {}
        for i in range(len(place)):
            x = place.view(z, i)
            if due and i != anchor:
                x = x.detach().requires_grad_()
                distance = perceptual(decode(model.predict(x, step, [i])[0]), target)
                x = x.detach() - weight * decay**k * torch.autograd.grad(distance, x)[0]
            with torch.no_grad():
                x0, eps = model.predict(x, step, [i])
                denoised[i] = step.a_next * x0 + step.b_next * eps
        z = place.average(denoised, z)
    return z
