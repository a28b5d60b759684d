"""What half-precision networks need on their way backward: cotangents brought to the range of their dtype."""

from __future__ import annotations

import torch

from . import dispatch
from .shapes import per_sample, widened


def reference(g_raw: torch.Tensor, peak: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``g_raw / max(peak, tiny)`` of each sample, computed in float32 at least, then cast to ``dtype``."""
    g = widened(g_raw)
    scale = peak.to(g.dtype).clamp_min(torch.finfo(g.dtype).tiny)
    return (g / per_sample(scale.repeat(len(g_raw) // max(1, len(peak))), g)).to(dtype).contiguous()


@torch.library.custom_op("fastsync::scale_cotangent", mutates_args=())
def _op(g_raw: torch.Tensor, peak: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return dispatch.choose("scale_cotangent", g_raw)(g_raw, peak, dtype)


@_op.register_fake
def _(g_raw: torch.Tensor, peak: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return g_raw.new_empty(g_raw.shape, dtype=dtype)


def scale_cotangent(g_raw: torch.Tensor, peak: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cotangents with magnitudes up to 1, so that the backward of a float16 network does not overflow.

    Gradients are linear in the cotangent: the vector-Jacobian product is to be multiplied by ``peak``, which
    :func:`control_update` does. A sample whose cotangents are all 0 stays 0.

    Args:
        g_raw: [R B, C, h, w], cotangents of R outputs for each of B samples (guidance's two halves), R outermost.
        peak: [B], the largest ``|g_raw|`` of each sample, as `control_grad` returns it.
        dtype: of the result, the network's.

    Returns:
        [R B, C, h, w] in ``dtype``.
    """
    if peak.ndim != 1 or len(g_raw) % max(1, len(peak)) or len(g_raw) and not len(peak):
        raise ValueError(
            "scale_cotangent: peak must be [B], one number a sample, and g_raw [R B, ...] a multiple of B rows, got "
            f"{list(peak.shape)} and {list(g_raw.shape)}."
        )
    if not dtype.is_floating_point:
        raise TypeError(f"scale_cotangent: dtype must be a floating point type, got {dtype}.")
    scaled: torch.Tensor = dispatch.call("scale_cotangent", _op, g_raw, g_raw, peak, dtype)
    return scaled
