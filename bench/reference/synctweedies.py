"""SyncTweedies (Kim 2024, case 2): the clean estimates are averaged before every step."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.reference.model import Model
from bench.reference.windows import Windows


@torch.no_grad()
def synctweedies(model: Model, z: Tensor, place: Windows, steps: int) -> Tensor:
    """The canvas [1, C, H, W] from noise z of its shape; windows are kept apart and predicted one by one."""
    windows = {i: place.view(z, i) for i in range(len(place))}
    for step in model.steps(steps):
        merged = place.average({i: model.predict(x, step, [i])[0] for i, x in windows.items()}, z)
        for i, x in windows.items():
            x0 = place.view(merged, i)
            eps = (x - step.a * x0) / step.b
            windows[i] = step.a_next * x0 + step.b_next * eps
    return place.average(windows, z)
