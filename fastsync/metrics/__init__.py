"""Measures of what was sampled. Pictures are tensors `[..., 3, H, W]` in [0, 1]; measures are batched over `...`."""

from .coherence import (
    chi_square,
    crispness,
    histogram_distance,
    hsv_histogram,
    intersection,
    overlap_disagreement,
)

__all__ = [
    "chi_square",
    "crispness",
    "histogram_distance",
    "hsv_histogram",
    "intersection",
    "overlap_disagreement",
]
