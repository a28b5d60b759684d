"""MultiDiffusion (Bar-Tal 2023): per window, as published, and in one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.reference.model import Model
from bench.reference.windows import Windows


@torch.no_grad()
def multidiffusion(model: Model, z: Tensor, place: Windows, steps: int) -> Tensor:
    """The canvas [1, C, H, W] from noise z of its shape; one window after the other."""
    for step in model.steps(steps):
        denoised = {}
        for i in range(len(place)):
            x0, eps = model.predict(place.view(z, i), step, [i])
            denoised[i] = step.a_next * x0 + step.b_next * eps
        z = place.average(denoised, z)
    return z


@torch.no_grad()
def multidiffusion_batched(model: Model, z: Tensor, place: Windows, steps: int) -> Tensor:
    """The same with all windows of a step in one batch."""
    everyone = range(len(place))
    for step in model.steps(steps):
        x0, eps = model.predict(torch.cat([place.view(z, i) for i in everyone]), step, everyone)
        denoised = step.a_next * x0 + step.b_next * eps
        z = place.average(dict(enumerate(denoised.split(1))), z)
    return z
