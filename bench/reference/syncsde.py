"""SyncSDE (Lee 2025): each view follows those before it, as they were before the step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.reference.cells import Cells
from bench.reference.coupling import Rule, pulls
from bench.reference.model import Model
from bench.reference.windows import Windows


@torch.no_grad()
def syncsde(
    model: Model,
    views: Tensor,
    place: Windows | Cells,
    steps: int,
    *,
    inv_lambda: float = 5.0,
    coupling: Rule = "published",
    eta: float = 0.0,
    noise: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """The canvas, later views painted over earlier ones, and the views, from noisy views [N, C, h, w].

    ``noise[k]`` is step k's, a canvas; it is read where eta is above 0.
    """
    states = dict(enumerate(views.split(1)))
    for k, step in enumerate(model.steps(steps, eta)):
        _, g = pulls(model, step, inv_lambda, coupling)
        before = dict(states)
        for i, x in before.items():
            x0, eps = model.predict(x, step, [i])
            stepped = step.a_next * x0 + step.direction * eps
            part = place.seen(i, range(i))
            if part is not None:
                stepped[part] -= g * (x[part] - place.shown(i, before, range(i)))
            states[i] = stepped + step.sigma * place.view(noise[k], i) if eta else stepped
    return place.painted(states, range(len(states))), torch.cat(list(states.values()))
