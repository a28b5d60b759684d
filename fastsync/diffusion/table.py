"""The table of one run: which coefficients each of its steps has."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch


class Levels(NamedTuple):
    """Signal and noise at each step's time and at the time that it leads to, [T], float64, on the CPU."""

    a: torch.Tensor
    b: torch.Tensor
    a_next: torch.Tensor
    b_next: torch.Tensor

    def full_noise(self) -> torch.Tensor:
        """``sigma`` of eta = 1, ``(b_s/b_t) sqrt(b_t^2 - (a_t/a_s)^2 b_s^2)`` (Song 2021, eq. 16)."""
        a, b, a_next, b_next = self
        variance = (b_next / b) ** 2 * (b**2 - (a / a_next) ** 2 * b_next**2)
        return variance.clamp(min=0).sqrt()


@dataclass(frozen=True)
class StepTable:
    """Per-step coefficients of one run of T steps; the tensors are [T], float64, on the CPU.

    A step leads from ``x_t = a x0 + b eps`` to

    ``x_s = a_next D + direction eps_D + sigma z``, with ``eps_D = (x_t - a D) / b`` and z standard normal noise

    (docs/mathematics.md, "Steps and schedulers"). D is the clean estimate x0 itself where the step is of first order;
    else :func:`fastsync.diffusion.solver_estimate` makes it from the columns ``extrapolation`` and ``boundary_*``.

    Attributes:
        timesteps: times as the network takes them, first to last: int64, or float32 where the scheduler's own times
            are fractional.
        a, b: coefficients at the step's time t. They are the scheduler's own, and may differ a little from
            ``NoiseSchedule.coefficients(timesteps)`` where it rounds the times that it hands to the network.
        a_next, b_next: coefficients at the time s that the step leads to.
        sigma: standard deviation of the noise that the step adds.
        direction: what multiplies ``eps_D``: ``sqrt(b_next^2 - sigma^2)``, except for DDPM with a fixed large variance,
            whose noise exceeds what the step takes away.
        progress: ``t / T_max`` in training times, 1 at the first step.
        pull: integral of ``(t/T_max) d log(a/b)`` over the step, for the stable coupling (inf where a = 0).
        extrapolation: ``D = x0 + extrapolation (x0 - x0 of the step before)``; 0 where the step is of first order.
        boundary_x0, boundary_x: ``D = boundary_x0 x0 + boundary_x x_t`` of latent consistency models; None elsewhere.
        start: what standard normal noise is multiplied by to become the first x_t.
    """

    timesteps: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    a_next: torch.Tensor
    b_next: torch.Tensor
    sigma: torch.Tensor
    direction: torch.Tensor
    progress: torch.Tensor
    pull: torch.Tensor
    extrapolation: torch.Tensor
    boundary_x0: torch.Tensor | None = None
    boundary_x: torch.Tensor | None = None
    start: float = 1.0

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise."""
        return bool((self.sigma > 0).any())

    @property
    def multistep(self) -> bool:
        """Whether any step needs the clean estimate of the step before."""
        return bool((self.extrapolation != 0).any())

    def after(self, skipped: int) -> StepTable:
        """The table without its first steps, for runs that begin from noised pictures."""
        if not skipped:
            return self
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        rest: dict[str, Any] = {n: c[skipped:].clone() for n, c in columns.items() if isinstance(c, torch.Tensor)}
        first = float(rest["progress"][0])
        rest["progress"], rest["pull"] = rest["progress"] / first, rest["pull"] / first
        rest["extrapolation"][0] = 0.0  # there is no step before it
        return replace(self, **rest)

    def to(self, device: torch.device) -> StepTable:
        """The table on a device."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        moved: dict[str, Any] = {n: c.to(device) for n, c in columns.items() if isinstance(c, torch.Tensor)}
        return replace(self, **moved)


def is_vanishing(a: torch.Tensor) -> bool:
    """Whether a run touches a time without signal (``a = 0``), where divisions by ``a`` do not exist."""
    return bool((a < math.sqrt(torch.finfo(torch.float64).tiny)).any())


def make_table(
    timesteps: torch.Tensor,
    times: torch.Tensor,
    levels: Levels,
    sigma: torch.Tensor,
    pull: torch.Tensor,
    direction: torch.Tensor | None = None,
    extrapolation: torch.Tensor | None = None,
    boundary: tuple[torch.Tensor, torch.Tensor] | None = None,
    start: float = 1.0,
) -> StepTable:
    """A table from what the scheduler gives and what follows from it.

    Args:
        timesteps, sigma, pull, direction, extrapolation, start: as in :class:`StepTable`; direction None is
            ``sqrt(b_next^2 - sigma^2)``, extrapolation None is 0.
        times: [T], float64, training times at which the steps start, for ``progress``.
        levels: the steps' coefficients.
        boundary: ``boundary_x0`` and ``boundary_x``, or None.
    """
    if direction is None:
        direction = (levels.b_next**2 - sigma**2).clamp(min=0).sqrt()
    if extrapolation is None:
        extrapolation = torch.zeros_like(levels.a)
    t_max = float(times[0])
    progress = times / t_max if t_max > 0 else torch.ones_like(times)
    boundary_x0, boundary_x = boundary or (None, None)
    return StepTable(
        timesteps,
        *levels,
        sigma=sigma,
        direction=direction,
        progress=progress,
        pull=pull,
        extrapolation=extrapolation,
        boundary_x0=boundary_x0,
        boundary_x=boundary_x,
        start=start,
    )
