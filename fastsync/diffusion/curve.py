"""Signal and noise over training times: what a model was trained on, whatever the steps of a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch

Kind = Literal["vp", "flow"]


class Curve(ABC):
    """``(a_t, b_t)`` over times t.

    Attributes:
        kind: ``"vp"``, variance preserving: ``a^2 + b^2 = 1``; ``"flow"``: ``a + b = 1``.
        num_train_timesteps: N; times lie in [0, N].
        end: ``(a, b)`` of the clean end.
    """

    kind: ClassVar[Kind]

    def __init__(self, num_train_timesteps: int, end: tuple[float, float] = (1.0, 0.0)) -> None:
        self.num_train_timesteps, self.end = num_train_timesteps, end

    @abstractmethod
    def coefficients(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(a, b)`` at the network's times t, float64, on t's device."""

    @abstractmethod
    def of_sigma(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(a, b)`` at a scheduler's ``sigmas``, float64: ``b/a`` on VP, b on flow."""

    @abstractmethod
    def time_of_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """Training times, fractional, float64, at a scheduler's ``sigmas``."""

    def training_time(self, t: torch.Tensor) -> torch.Tensor:
        """Training times, float64, of the network's times t."""
        return t.double()

    @abstractmethod
    def pull(self, times: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Integral of ``(t/T_max) d log(a/b)`` from each of ``times`` to its end; training times, ``T_max`` the first.

        1 for each step of a run that starts at time 0, where there is nothing to integrate.
        """

    def pull_of_sigmas(self, sigmas: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """As ``pull``, between a scheduler's sigmas."""
        return self.pull(self.time_of_sigma(sigmas), self.time_of_sigma(ends))


class DiscreteCurve(Curve):
    """Variance-preserving diffusion on N whole times, ``a = sqrt(abar), b = sqrt(1 - abar)``.

    Between whole times ``log(b/a)`` is linear in t, as diffusers' schedulers have it when they turn sigmas into times.

    Args:
        alphas_cumprod: abar [N].
        final: abar of the clean end.
    """

    kind = "vp"

    def __init__(self, alphas_cumprod: torch.Tensor, final: float = 1.0) -> None:
        super().__init__(len(alphas_cumprod), (math.sqrt(final), math.sqrt(1.0 - final)))
        self._abar = alphas_cumprod.detach().cpu().double()
        # log(b/a), rising; infinite where there is no signal.
        self._log_sigma = 0.5 * (torch.log1p(-self._abar) - self._abar.log())

    def coefficients(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the base class says; whole times read the table itself."""
        if t.is_floating_point():
            self._log_sigma = self._log_sigma.to(t.device)
            return self.of_sigma(_interpolated(self._log_sigma, t.double()).exp())
        self._abar = self._abar.to(t.device)
        abar = self._abar[t.long()]
        return abar.sqrt(), (1.0 - abar).sqrt()

    def of_sigma(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``a = 1 / sqrt(1 + sigma^2)``; b from its own formula, so that sigma may be infinite."""
        sigma = sigma.double()
        return (1.0 + sigma**2).rsqrt(), (1.0 + sigma**-2).rsqrt()

    def time_of_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """The inverse of ``coefficients``; sigmas beyond the training's are taken for its first or last."""
        grid = self._log_sigma.cpu()
        log_sigma = sigma.double().log().clamp(float(grid[0]), float(grid[-1]))
        above = torch.searchsorted(grid, log_sigma, right=True).clamp(1, len(grid) - 1)
        low, high = grid[above - 1], grid[above]
        return above - 1 + ((log_sigma - low) / (high - low)).nan_to_num(1.0)

    def pull(self, times: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """The sum over the training's own grid of times, linear between them."""
        t_max = float(times[0])
        if t_max <= 0:
            return torch.ones_like(times)
        half_log_snr = 0.5 * (self._abar.cpu().log() - torch.log1p(-self._abar.cpu()))
        grid = torch.arange(1, len(half_log_snr), dtype=torch.float64)
        cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), -(grid / t_max * half_log_snr.diff()).cumsum(0)])
        return (_interpolated(cumulative, times) - _interpolated(cumulative, ends)).clamp(min=0)

    def pull_of_sigmas(self, sigmas: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """As the base class says; sigmas above the training's count as its last time."""
        last = float(self._log_sigma[-1])
        start, end = ((sigma.double().log() - last).clamp(min=0) for sigma in (sigmas, ends))
        t_max = float(self.time_of_sigma(sigmas[:1]))
        above = (self.num_train_timesteps - 1) / t_max * (start - end) if t_max > 0 else 0.0
        return super().pull_of_sigmas(sigmas, ends) + above


class ContinuousCurve(DiscreteCurve):
    """The same curve for networks that take ``log(sigma) / 4`` for a time (EDM's; ``timestep_type="continuous"``)."""

    def coefficients(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """At ``sigma = exp(4 t)``."""
        return self.of_sigma((4.0 * t.double()).exp())

    def training_time(self, t: torch.Tensor) -> torch.Tensor:
        """Where the training had that sigma."""
        return self.time_of_sigma((4.0 * t.double()).exp())


class FlowCurve(Curve):
    """Rectified flow: ``a = 1 - s, b = s`` at times ``t = s N``."""

    kind = "flow"

    def coefficients(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """At any times, whole or not."""
        return self.of_sigma(t.double() / self.num_train_timesteps)

    def of_sigma(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A flow scheduler's sigmas are s."""
        sigma = sigma.double()
        return 1.0 - sigma, sigma

    def time_of_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """``s N``."""
        return sigma.double() * self.num_train_timesteps

    def pull(self, times: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """In closed form: ``(s/s_max) ds / (s (1 - s))`` integrates to ``-log(1 - s) / s_max``."""
        t_max = float(times[0])
        if t_max <= 0:
            return torch.ones_like(times)
        start, end = times / self.num_train_timesteps, ends / self.num_train_timesteps
        return (torch.log1p(-end) - torch.log1p(-start)) * (self.num_train_timesteps / t_max)


def _interpolated(values: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A table [N] of whole times, read at fractional ones; constant beyond its ends, and exact at whole times."""
    t = t.clamp(0, len(values) - 1)
    low = t.floor().long()
    weight, first = t - low, values[low]
    rise = values[(low + 1).clamp(max=len(values) - 1)] - first
    return torch.where(weight > 0, first + weight * rise, first)
