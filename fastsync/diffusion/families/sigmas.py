"""Schedulers that step along a list of noise levels ``sigma``: Euler's, and what the multistep solvers share."""

from __future__ import annotations

from typing import Any

import torch

from ..curve import ContinuousCurve, DiscreteCurve
from ..table import Levels, StepTable, make_table
from .base import VP_PREDICTIONS, Family, prediction_of


class Sigmas(Family):
    """Steps of first or second order between a scheduler's ``sigmas``; with noise of its own, that of eta = 1.

    Everything is read from ``sigmas``: the times that the network gets are rounded by some of the schedulers.
    """

    def table(self, scheduler: Any, eta: float) -> StepTable:
        """As the base class says."""
        timesteps = scheduler.timesteps.cpu()
        sigmas = scheduler.sigmas.cpu().double()[: len(timesteps) + 1]
        start, end = self._without_times_before_0(timesteps, sigmas)
        timesteps = timesteps[: len(start)]
        levels = self.levels(start, end)
        return make_table(
            timesteps,
            self.curve.time_of_sigma(start),
            levels,
            (1.0 if self.own_noise else eta) * levels.full_noise(),
            self.curve.pull_of_sigmas(start, end),
            extrapolation=self.extrapolation(scheduler, levels),
            start=self.start(scheduler, float(levels.a[0])),
        )

    def levels(self, start: torch.Tensor, end: torch.Tensor) -> Levels:
        """Coefficients of steps between sigmas [T]."""
        return Levels(*self.curve.of_sigma(start), *self.curve.of_sigma(end))

    def extrapolation(self, scheduler: Any, levels: Levels) -> torch.Tensor | None:
        """The table's column; None for steps of first order."""
        return None

    def start(self, scheduler: Any, a: float) -> float:
        """The table's ``start``, from the first a."""
        return 1.0

    def _without_times_before_0(
        self, timesteps: torch.Tensor, sigmas: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where steps start and end. A time before 0, which rounding may add at the end, joins the step before it."""
        count = int((timesteps >= 0).sum()) if not isinstance(self.curve, ContinuousCurve) else len(timesteps)
        return sigmas[:count], torch.cat([sigmas[1:count], sigmas[-1:]])


class Euler(Sigmas):
    """Karras 2022, algorithm 1 without churn: in ``(a, b)`` form DDIM's step, between sigmas of any spacing.

    The scheduler's own states are ``x / a``.
    """

    solver = "euler"

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        config = self.scheduler.config
        self.prediction_type = prediction_of(config, VP_PREDICTIONS)
        continuous = config.get("timestep_type") == "continuous" and self.prediction_type == "v_prediction"
        self.curve = (ContinuousCurve if continuous else DiscreteCurve)(self.scheduler.alphas_cumprod)

    def levels(self, start: torch.Tensor, end: torch.Tensor) -> Levels:
        """As the base class says; where the last sigma is not 0, the last step hands out ``x / a`` as it is."""
        levels = super().levels(start, end)
        levels.a_next[-1], levels.b_next[-1] = 1.0, end[-1]
        return levels

    def start(self, scheduler: Any, a: float) -> float:
        """``init_noise_sigma`` in ``(a, b)`` form."""
        return float(scheduler.init_noise_sigma) * a


class EulerAncestral(Euler):
    """Euler's step down to less noise than the next time has, and fresh noise for the rest: eta = 1."""

    solver = "euler-ancestral"
    own_noise = True
