"""SyncSDE (Lee 2025): each view is drawn to its neighbour's noisy state of the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..canvases.base import LinearCanvas
from ..errors import check_choice, check_number
from ..run import Estimates, Run
from ..scheduling import Work
from .base import Bound, Method
from .coupling import Rule, coupling_table


@dataclass(eq=False)
class SyncSDE(Method):
    """``eps~ = eps + M (x - T(x')) (1/lambda)(t/T_max) / b_t``, then the plain step (docs/mathematics.md, "SyncSDE").

    ``T(x')`` is what the earlier views show at the view's cells, M the area that they cover; x' are the states BEFORE
    the step, so all views of a step form one batch. One evaluation a view and step.

    Args:
        inv_lambda: 1/lambda, strength of the coupling; 0 samples views independently.
        coupling: ``"published"``, whose total pull depends on the number of steps and can overshoot with few, or
            ``"stable"``: the same total pull at any number of steps, never above 1 a step. None takes the published
            one where it exists and the stable one on flow models, which start at a = 0.
    """

    inv_lambda: float = 5.0
    coupling: Rule | None = None

    noise_use = "read"

    def __post_init__(self) -> None:
        self.inv_lambda = check_number("inv_lambda", self.inv_lambda, minimum=0.0)
        check_choice("coupling", self.coupling, (None, "published", "stable"))

    def sources(self, canvas: LinearCanvas, order: Sequence[int]) -> Sequence[Sequence[int]]:
        """Nobody waits: neighbours are read as they were before the step."""
        return [()] * len(order)

    def bind(self, run: Run) -> _BoundSyncSDE:
        """Refuses the published coupling where it does not exist, at a = 0."""
        return _BoundSyncSDE(self, run)


class _BoundSyncSDE(Bound[SyncSDE]):
    def __init__(self, settings: SyncSDE, run: Run) -> None:
        super().__init__(settings, run)
        _, self._pull = coupling_table(run.times.table, settings.inv_lambda, settings.coupling)
        self._neighbours = run.canvas.neighbours(run.order)

    def estimate(self, work: Work) -> Estimates:
        """The prior's estimates, and the pull to the neighbours."""
        run = self.run
        x = run.states.before(work)
        prediction = run.network.predict(x, work)
        address = run.states.address(work, self._neighbours)
        return Estimates(x, prediction, pull=self._pull[run.times.steps(work)], address=address)

    def compose(self, views: torch.Tensor) -> torch.Tensor:
        """Later views painted over earlier ones, as published."""
        return self.run.canvas.composite(views, self.run.order)
