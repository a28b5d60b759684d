"""Canonical spaces and their maps: ``project`` (canvas to views) and ``merge`` (views to canvas)."""

from .base import Canvas, Neighbours
from .illusion import IllusionCanvas
from .illusion_views import View
from .panorama import CAMERAS, POLES, PanoramaCanvas, ring
from .wide import WideCanvas

__all__ = [
    "CAMERAS",
    "POLES",
    "Canvas",
    "IllusionCanvas",
    "Neighbours",
    "PanoramaCanvas",
    "View",
    "WideCanvas",
    "ring",
]
