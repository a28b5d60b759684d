"""A diffusion model as the references see it: guided estimates, and the steps of DDIM or of flow Euler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# x [B, C, h, w], times [B], conditions [B, ...] -> what the scheduler's prediction type says, [B, C, h, w].
Network = Callable[[Tensor, Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """One step of a run, floats: times as the network takes them, and ``x = a x0 + b eps`` at both ends.

    The step adds noise of standard deviation ``sigma`` and keeps ``direction`` of the old; ``first`` is the run's first
    time, and the clean end is time 0.
    """

    time: float
    after: float
    first: float
    a: float
    b: float
    a_next: float
    b_next: float
    sigma: float
    direction: float


@dataclass
class Model:
    """A network, its scheduler (DDIM's or flow Euler's), and what its views are told.

    ``cond`` and ``uncond`` have one row a view, or one that serves all; ``uncond`` None is without guidance.
    """

    network: Network
    scheduler: Any
    cond: Tensor
    uncond: Tensor | None = None
    guidance_scale: float = 1.0
    rows: int = 0  # of all network batches so far

    @property
    def kind(self) -> str:
        """The prediction type; a flow scheduler's config has none."""
        return str(self.scheduler.config.get("prediction_type", "flow"))

    def steps(self, count: int, eta: float = 0.0) -> list[Step]:
        """A run's steps, as diffusers walks them."""
        scheduler = self.scheduler
        scheduler.set_timesteps(count)
        if self.kind != "flow":
            times = [int(t) for t in scheduler.timesteps]
            back = scheduler.config.num_train_timesteps // count
            return [self.step(t, t - back, times[0], eta) for t in times]
        times, sigmas = scheduler.timesteps.tolist(), scheduler.sigmas.tolist()
        return [
            _step((time, after, times[0]), (1 - now, now), (1 - then, then), eta)
            for time, after, now, then in zip(times, [*times[1:], 0.0], sigmas[:-1], sigmas[1:], strict=True)
        ]

    def step(self, time: int, after: int, first: int, eta: float = 0.0) -> Step:
        """DDIM's step from one time to another, or to the clean end where that is below 0."""
        abar = self.scheduler.alphas_cumprod
        now = float(abar[time])
        then = float(abar[after]) if after >= 0 else float(self.scheduler.final_alpha_cumprod)
        ends = (now**0.5, (1 - now) ** 0.5), (then**0.5, (1 - then) ** 0.5)
        return _step((time, max(after, 0), first), *ends, eta)

    def predict(self, x: Tensor, step: Step, views: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Guided ``(x0, eps)`` of views x [B, C, h, w] of these numbers at a step's time, both halves in a batch."""
        rows, conditions = [x], [_rows(self.cond, views)]
        if self.uncond is not None:
            rows, conditions = [x, x], [_rows(self.uncond, views), *conditions]
        given = torch.cat(rows)
        self.rows += len(given)
        time = torch.full((len(given),), step.time, device=x.device)
        raw = self.network(given, time, torch.cat(conditions)).to(x.dtype)
        if self.uncond is not None:
            uncond, cond = raw.chunk(2)
            raw = uncond + self.guidance_scale * (cond - uncond)
        if self.kind == "v_prediction":
            return step.a * x - step.b * raw, step.a * raw + step.b * x
        if self.kind == "flow":
            return x - step.b * raw, x + step.a * raw
        assert self.kind == "epsilon", f"the references do not know prediction_type={self.kind!r}"
        return (x - step.b * raw) / step.a, raw

    def pull(self, step: Step) -> float:
        """The integral of ``(t / first) d log(a/b)`` over a step; infinite from a = 0."""
        if self.kind == "flow":
            count = self.scheduler.config.num_train_timesteps
            here, there, first = (time / count for time in (step.time, step.after, step.first))
            return (math.log(1 - there) - math.log(1 - here)) / first if here < 1 else math.inf
        abar = self.scheduler.alphas_cumprod.double()
        lines = torch.log(abar.sqrt() / (1 - abar).sqrt())
        grid = torch.arange(int(step.after) + 1, int(step.time) + 1)
        return float((grid / step.first * (lines[grid - 1] - lines[grid])).sum())


def _step(times: tuple[float, float, float], here: tuple[float, float], there: tuple[float, float], eta: float) -> Step:
    (a, b), (a_next, b_next) = here, there
    sigma = eta * b_next / b * math.sqrt(max(b**2 - (a / a_next) ** 2 * b_next**2, 0.0))
    return Step(*times, a, b, a_next, b_next, sigma, math.sqrt(max(b_next**2 - sigma**2, 0.0)))


def _rows(cond: Tensor, views: Sequence[int]) -> Tensor:
    return cond.expand(len(views), *cond.shape[1:]) if len(cond) == 1 else cond[list(views)]
