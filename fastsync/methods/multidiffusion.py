"""MultiDiffusion (Bar-Tal 2023): denoise each view one step, merge, project."""

from __future__ import annotations

from typing import Any, Literal

import torch

from ..errors import check_choice, check_int
from ..run import Run
from ..scheduling import Work
from .base import Method


class MultiDiffusion(Method):
    """After every step ``z = merge(x_s)`` and ``x_s = project(z)`` (Bar-Tal et al. 2023, eq. 3 and 5).

    Args:
        weights: ``"uniform"``, or ``"gaussian"``: windows count less towards their borders (standard deviation a
            quarter of the window's side), which hides seams.
        bootstrapping: on a ``MaskCanvas``, for so many first steps a foreground's view has a random flat colour, noised
            to the step's time, in place of what lies outside its mask, so that its object grows inside (section 4.2;
            the authors take 20 of 50 steps). 0 switches it off.
    """

    joins = True
    noise = "merged"

    def __init__(self, weights: Literal["uniform", "gaussian"] = "uniform", bootstrapping: int = 0) -> None:
        self.weights = check_choice("weights", weights, ("uniform", "gaussian"))
        self.bootstrapping = check_int("bootstrapping", bootstrapping, minimum=0)

    def begin(self, run: Run) -> Any:
        """Bootstrapping is refused where there are no masks; the backdrop of the step under way is kept here."""
        if self.bootstrapping and run.canvas.regions is None:
            raise ValueError(
                f"bootstrapping={self.bootstrapping} replaces what lies outside masks, and {type(run.canvas).__name__} "
                "has none: use bootstrapping=0, or a MaskCanvas."
            )
        return {}

    def advance(self, run: Run, work: Work) -> None:
        """Take the batch's views one step on, foregrounds from before their backdrop while they are bootstrapped."""
        if work[0][1] >= self.bootstrapping:
            return super().advance(run, work)
        assert run.canvas.regions is not None
        x = run.states(work)
        own = run.canvas.regions[[i for i, _ in work]].to(x)
        own[[i == 0 for i, _ in work]] = 1.0
        x = torch.lerp(self._backdrop(run, work[0][1]), x, own)
        prediction = run.predict(x, work)
        run.advance(work, run.step(prediction, work), prediction.x0)

    def _backdrop(self, run: Run, step: int) -> torch.Tensor:
        """A flat colour [1, C, h, w] at the step's noise, drawn once a step, whatever the batches."""
        if step not in run.prepared:
            run.prepared.clear()
            cells, scale = run.prior.view_shape, getattr(run.prior, "scale", 1)
            channels = 3 if scale > 1 else cells[0]
            colour = 2 * torch.special.ndtr(run.draw((1, channels, 1, 1))) - 1  # even in [-1, 1]
            flat = run.encode(colour.expand(1, channels, cells[1] * scale, cells[2] * scale))
            a, b = (float(getattr(run.table, name)[step]) for name in ("a", "b"))
            run.prepared[step] = a * flat + b * run.draw((1, *cells))
        backdrop: torch.Tensor = run.prepared[step]
        return backdrop

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
