"""Tensor functions between two network calls: for each, the eager reference that is its specification, fast backends.

Ops know no method, canvas or prior; they take tensors and per-sample coefficients. Each is declared once, by
:func:`fastsync.ops.declare.define` in its own file, which registers it with `torch.library` as ``fastsync::<name>``, so
that compiled code passes through it; `dispatch` chooses the backend.
Results are contiguous, whatever the arguments' layout, and share no memory with an argument or each other. Half types
are computed in float32.
"""

from .accumulate import accumulate, crop, merge
from .cfg_tweedie import cfg_tweedie
from .control_grad import control_grad
from .control_update import control_update
from .ddim_step import ddim_step
from .overlap_loss import overlap_loss
from .resample import resample, splat
from .scale_cotangent import scale_cotangent
from .taps import Taps
from .transform import inverse_permutation, transform
from .uv_accumulate import uv_accumulate

__all__ = [
    "Taps",
    "accumulate",
    "cfg_tweedie",
    "control_grad",
    "control_update",
    "crop",
    "ddim_step",
    "inverse_permutation",
    "merge",
    "overlap_loss",
    "resample",
    "scale_cotangent",
    "splat",
    "transform",
    "uv_accumulate",
]
