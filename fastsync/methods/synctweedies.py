"""SyncTweedies (Kim 2024): the clean estimates are merged, and every view steps towards the merge."""

from __future__ import annotations

import torch

from .. import ops
from ..priors.base import Prediction
from ..run import Run
from ..scheduling import Work
from .base import Method

_AT_ONCE = 4  # views in the decoder, which takes much memory


class SyncTweedies(Method):
    """``x0' = project(merge(x0))`` and ``eps' = (x_t - a x0') / b``, then the step (Kim et al. 2024, case 2).

    One evaluation a view and step. A canvas may be in pixels for a prior of latents: clean estimates are then decoded
    before they are merged and encoded afterwards, because latents do not turn as pictures do.
    """

    joins = True
    pixels = True

    def begin(self, run: Run) -> dict[int, torch.Tensor]:
        """Clean estimates of the step under way, by view."""
        return {}

    def advance(self, run: Run, work: Work) -> None:
        """Ask the prior; the step itself waits for all views."""
        x = run.states(work)
        x0 = run.predict(x, work).x0
        run.prepared.update({i: clean for (i, _), clean in zip(work, x0, strict=True)})

    def synchronise(self, run: Run, step: int) -> None:
        """Step all views with the merged estimate and the eps that belongs to it."""
        work = [(i, step) for i in range(run.canvas.num_views)]
        x = run.states(work)
        clean = torch.stack([run.prepared[i] for i, _ in work])
        shown = _decoded(run, clean)
        x0 = run.shown(run.canvas.merge(shown), shown)
        if run.pixels:
            x0 = torch.cat([run.encode(part) for part in x0.split(_AT_ONCE)])
        # The merged estimate is read as a prediction of x0, which has its own eps.
        prediction = Prediction(*ops.cfg_tweedie(x0, None, x, run.at("a", work), run.at("b", work), 1.0, "sample"))
        run.advance(work, run.step(prediction, work), x0)

    def finish(self, run: Run, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The merge of the final views, and these, in the canvas's units."""
        views = _decoded(run, views)
        return self.compose(run, views), views


def _decoded(run: Run, views: torch.Tensor) -> torch.Tensor:
    """Clean views in the canvas's units, a few at a time where they have to be decoded."""
    return torch.cat([run.in_canvas_units(part) for part in views.split(_AT_ONCE)]) if run.pixels else views
