"""SyncSDE (Lee 2025) on a row of windows: each follows the one before it, as it was before the step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.reference.model import Model, crop


@torch.no_grad()
def syncsde(
    model: Model,
    z: Tensor,
    origins: Sequence[tuple[int, int]],
    window: tuple[int, int],
    steps: int,
    inv_lambda: float = 5.0,
) -> Tensor:
    """The canvas [1, C, h, W] from noise z of its shape, later windows pasted over earlier ones."""
    windows = [crop(z, origin, window) for origin in origins]
    for step in model.steps(steps):
        before = list(windows)
        for i, (_, left) in enumerate(origins):
            x0, eps = model.predict(windows[i], step)
            if i:
                shift = left - origins[i - 1][1]
                shared = window[1] - shift
                eps[..., :shared] += (
                    (before[i][..., :shared] - before[i - 1][..., shift:]) * inv_lambda * step.progress / step.b
                )
                x0 = (windows[i] - step.b * eps) / step.a
            windows[i] = step.a_next * x0 + step.b_next * eps
    z = z.clone()
    for origin, x in zip(origins, windows, strict=True):
        crop(z, origin, window)[...] = x
    return z
