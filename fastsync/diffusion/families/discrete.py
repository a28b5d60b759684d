"""Schedulers that step between whole training times: DDIM, DDPM and LCM."""

from __future__ import annotations

from typing import Any

import torch

from ..clipping import Clipping
from ..curve import DiscreteCurve
from ..table import Levels, StepTable, make_table
from .base import VP_PREDICTIONS, Family, Refusal, prediction_of


class _Discrete(Family):
    """What the three have in common: abar on whole times."""

    curve: DiscreteCurve

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        config = self.scheduler.config
        self.prediction_type = prediction_of(config, VP_PREDICTIONS)
        self.curve = DiscreteCurve(self.scheduler.alphas_cumprod, float(self._final()))
        self.clipping = Clipping.of(config, samples=True)

    def _final(self) -> Any:
        """abar of the clean end."""
        return self.scheduler.final_alpha_cumprod

    def _levels(self, times: torch.Tensor, following: torch.Tensor) -> Levels:
        """Steps from times to following ones [T]; those below 0 stand for the clean end."""
        a, b = self.curve.coefficients(times)
        a_next, b_next = self.curve.coefficients(following.clamp(min=0))
        a_end, b_end = (torch.full_like(a, c) for c in self.curve.end)
        return Levels(a, b, torch.where(following >= 0, a_next, a_end), torch.where(following >= 0, b_next, b_end))

    def _table(self, times: torch.Tensor, levels: Levels, sigma: torch.Tensor, **columns: Any) -> StepTable:
        at = times.double()
        pull = self.curve.pull(at, torch.cat([at[1:], at.new_zeros(1)]))
        return make_table(times, at, levels, sigma, pull, **columns)


def whole_times(scheduler: Any) -> torch.Tensor:
    """A scheduler's times; the rounding of the trailing spacing sometimes adds one before 0, which is left out."""
    times: torch.Tensor = scheduler.timesteps.cpu()
    return times[times >= 0]


class DDIM(_Discrete):
    """Song 2021, eq. 12. The step leads to ``t - N // T``, whatever the spacing of the times."""

    solver = "ddim"

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        self.clipping = Clipping.of(self.scheduler.config, samples=True, renews_eps=False)

    def table(self, scheduler: Any, eta: float) -> StepTable:
        """As the base class says."""
        times = whole_times(scheduler)
        levels = self._levels(times, times - self.curve.num_train_timesteps // scheduler.num_inference_steps)
        return self._table(times, levels, eta * levels.full_noise())


class DDPM(_Discrete):
    """Ho 2020, eq. 7: the posterior's mean, and noise whose variance its config names; none at t = 0."""

    solver = "ddpm"
    own_noise = True

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        kind = self.scheduler.variance_type
        if kind in ("learned", "learned_range"):
            raise Refusal(
                f"the network predicts the variance of its noise (variance_type={kind!r})",
                "use DDPMScheduler.from_config(pipe.scheduler.config, variance_type='fixed_small')",
            )
        if kind not in ("fixed_small", "fixed_small_log", "fixed_large"):
            raise Refusal(
                f"its variance_type={kind!r} takes the root of a negative number",
                "use DDPMScheduler.from_config(pipe.scheduler.config, variance_type='fixed_large')",
            )
        self._large = kind == "fixed_large"

    def _final(self) -> Any:
        return self.scheduler.one

    def table(self, scheduler: Any, eta: float) -> StepTable:
        """As the base class says."""
        times = whole_times(scheduler)
        levels = self._levels(times, torch.cat([times[1:], times.new_full((1,), -1)]))
        a, b, a_next, b_next = levels
        sigma = (1.0 - (a / a_next) ** 2).clamp(min=0).sqrt() if self._large else levels.full_noise()
        # The mean does not depend on the variance: this is sqrt(b_next^2 - sigma^2) of the small one.
        direction = (a / a_next) * b_next**2 / b
        return self._table(times, levels, torch.where(times > 0, sigma, 0.0), direction=direction)


class LCM(_Discrete):
    """Latent consistency (Luo 2023): the boundary-scaled estimate with fresh noise, and without at the end."""

    solver = "lcm"
    own_noise = True
    _DATA = 0.5  # standard deviation of the data that the boundary condition assumes

    def table(self, scheduler: Any, eta: float) -> StepTable:
        """As the base class says."""
        times = whole_times(scheduler)
        a, b, a_next, b_next = self._levels(times, torch.cat([times[1:], times.new_zeros(1)]))
        # Whatever set_alpha_to_one says, the last step hands out the estimate itself.
        a_next[-1], b_next[-1] = 1.0, 0.0
        scaled = times.double() * scheduler.config.timestep_scaling
        spread = scaled**2 + self._DATA**2
        return self._table(
            times,
            Levels(a, b, a_next, b_next),
            b_next.clone(),
            direction=torch.zeros_like(a),
            boundary=(scaled / spread.sqrt(), self._DATA**2 / spread),
        )
