"""Schedulers of rectified flow: Euler's steps, and steps that draw all their noise anew."""

from __future__ import annotations

from typing import Any

import torch

from ..curve import FlowCurve
from ..table import Levels, StepTable, make_table
from .base import Family, Refusal


class FlowEuler(Family):
    """``x_s = x + (s' - s) v``, which is DDIM's step in ``a = 1 - s, b = s``; or ``x_s = (1 - s') x0 + s' z``."""

    prediction_type = "flow"

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        config = self.scheduler.config
        if config.get("invert_sigmas"):
            raise Refusal(
                "its times rise towards the data (invert_sigmas=True)",
                f"use {type(scheduler).__name__}.from_config(pipe.scheduler.config, invert_sigmas=False)",
            )
        self.curve = FlowCurve(int(config.num_train_timesteps))
        self.own_noise = self._stochastic()
        self.solver = "flow-euler-stochastic" if self.own_noise else "flow-euler"

    def _stochastic(self) -> bool:
        return bool(self.scheduler.config.get("stochastic_sampling", False))

    def table(self, scheduler: Any, eta: float) -> StepTable:
        """As the base class says."""
        timesteps, sigmas = scheduler.timesteps.cpu(), scheduler.sigmas.cpu()
        times = timesteps.double()
        if not torch.equal(timesteps, sigmas[:-1] * self.curve.num_train_timesteps):
            # Times of the caller's own go to the network as they are, whatever the sigmas.
            times = self.curve.time_of_sigma(sigmas[:-1])
        ends = torch.cat([times[1:], self.curve.time_of_sigma(sigmas[-1:])])
        levels = Levels(*self.curve.coefficients(times), *self.curve.coefficients(ends))
        sigma = levels.b_next.clone() if self.own_noise else eta * levels.full_noise()
        return make_table(timesteps, times, levels, sigma, self.curve.pull(times, ends))


class FlowLCM(FlowEuler):
    """Consistency models of rectified flow: all noise is drawn anew."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        if self.scheduler._scale_factors:
            raise Refusal(
                "its estimates grow from step to step (scale_factors)", "set scale_factors=None in its config"
            )
        self.solver = "flow-lcm"

    def _stochastic(self) -> bool:
        return True
