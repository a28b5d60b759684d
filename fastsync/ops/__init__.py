"""Tensor functions between two network calls: for each, the eager reference that is its specification.

Ops know no method, canvas or prior; they take tensors and per-sample coefficients.
"""

from .accumulate import accumulate, merge
from .cfg_tweedie import cfg_tweedie
from .control_grad import control_grad
from .control_update import control_update
from .ddim_step import ddim_step
from .overlap_loss import overlap_loss

__all__ = [
    "accumulate",
    "cfg_tweedie",
    "control_grad",
    "control_update",
    "ddim_step",
    "merge",
    "overlap_loss",
]
