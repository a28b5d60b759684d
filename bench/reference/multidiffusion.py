"""MultiDiffusion (Bar-Tal 2023): per window, as published, and in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.reference.model import Model, average, crop


@torch.no_grad()
def multidiffusion(
    model: Model, z: Tensor, origins: Sequence[tuple[int, int]], window: tuple[int, int], steps: int
) -> Tensor:
    """The canvas [1, C, H, W] from noise z of its shape; one window after the other."""
    for step in model.steps(steps):
        denoised = []
        for origin in origins:
            x0, eps = model.predict(crop(z, origin, window), step)
            denoised.append(step.a_next * x0 + step.b_next * eps)
        z = average(denoised, origins, z)
    return z


@torch.no_grad()
def multidiffusion_batched(
    model: Model, z: Tensor, origins: Sequence[tuple[int, int]], window: tuple[int, int], steps: int
) -> Tensor:
    """The same with all windows of a step in one batch."""
    for step in model.steps(steps):
        x0, eps = model.predict(torch.cat([crop(z, origin, window) for origin in origins]), step)
        z = average((step.a_next * x0 + step.b_next * eps).split(1), origins, z)
    return z
