"""The step of the run's solver: from what a method estimates to the states after the step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from .. import ops
from ..diffusion import solver_estimate
from ..priors.base import Prediction
from ..scheduling import Work
from ..transfer import to_device
from .noise import Noise
from .states import Address, States
from .timetable import Timetable


class Estimates(NamedTuple):
    """What a method makes of a batch: where its views are, and what is behind them.

    Attributes:
        x: noisy views [B, C, h, w] from which the step goes: the states, or what the method has made of them.
        prediction: the estimates at x that belong together, ``x = a x0 + b eps``, changed by the method or not.
        moved: for each item whether x is not the state that the last step led to, so that no solver may look back over
            it. Empty: none.
        pull, address: each view is also drawn to its neighbours' noisy states y by ``- pull M (x - y)``; pull is [B].
    """

    x: torch.Tensor
    prediction: Prediction
    moved: Sequence[bool] = ()
    pull: torch.Tensor | None = None
    address: Address | None = None


class Stepper:
    """Takes views one step on, by the table of any supported scheduler.

    Solvers of second order look back at the estimate that a view had in its last step. Nothing is kept for that beside
    the pool of clean estimates. Where a view was moved in between, its step is of first order.

    Args:
        times: the run's step table.
        states: of the views; keeps clean estimates where the table looks back.
        noise: of the run.
    """

    def __init__(self, times: Timetable, states: States, noise: Noise) -> None:
        self._times, self._states, self._noise = times, states, noise
        self._multistep = times.table.multistep
        # For each view the step before which it was moved last.
        self._moved = [-1] * states.count

    def step(self, estimates: Estimates, work: Work) -> torch.Tensor:
        """States after the step [B, C, h, w], each view at its own time."""
        at, table = self._times.at, self._times.table
        x, prediction = estimates.x, estimates.prediction
        if self._multistep:
            prediction = self._extrapolated(estimates, work)
        elif table.boundary_x0 is not None:
            scales = {name: at(name, work) for name in ("boundary_x0", "boundary_x")}
            prediction = Prediction(*solver_estimate(*prediction, x, None, at("a", work), at("b", work), **scales))
        a_next, direction, sigma = (at(name, work) for name in ("a_next", "direction", "sigma"))
        noise = self._noise.of(work)
        if estimates.pull is None or estimates.address is None:
            return ops.ddim_step(*prediction, a_next, direction, sigma, noise)
        pull, address, source = estimates.pull, estimates.address, self._states.noisy
        return ops.ddim_step(*prediction, a_next, direction, sigma, noise, pull, x, source, *address)

    def forget(self, views: Iterable[int], step: int) -> None:
        """The views were moved before ``step``, which is of first order for them then."""
        for i in views:
            self._moved[i] = step

    def _extrapolated(self, estimates: Estimates, work: Work) -> Prediction:
        at = self._times.at
        ahead = at("extrapolation", work)
        moved = estimates.moved or [False] * len(work)
        first_order = [was_moved or self._moved[i] == k for was_moved, (i, k) in zip(moved, work, strict=True)]
        if any(first_order):
            keep = torch.tensor([not first for first in first_order], dtype=ahead.dtype)
            ahead = ahead * to_device(keep, ahead.device)
        # Before the first step there is none to look back at: the table's extrapolation is 0 there.
        last = self._states.estimates([(i, max(k - 1, 0)) for i, k in work])
        x0, eps = estimates.prediction
        return Prediction(
            *solver_estimate(x0, eps, estimates.x, last, at("a", work), at("b", work), extrapolation=ahead)
        )

    def state_dict(self) -> dict[str, Any]:
        """Which views were moved when."""
        return {"moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was called."""
        self._moved = state["moved"]
