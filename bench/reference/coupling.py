"""The coupling of SyncSDE and SyncVC: how strongly a view is drawn to what earlier views show."""

from __future__ import annotations

import math
from typing import Literal

from bench.reference.model import Model, Step

Rule = Literal["published", "stable"]


def pulls(model: Model, step: Step, inv_lambda: float, rule: Rule) -> tuple[float, float]:
    """``(c, g)`` of ``eps~ = eps + c M (x - y)``, which as a change of the step is ``x_s -= g M (x - y)``.

    ``"published"``: ``c = (1/lambda) (t/T_max) / b``. ``"stable"``: ``g = 1 - exp(-(1/lambda) pull)``, which exists at
    a = 0 as well.
    """
    # What a unit of eps changes in x_s, apart from its sign and times b.
    ratio = step.a_next / step.a - step.direction / step.b if step.a > 0 else math.inf
    if rule == "published":
        pull = inv_lambda * step.time / step.first
        return pull / step.b, ratio * pull
    g = 1.0 - math.exp(-inv_lambda * model.pull(step)) if inv_lambda > 0 else 0.0
    return (g / ratio / step.b if g > 0 else 0.0), g
