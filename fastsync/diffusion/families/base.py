"""What a family of schedulers is: how one class of diffusers' schedulers steps, read once and asked for tables."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from ...errors import shown
from ...ops.cfg_tweedie import PREDICTION_TYPES
from ..clipping import Clipping
from ..curve import Curve
from ..table import StepTable

VP_PREDICTIONS = PREDICTION_TYPES[:3]
# Other spellings in schedulers' configs.
_SPELLINGS = {"v": "v_prediction", "original_sample": "sample", "flow_prediction": "flow"}


class Refusal(Exception):
    """A scheduler's steps are of another form.

    Args:
        why: a clause that follows "because".
        mend: what to do, as an imperative; None: use one of the schedulers that are supported.
    """

    def __init__(self, why: str, mend: str | None = None) -> None:
        super().__init__(why)
        self.why, self.mend = why, mend


class Family(ABC):
    """How the schedulers of one class step.

    Args:
        scheduler: a diffusers scheduler; it is copied.

    Attributes:
        solver: short name of what runs.
        scheduler: the copy.
        curve: signal and noise over training times.
        prediction_type: one of ``ops.PREDICTION_TYPES``.
        clipping: of clean estimates.
        own_noise: whether the scheduler itself says how much noise its steps draw.
        order: 2 where steps look back at the estimate before.

    Raises:
        Refusal: see there.
        ValueError: an unknown prediction type.
    """

    solver: str
    curve: Curve
    prediction_type: str
    clipping: Clipping = Clipping()
    own_noise: bool = False
    order: int = 1

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = copy.deepcopy(scheduler)

    @abstractmethod
    def table(self, scheduler: Any, eta: float) -> StepTable:
        """The table of a run, from a copy of the scheduler whose times are set."""


def prediction_of(config: Any, known: Iterable[str]) -> str:
    """The config's prediction type as the ops spell it; ValueError if it is none of the known."""
    given = config.get("prediction_type", "epsilon")
    prediction = _SPELLINGS.get(given, given)
    if prediction not in known:
        raise ValueError(
            f"prediction_type must be one of {', '.join(VP_PREDICTIONS)} or flow_prediction, got {shown(given)}: set "
            "it in the scheduler's config to what the model was trained to predict."
        )
    return prediction
