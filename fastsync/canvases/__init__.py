"""Canonical spaces and their maps: ``project`` (canvas to views) and ``merge`` (views to canvas)."""

from .base import Canvas, LinearCanvas, Neighbours
from .illusion import IllusionCanvas
from .illusion_views import View
from .mask import MaskCanvas
from .mesh import MeshCanvas
from .panorama import CAMERAS, POLES, TILES, PanoramaCanvas, ring
from .surfaces import Camera
from .wide import WideCanvas

__all__ = [
    "CAMERAS",
    "POLES",
    "TILES",
    "Camera",
    "Canvas",
    "IllusionCanvas",
    "LinearCanvas",
    "MaskCanvas",
    "MeshCanvas",
    "Neighbours",
    "PanoramaCanvas",
    "View",
    "WideCanvas",
    "ring",
]
