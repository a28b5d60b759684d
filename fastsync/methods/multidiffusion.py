"""MultiDiffusion (Bar-Tal 2023): denoise each view one step, merge, project."""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import check_choice
from ..run import Run
from .base import Method


class MultiDiffusion(Method):
    """After every step ``z = merge(x_s)`` and ``x_s = project(z)`` (Bar-Tal et al. 2023, eq. 3 and 5).

    Args:
        weights: ``"uniform"``, or ``"gaussian"``: windows count less towards their borders (standard deviation a
            quarter of the window's side), which hides seams.
    """

    joins = True
    noise = "merged"

    def __init__(self, weights: Literal["uniform", "gaussian"] = "uniform") -> None:
        self.weights = check_choice("weights", weights, ("uniform", "gaussian"))

    def synchronise(self, run: Run, step: int) -> None:
        """Replace the views by the projection of their merge."""
        run.replace_after(step, run.canvas.project(self._merge(run, run.after(step))))

    def compose(self, run: Run, views: torch.Tensor) -> torch.Tensor:
        """The views already are projections of one canvas; their merge is that canvas."""
        return self._merge(run, views)

    def _merge(self, run: Run, views: torch.Tensor) -> torch.Tensor:
        return run.canvas.merge(views, gaussian_weights(views) if self.weights == "gaussian" else None)


def gaussian_weights(views: torch.Tensor) -> torch.Tensor:
    """[h, w] bell over a view, 1 at its centre, standard deviation a quarter of each side."""
    bells = [
        torch.exp(-0.5 * ((torch.arange(n, dtype=views.dtype, device=views.device) - (n - 1) / 2) / (n / 4)) ** 2)
        for n in views.shape[-2:]
    ]
    return bells[0][:, None] * bells[1]
