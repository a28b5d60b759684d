"""MultiDiffusion (Bar-Tal 2023): denoise each view one step, merge, project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch

from ..errors import check_choice, check_int
from ..run import Estimates, Run
from ..scheduling import Work
from .base import Bound, Method


@dataclass(eq=False)
class MultiDiffusion(Method):
    """After every step ``z = merge(x_s)`` and ``x_s = project(z)`` (Bar-Tal et al. 2023, eq. 3 and 5).

    Args:
        weights: ``"uniform"``, or ``"gaussian"``: windows count less towards their borders (standard deviation a
            quarter of the window's side), which hides seams.
        bootstrapping: on a canvas with regions (``MaskCanvas``), for so many first steps a foreground's view has a
            random flat colour, noised to the step's time, in place of what lies outside its mask, so that its object
            grows inside (section 4.2; the authors take 20 of 50 steps). 0 switches it off.
    """

    weights: Literal["uniform", "gaussian"] = "uniform"
    bootstrapping: int = 0

    joins = True
    noise_use = "merged"

    def __post_init__(self) -> None:
        check_choice("weights", self.weights, ("uniform", "gaussian"))
        self.bootstrapping = check_int("bootstrapping", self.bootstrapping, minimum=0)

    def bind(self, run: Run) -> _BoundMultiDiffusion:
        """Refuses bootstrapping where there are no regions."""
        if self.bootstrapping and run.canvas.regions is None:
            raise ValueError(
                f"bootstrapping={self.bootstrapping} replaces what lies outside masks, and {type(run.canvas).__name__} "
                "has none: use bootstrapping=0, or a MaskCanvas."
            )
        return _BoundMultiDiffusion(self, run)


M = TypeVar("M", bound=Method)


class MergedStates(Bound[M], Generic[M]):
    """Any method that replaces the views by the projection of their merge after every step."""

    def synchronise(self, step: int) -> None:
        """Merge and project. Linear in the states, so solvers may still look back at each view."""
        states = self.run.states
        states.replace_after(step, self.run.canvas.project(self.compose(states.after(step))))


class _BoundMultiDiffusion(MergedStates[MultiDiffusion]):
    """Keeps the backdrop of the step under way, which all batches of a step share."""

    def __init__(self, settings: MultiDiffusion, run: Run) -> None:
        super().__init__(settings, run)
        self._backdrop_step, self._backdrop = -1, torch.empty(0)

    def estimate(self, work: Work) -> Estimates:
        """The prior's estimates; of foregrounds over their backdrop while they are bootstrapped."""
        if work[0][1] >= self.settings.bootstrapping:
            return super().estimate(work)
        run = self.run
        x = run.states.before(work)
        assert run.canvas.regions is not None  # bind() has looked
        own = run.canvas.regions[[i for i, _ in work]].to(x)
        own[[i == 0 for i, _ in work]] = 1.0
        x = torch.lerp(self._flat_colour(work[0][1]), x, own)
        return Estimates(x, run.network.predict(x, work), moved=[i != 0 for i, _ in work])

    def _flat_colour(self, step: int) -> torch.Tensor:
        """A flat colour [1, C, h, w] at the step's noise, drawn once a step, whatever the batches."""
        if step != self._backdrop_step:
            run, table = self.run, self.run.times.table
            cells, scale = run.prior.view_shape, run.prior.scale
            channels = 3 if scale > 1 else cells[0]
            colour = 2 * torch.special.ndtr(run.noise.draw((1, channels, 1, 1))) - 1  # even in [-1, 1]
            flat = run.encode(colour.expand(1, channels, cells[1] * scale, cells[2] * scale))
            self._backdrop = float(table.a[step]) * flat + float(table.b[step]) * run.noise.draw((1, *cells))
            self._backdrop_step = step
        return self._backdrop

    def compose(self, views: torch.Tensor) -> torch.Tensor:
        """The merge; the final views already are projections of one canvas."""
        return self.run.canvas.merge(views, gaussian_weights(views) if self.settings.weights == "gaussian" else None)


def gaussian_weights(views: torch.Tensor) -> torch.Tensor:
    """[h, w] bell over a view, 1 at its centre, standard deviation a quarter of each side."""
    bells = [
        torch.exp(-0.5 * ((torch.arange(n, dtype=views.dtype, device=views.device) - (n - 1) / 2) / (n / 4)) ** 2)
        for n in views.shape[-2:]
    ]
    return bells[0][:, None] * bells[1]
