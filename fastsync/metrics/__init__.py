"""Measures of what was sampled. Pictures are tensors `[..., 3, H, W]` in [0, 1]; measures are batched over `...`."""

from .coherence import (
    chi_square,
    crispness,
    histogram_distance,
    hsv_histogram,
    intersection,
    overlap_disagreement,
)
from .surface import detail, view_disagreement

__all__ = [
    "chi_square",
    "crispness",
    "detail",
    "histogram_distance",
    "hsv_histogram",
    "intersection",
    "overlap_disagreement",
    "view_disagreement",
]
