"""How strongly a view is drawn to its neighbours' noisy states: SyncSDE's coupling, which SyncVC shares."""

from __future__ import annotations

from typing import Literal

import torch

from ..diffusion import StepTable, is_vanishing

Rule = Literal["published", "stable"]


def coupling_table(table: StepTable, inv_lambda: float, rule: Rule | None) -> tuple[torch.Tensor, torch.Tensor]:
    """``(c / b_t, g)`` of each step, float64 [T]: in eps and in step form the coupling is

    ``eps~ = eps + (c / b_t) M (x - y)`` and ``x_s -= g M (x - y)``, with ``g = (a_s/a_t - direction/b_t) c``.

    - ``"published"``: ``c = (1/lambda)(t/T_max)`` (Lee 2025); its total pull depends on the number of steps, and with
      few of them g exceeds 1.
    - ``"stable"``: ``g = 1 - exp(-(1/lambda) integral of (t/T_max) d log(a/b))``, in [0, 1]: the product of ``1 - g``
      over a run depends on its first time only, and for small steps g is the published one.

    None takes the published rule where it exists and the stable one at ``a_t = 0``, where flow models start.
    """
    vanishing = is_vanishing(table.a)
    rule = rule or ("stable" if vanishing else "published")
    if vanishing and rule == "published" and inv_lambda > 0:
        raise ValueError(
            "coupling='published' divides by a_t, which is 0 at this schedule's first time: use coupling='stable'."
        )
    none = torch.zeros_like(table.a)
    if inv_lambda == 0:
        return none, none
    ratio = table.a_next / table.a - table.direction / table.b
    if rule == "published":
        pull = inv_lambda * table.progress
        return pull / table.b, ratio * pull
    step = stable_coupling(inv_lambda, table.pull)
    # 0 / 0 where a step does not move (t = 0 with set_alpha_to_one=False).
    return torch.where(step > 0, step / ratio, none) / table.b, step


def stable_coupling(inv_lambda: float, pull: torch.Tensor) -> torch.Tensor:
    """``g = 1 - exp(-(1/lambda) pull)`` in [0, 1), 1 where the pull is infinite (a = 0)."""
    return -torch.expm1(-inv_lambda * pull) if inv_lambda > 0 else torch.zeros_like(pull)
