"""Scores of clean views: what SyncVC maximises and SyncDiffusion descends."""

from .base import Reward
from .clip import Clip
from .overlap import Overlap
from .perceptual import Perceptual
from .style import Style
from .surface import SurfaceOverlap

__all__ = ["Clip", "Overlap", "Perceptual", "Reward", "Style", "SurfaceOverlap"]
