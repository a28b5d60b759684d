"""SyncTweedies (Kim 2024, case 2): the clean estimates are averaged before every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.reference.model import Model, average, crop


@torch.no_grad()
def synctweedies(
    model: Model, z: Tensor, origins: Sequence[tuple[int, int]], window: tuple[int, int], steps: int
) -> Tensor:
    """The canvas [1, C, H, W] from noise z of its shape; windows are kept apart and predicted one by one."""
    windows = [crop(z, origin, window) for origin in origins]
    for step in model.steps(steps):
        merged = average([model.predict(x, step)[0] for x in windows], origins, z)
        for i, origin in enumerate(origins):
            x0 = crop(merged, origin, window)
            eps = (windows[i] - step.a * x0) / step.b
            windows[i] = step.a_next * x0 + step.b_next * eps
    return average(windows, origins, z)
