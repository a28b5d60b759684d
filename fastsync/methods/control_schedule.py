"""How far controls move and what they cost, over the iterations and steps of a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

from ..errors import check_number, shown

StepRate = Callable[[int, int], float]  # of the run's step and the iteration, both from 0
LearningRate = float | Sequence[float] | Callable[[int], float] | StepRate
ControlCost = float | Callable[[int], float]


def checked_rates(lr: Any, iterations: int) -> list[float] | StepRate:
    """Adam's step size at each iteration; a function of step and iteration is asked when a run tells its steps."""
    if callable(lr):
        count = _required(lr)
        if count > 2:
            raise TypeError(
                f"lr must be a function of the iteration, or of the step and the iteration, got {shown(lr)} of {count} "
                "arguments: give the others a default."
            )
        if count == 2:
            return cast(StepRate, lr)
        lr = [lr(iteration) for iteration in range(iterations)]
    if isinstance(lr, (list, tuple)):
        if len(lr) != iterations:
            raise ValueError(f"lr must be one number or {iterations} (one an iteration), got {len(lr)}.")
        return [check_number("lr", rate, minimum=0.0) for rate in lr]
    return [check_number("lr", lr, minimum=0.0)] * iterations


def rates_of(rates: list[float] | StepRate, steps: int, iterations: int) -> list[list[float]]:
    """Adam's step size at each step and iteration, [T][K]."""
    if not callable(rates):
        return [rates] * steps
    return [[check_number("lr", rates(k, i), minimum=0.0) for i in range(iterations)] for k in range(steps)]


def checked_cost(cost: Any) -> ControlCost:
    """A number, or a function of the step, which is asked when a run tells its steps."""
    return cast(ControlCost, cost) if callable(cost) else check_number("control_cost", cost, minimum=0.0)


def costs_of(cost: ControlCost, steps: int) -> list[float]:
    """What controls cost at each step, [T]."""
    if not callable(cost):
        return [cost] * steps
    return [check_number("control_cost", cost(k), minimum=0.0) for k in range(steps)]


def _required(function: Callable[..., Any]) -> int:
    """How many positional arguments a function has to be given; 1 where it does not tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)
