"""SyncSDE (Lee 2025): each view is drawn to its neighbour's noisy state of the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..canvases.base import Neighbours
from ..errors import check_choice, check_number
from ..run import Run
from ..scheduling import Work
from .base import Method
from .coupling import Rule, coupling_table


class SyncSDE(Method):
    """``eps~ = eps + M (x - T(x')) (1/lambda)(t/T_max) / b_t``, then the plain step (DESIGN.md, section 4).

    ``T(x')`` is what the earlier views show at the view's cells, M the area that they cover; x' are the states BEFORE
    the step, so all views of a step form one batch. One evaluation a view and step.

    Args:
        inv_lambda: 1/lambda, strength of the coupling; 0 samples views independently.
        coupling: ``"published"``, whose total pull depends on the number of steps and can overshoot with few, or
            ``"stable"``: the same total pull at any number of steps, never above 1 a step. None takes the published
            one where it exists and the stable one on flow models, which start at a = 0.
    """

    noise = "read"

    def __init__(self, inv_lambda: float = 5.0, coupling: Rule | None = None) -> None:
        self.inv_lambda = check_number("inv_lambda", inv_lambda, minimum=0.0)
        self.coupling = check_choice("coupling", coupling, (None, "published", "stable"))

    def begin(self, run: Run) -> _Plan:
        """Build the run's neighbours and coupling coefficients; refuse what does not exist at a = 0."""
        _, step_pull = coupling_table(run.table, self.inv_lambda, self.coupling)
        return _Plan(run.canvas.neighbours(run.order), step_pull)

    def advance(self, run: Run, work: Work) -> None:
        """Take the batch's views one coupled step on."""
        plan, x = run.prepared, run.states(work)
        prediction = run.predict(x, work)
        x_next = run.step(prediction, work, plan.step_pull[run.steps_of(work)], x, run.address(work, plan.neighbours))
        run.advance(work, x_next, prediction.x0)

    def compose(self, run: Run, views: torch.Tensor) -> torch.Tensor:
        """Later views painted over earlier ones, as published."""
        return run.canvas.composite(views, run.order)

    def sources(self, canvas: object, order: Sequence[int]) -> Sequence[Sequence[int]]:
        """Nobody waits: neighbours are read as they were before the step."""
        return [()] * len(order)


@dataclass(frozen=True)
class _Plan:
    neighbours: Neighbours
    step_pull: torch.Tensor
