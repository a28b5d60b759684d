"""A diffusers scheduler as the rest of the package sees it: coefficients, clipping and tables of steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch

from ..errors import check_choice, check_int, check_number
from .curve import ContinuousCurve, Kind
from .families import family_of
from .table import Levels, StepTable, make_table
from .times import set_times

Solver = Literal["auto", "ddim"]


class NoiseSchedule:
    """``(a_t, b_t)``, prediction type, clipping and steps, read from a diffusers scheduler.

    Everything in fastsync is written with ``x_t = a_t x_0 + b_t eps`` (docs/mathematics.md, "Signal and noise"), and
    every scheduler whose steps have one form is run by them ("Steps and schedulers"). The given scheduler is never
    changed.

    Args:
        scheduler: a diffusers scheduler.
        solver: ``"auto"``: the scheduler's own steps. ``"ddim"``: DDIM's, with the scheduler's betas and prediction
            type and with the times that DDIM makes of its config, for any discrete scheduler; Euler's for flows.

    Attributes:
        solver: short name of what runs, such as ``"ddim"`` or ``"dpmsolver++(2M)"``.
        scheduler_name: class of the given scheduler.
        kind: ``"vp"`` (``a^2 + b^2 = 1``) or ``"flow"`` (``a + b = 1``).
        prediction_type: one of ``fastsync.ops.PREDICTION_TYPES``.
        num_train_timesteps: N.
        continuous: whether the network's times are ``log(sigma) / 4`` and lie on no scale of N.

    Raises:
        ValueError: a scheduler whose steps are of another form (the sentence says why, and what to use instead), or an
            unknown prediction type.
    """

    solver: str
    scheduler_name: str
    kind: Kind
    prediction_type: str
    num_train_timesteps: int
    continuous: bool

    def __init__(self, scheduler: Any, solver: Solver = "auto") -> None:
        self._family = family_of(scheduler, check_choice("solver", solver, ("auto", "ddim")))
        self._curve = self._family.curve
        self.solver = self._family.solver
        self.scheduler_name = type(scheduler).__name__
        self.kind = self._curve.kind
        self.prediction_type = self._family.prediction_type
        self.num_train_timesteps = self._curve.num_train_timesteps
        self.continuous = isinstance(self._curve, ContinuousCurve)

    def coefficients(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(a_t, b_t)`` at times t [B] (int64, or float between whole times), float64, on t's device.

        Between whole times of a discrete schedule ``log(b/a)`` is linear in t.
        """
        return self._curve.coefficients(t)

    @property
    def clips(self) -> bool:
        """Whether ``clip`` may change anything."""
        return bool(self._family.clipping)

    def clip(self, x0: torch.Tensor) -> torch.Tensor:
        """Apply the scheduler's ``clip_sample`` or dynamic ``thresholding`` to clean estimates [B, C, h, w]."""
        return self._family.clipping(x0)

    def clip_prediction(
        self, x0: torch.Tensor, eps: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clipped clean estimates and the noise that steps go on with, [B, C, h, w] each.

        DDIM keeps the network's eps; all others take ``(x - a x0) / b`` of the clipped x0, for x at coefficients a, b
        [B].
        """
        return self._family.clipping.prediction(x0, eps, x, a, b)

    def steps(
        self,
        num_inference_steps: int,
        eta: float = 0.0,
        *,
        sigmas: Iterable[float] | None = None,
        mu: float | None = None,
        timesteps: Iterable[float] | None = None,
        original_inference_steps: int | None = None,
    ) -> StepTable:
        """The table of a run.

        Args:
            num_inference_steps: T, at least 1 and at most the training's number of times.
            eta: 0 (deterministic) to 1 (as stochastic as DDPM); ``sigma = eta (b_s/b_t) sqrt(b_t^2 - (a_t/a_s)^2
                b_s^2)``. 0 where the scheduler draws noise of its own or steps are of second order.
            sigmas, mu, timesteps, original_inference_steps: as diffusers' pipelines hand them to ``set_timesteps``: a
                list of noise levels or of times of one's own, the exponent of the dynamic shift, and the steps of a
                latent consistency model's teacher.

        Raises:
            ValueError, TypeError: a value out of range, or one that the scheduler does not take; mu is missing.
        """
        steps = check_int("num_inference_steps", num_inference_steps)
        self._check_eta(check_number("eta", eta, minimum=0.0, maximum=1.0))
        if steps > self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps must be at most {self.num_train_timesteps} (the training's), got {steps}."
            )
        scheduler = set_times(self._family.scheduler, steps, sigmas, mu, timesteps, original_inference_steps)
        first = float(scheduler.timesteps.max())
        if self.kind == "vp" and first > self.num_train_timesteps - 1:
            # An offset may put the first time past the last of the training.
            raise ValueError(
                f"{steps} steps with steps_offset={scheduler.config.get('steps_offset', 0)} start at time {first:g}, "
                f"but the last is {self.num_train_timesteps - 1}: take fewer steps, steps_offset=0 or earlier times."
            )
        table = self._family.table(scheduler, eta)
        low, high = float(table.b.min()), float(table.b.max())
        if not (low > 0 and high <= 1):
            raise ValueError(
                f"steps of {self.scheduler_name} must start at noise above 0 and, in a flow, of at most 1, got b from "
                f"{high:g} to {low:g}: give sigmas in that range (without a final 0 where the scheduler adds one), or "
                "take another number of steps."
            )
        return table

    def table_at(self, times: torch.Tensor, multistep: bool = False) -> StepTable:
        """The table of deterministic steps from each of ``times`` to the next, and from the last to the clean end.

        Args:
            times: [T], falling, as the network takes them: int64 below ``num_train_timesteps``, or float.
            multistep: steps of DPM-Solver++(2M) (Lu 2022, algorithm 2) instead of DDIM's. They are of first order at
                both ends, and after a step of less than a quarter of their length, from which they would extrapolate
                too far.

        The clean end is ``a = 1, b = 0``, on discrete schedules diffusers' ``final_alpha_cumprod``.
        """
        a, b = self.coefficients(times)
        a_end, b_end = self._curve.end
        levels = Levels(a, b, torch.cat([a[1:], a.new_tensor([a_end])]), torch.cat([b[1:], b.new_tensor([b_end])]))
        start = self._curve.training_time(times)
        pull = self._curve.pull(start, torch.cat([start[1:], start.new_zeros(1)]))
        extrapolation = _extrapolation(a, b) if multistep else None
        return make_table(times, start, levels, torch.zeros_like(a), pull, extrapolation=extrapolation)

    def _check_eta(self, eta: float) -> None:
        if eta == 0:
            return
        if self._family.own_noise:
            raise ValueError(
                f"eta must be 0 with {self.scheduler_name}, got {eta:g}: its steps ({self.solver}) have noise of their "
                "own, so use eta=0, or DDIMScheduler."
            )
        if self._family.order > 1:
            raise ValueError(
                f"eta must be 0 with {self.scheduler_name}, got {eta:g}: its steps ({self.solver}) are of second "
                "order, so use eta=0, algorithm_type='sde-dpmsolver++', or DDIMScheduler."
            )


def _extrapolation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``h / (2 h_before)`` of each step, h being steps of ``log(a/b)``; 0 where ``table_at`` stays at first order."""
    h = (a / b).log().diff()
    extrapolation = torch.zeros_like(a)
    close = (h[1:] <= 4 * h[:-1]) & (h[:-1] > 0)
    extrapolation[1:-1] = (h[1:] / (2 * h[:-1])).where(close, 0.0)
    return extrapolation
