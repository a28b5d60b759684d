"""What half-precision networks need on their way backward: cotangents brought to the range of their dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from . import dispatch
from .declare import define
from .samples import Draw
from .shapes import per_sample, widened


def reference(g_raw: torch.Tensor, peak: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``g_raw / max(peak, tiny)`` of each sample, computed in float32 at least, then cast to ``dtype``."""
    g = widened(g_raw)
    scale = peak.to(g.dtype).clamp_min(torch.finfo(g.dtype).tiny)
    return (g / per_sample(scale.repeat(len(g_raw) // max(1, len(peak))), g)).to(dtype).contiguous()


def _samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    for batch, *view in draw.shapes:
        for halves, layout in ((2, "channels_last"), (2, "strided"), (1, "contiguous")):
            g_raw = draw.normal(halves * batch, *view, layout=layout)
            peak = g_raw.abs().reshape(halves, batch, -1).amax((0, 2))
            g_raw[0], peak[0] = 0.0, 0.0  # nothing to steer: 0, not 0 / 0
            if halves == 2:
                g_raw[batch] = 0.0
            yield g_raw, peak, draw.dtype


OP = define(
    "scale_cotangent",
    reference=reference,
    triton="scale_cotangent",
    fake=lambda given: given.g_raw.new_empty(given.g_raw.shape, dtype=given.dtype),
    samples=_samples,
)


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
    return dispatch.call(OP, g_raw, peak, dtype)
