"""What the network is asked in a run: conditions, guidance, batches, and the account of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..conditions import Conditions
from ..guidance import Guidance
from ..priors.base import Prediction, Prior
from ..priors.reuse import DeepFeatures
from ..scheduling import Work
from ..stats import Stats
from ..transfer import to_device
from .query import Query
from .timetable import Timetable


class Network:
    """A prior's network with one run's conditions and guidance.

    Args:
        prior: who is asked.
        cond, uncond: of all views, on the prior's device; ``uncond`` None without guidance.
        guidance: how the two are combined.
        times: the run's step table.
        stats: the run's account, in which every row is counted.
        buckets: ascending batch sizes that the network is called with, smaller batches being padded; None: any size.

    Attributes:
        device: the prior's.
        told: names and shapes of the conditions as they were given.
    """

    def __init__(
        self,
        prior: Prior,
        cond: Conditions | None,
        uncond: Conditions | None,
        guidance: Guidance,
        times: Timetable,
        stats: Stats,
        buckets: Sequence[int] | None = None,
    ) -> None:
        self.prior, self.cond, self.uncond, self.guidance = prior, cond, uncond, guidance
        self.told = f"{cond}, {uncond}"
        self.stats, self.buckets, self._times = stats, buckets, times
        self.device = prior.device
        self._scales = guidance.scales(len(times))
        self._scale_column = torch.tensor(self._scales, dtype=torch.float64, device=times.table.a.device)

    def prepare(self, num_views: int) -> None:
        """Let the prior compute, once a run, what depends on conditions alone."""
        self.cond, self.uncond = self.prior.prepare_conditions(self.cond, self.uncond, num_views)

    def limit(self, most: int) -> None:
        """Pad no batch beyond ``most`` views, because more do not fit the memory."""
        if self.buckets is not None:
            self.buckets = [*(size for size in self.buckets if size < most), most]

    def state_dict(self) -> dict[str, Any]:
        """The batch sizes that calls are padded to."""
        return {"buckets": self.buckets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with those sizes."""
        self.buckets = state["buckets"]

    def query(self, work: Work) -> Query:
        """The question about a batch of work, to be asked at any x."""
        t, a, b = (self._times.at(name, work) for name in ("timesteps", "a", "b"))
        return self._query(work, t, a, b, self._scale_column[self._times.steps(work)])

    def predict(self, x: torch.Tensor, work: Work) -> Prediction:
        """The prior's estimates at x [B, C, h, w] for the batch's views and times; differentiable in x."""
        return self.query(work).predict(x)

    def predict_at(self, x: torch.Tensor, work: Work, t: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Prediction:
        """As ``predict``, at times t [B] with coefficients a, b [B] that need not be the table's."""
        scales = self._scale_column[to_device(torch.tensor([k for _, k in work]), self._scale_column.device)]
        return self._query(work, t, a, b, scales).predict(x)

    def deep_features(self) -> DeepFeatures:
        """A new, empty store of the network's deep features, for ``Query.evaluate``."""
        return self.prior.deep_features()

    def _query(self, work: Work, t: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> Query:
        views = [i for i, _ in work]
        # Where nobody in the batch is guided, the unconditional half has no effect and is left out.
        guided = self.uncond is not None and any(self._scales[k] != 1.0 for _, k in work)
        cond = None if self.cond is None else self.cond.select(views)
        uncond = self.uncond.select(views) if guided and self.uncond is not None else None
        told = (self.prior, self.device, self.stats, self.buckets, self.guidance.rescale)
        return Query(*told, t, a, b, scale, cond, uncond)
