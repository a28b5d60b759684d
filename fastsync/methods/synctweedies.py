"""SyncTweedies (Kim 2024): the clean estimates are merged, and every view steps towards the merge."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import ops
from ..priors.base import Prediction
from ..run import Estimates, Run
from ..scheduling import Work
from .base import Bound, Method

_AT_ONCE = 4  # views in the decoder, which takes much memory


@dataclass(eq=False)
class SyncTweedies(Method):
    """``x0' = project(merge(x0))`` and ``eps' = (x_t - a x0') / b``, then the step (Kim et al. 2024, case 2).

    One evaluation a view and step. A canvas may be in pixels for a prior of latents: clean estimates are then decoded
    before they are merged and encoded afterwards, because latents do not turn as pictures do.
    """

    joins = True
    takes_pixels = True

    def bind(self, run: Run) -> _BoundSyncTweedies:
        """Nothing is refused."""
        return _BoundSyncTweedies(self, run)


class _BoundSyncTweedies(Bound[SyncTweedies]):
    def __init__(self, settings: SyncTweedies, run: Run) -> None:
        super().__init__(settings, run)
        self._found: dict[int, torch.Tensor] = {}  # clean estimates of the step under way, by view

    def advance(self, work: Work) -> None:
        """Ask the prior; the step itself waits for all views."""
        x0 = self.estimate(work).prediction.x0
        self._found.update({i: clean for (i, _), clean in zip(work, x0, strict=True)})

    def synchronise(self, step: int) -> None:
        """Step all views with the merged estimate and the eps that belongs to it."""
        run = self.run
        work = [(i, step) for i in range(run.canvas.num_views)]
        x = run.states.before(work)
        own = self._decoded(torch.stack([self._found[i] for i, _ in work]))
        self._found.clear()
        x0 = run.project_over(run.canvas.merge(own), own)
        if run.in_pixels:
            x0 = torch.cat([run.encode(part) for part in x0.split(_AT_ONCE)])
        # The merged estimate is read as a prediction of x0, which has its own eps.
        a, b = run.times.at("a", work), run.times.at("b", work)
        prediction = Prediction(*ops.cfg_tweedie(x0, None, x, a, b, 1.0, "sample"))
        run.finish(work, Estimates(x, Prediction(x0, prediction.eps)))

    def result(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The merge of the final views, and these, in the canvas's units."""
        views = self._decoded(views)
        return self.compose(views), views

    def _decoded(self, views: torch.Tensor) -> torch.Tensor:
        """Clean views in the canvas's units, a few at a time where they have to be decoded."""
        run = self.run
        return torch.cat([run.in_canvas_units(part) for part in views.split(_AT_ONCE)]) if run.in_pixels else views
