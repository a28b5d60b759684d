"""StochSync (Yeo 2025) on a row of windows half a window apart: even and odd ones take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.reference.model import Model
from bench.reference.windows import Windows


@torch.no_grad()
def stochsync(
    model: Model, noise: Callable[[int], Tensor], place: Windows, inner_steps: int, times: Sequence[int]
) -> Tensor:
    """The canvas [1, C, h, W]; ``noise(k)`` is outer step k's, a canvas. Without the blending at the end."""
    inner = [int(step.time) for step in model.steps(inner_steps)]
    z = torch.zeros_like(noise(0))
    for k, time in enumerate(times):
        now = model.step(time, -1, time)
        found, drawn = {}, noise(k)
        for i in range(k % 2, len(place), 2):
            x = now.a * place.view(z, i) + now.b * place.view(drawn, i)
            walk = [time, *(t for t in inner if t < time), -1]
            for t, after in zip(walk[:-1], walk[1:], strict=True):
                step = model.step(t, after, time)
                x0, eps = model.predict(x, step, [i])
                x = step.a_next * x0 + step.b_next * eps
            found[i] = x
        painted = place.average(found, z)
        covered = place.average({i: torch.ones_like(x) for i, x in found.items()}, z)
        z = torch.where(covered > 0, painted, z)
    return z
