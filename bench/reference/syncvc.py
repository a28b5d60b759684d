"""SyncVC (Lee 2026): one view after the other, torch's Adam and autograd through the whole loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from bench.reference.cells import Cells
from bench.reference.coupling import Rule, pulls
from bench.reference.model import Model
from bench.reference.windows import Windows

Reward = Callable[[Tensor, list[Tensor], int], Tensor]


def syncvc(
    model: Model,
    views: Tensor,
    place: Windows | Cells,
    steps: int,
    *,
    iterations: int = 5,
    lr: float | Callable[[int], float] = 0.02,
    reward_weight: float = 1.0,
    kl_weight: float = 1.0,
    control_strength: float = 1.0,
    inv_lambda: float = 5.0,
    control_cost: float = 0.0,
    kl_scheme: Literal["none", "ddim"] = "none",
    coupling: Rule = "published",
    view_order: Sequence[int] | None = None,
    reward: Reward | None = None,
    eta: float = 0.0,
    noise: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """The canvas, later views painted over earlier ones, and the views, from noisy views [N, C, h, w].

    ``reward(x0_i [C, h, w], earlier views' x0 in work order, i)`` is maximised beside the overlap, of the first view
    too. ``noise[k]`` is step k's, a canvas; it is read where eta is above 0.
    """
    states = dict(enumerate(views.split(1)))
    order = list(range(len(states)) if view_order is None else view_order)
    for k, step in enumerate(model.steps(steps, eta)):
        c, g = pulls(model, step, inv_lambda, coupling)
        kl = kl_weight
        if kl_scheme == "ddim":
            kl *= (step.direction - step.a_next * step.b / step.a) ** 2
        before, clean = dict(states), dict[int, Tensor]()
        for position, i in enumerate(order):
            earlier, x = order[:position], before[i]
            part = place.seen(i, earlier)
            if part is not None:
                noisy, target = (place.shown(i, those, earlier) for those in (before, clean))
            if part is not None or reward is not None:
                u = torch.zeros_like(x, requires_grad=True)
                adam = torch.optim.Adam([u], lr=1.0)
                free: Tensor | None = None
                for iteration in range(iterations):
                    adam.param_groups[0]["lr"] = lr(iteration) if callable(lr) else lr
                    moved = torch.add(x, u, alpha=control_strength)
                    x0, eps = model.predict(moved, step, [i])
                    # At u = 0 this is the prior's own prediction, which nobody needs to compute twice.
                    free = eps.detach() if free is None else free
                    if part is None:
                        loss = kl * (eps - free).square().sum()
                    else:
                        coupled = eps.clone()
                        coupled[part] += c * (moved[part] - noisy)
                        loss = reward_weight * (x0[part] - target).square().sum()
                        loss = loss + kl * (coupled - free).square().sum()
                    if control_cost:
                        loss = loss + control_cost * (control_strength * u).square().sum()
                    if reward is not None:
                        loss = loss - reward(x0[0], [clean[j][0] for j in earlier], i)
                    adam.zero_grad()
                    loss.backward()
                    adam.step()
                x = torch.add(x, u.detach(), alpha=control_strength)
            with torch.no_grad():
                clean[i], eps = model.predict(x, step, [i])
                stepped = step.a_next * clean[i] + step.direction * eps
                if part is not None:
                    stepped[part] -= g * (x[part] - noisy)
                states[i] = stepped + step.sigma * place.view(noise[k], i) if eta else stepped
    return place.painted(states, order), torch.cat(list(states.values()))
