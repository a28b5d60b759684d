"""SyncVC (Lee 2026) on a row of windows: one after the other, torch's Adam and autograd through the whole loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.reference.model import Model, crop


def syncvc(
    model: Model,
    z: Tensor,
    origins: Sequence[tuple[int, int]],
    window: tuple[int, int],
    steps: int,
    iterations: int = 5,
    lr: float = 0.02,
    reward_weight: float = 1.0,
    kl_weight: float = 1.0,
    inv_lambda: float = 5.0,
) -> Tensor:
    """The canvas [1, C, h, W] from noise z of its shape, later windows pasted over earlier ones."""
    windows = [crop(z, origin, window).clone() for origin in origins]
    for step in model.steps(steps):
        before, clean = list(windows), list(windows)
        for i, (_, left) in enumerate(origins):
            x = before[i]
            if i:
                shift = left - origins[i - 1][1]
                shared = window[1] - shift
                noisy, target = before[i - 1][..., shift:], clean[i - 1][..., shift:]
                strength = inv_lambda * step.progress / step.b
                u = torch.zeros_like(x, requires_grad=True)
                adam = torch.optim.Adam([u], lr=lr)
                free = None
                for _ in range(iterations):
                    moved = x + u
                    x0, eps = model.predict(moved, step)
                    # At u = 0 this is the prior's own prediction, which nobody needs to compute twice.
                    free = eps.detach() if free is None else free
                    coupled = eps.clone()
                    coupled[..., :shared] += (moved[..., :shared] - noisy) * strength
                    loss = reward_weight * (x0[..., :shared] - target).square().sum()
                    loss = loss + kl_weight * (coupled - free).square().sum()
                    adam.zero_grad()
                    loss.backward()
                    adam.step()
                x = (x + u).detach()
            with torch.no_grad():
                x0, eps = model.predict(x, step)
                clean[i] = x0
                if i:
                    eps = eps.clone()
                    eps[..., :shared] += (x[..., :shared] - noisy) * strength
                    x0 = (x - step.b * eps) / step.a
                windows[i] = step.a_next * x0 + step.b_next * eps
    z = z.clone()
    for origin, x in zip(origins, windows, strict=True):
        crop(z, origin, window)[...] = x
    return z
