"""Canonical spaces and their maps: ``project`` (canvas to views) and ``merge`` (views to canvas)."""

from .base import Canvas, Neighbours
from .illusion import IllusionCanvas
from .illusion_views import View
from .wide import WideCanvas

__all__ = ["Canvas", "IllusionCanvas", "Neighbours", "View", "WideCanvas"]
