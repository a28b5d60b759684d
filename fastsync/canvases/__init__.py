"""Canonical spaces and their maps: ``project`` (canvas to views) and ``merge`` (views to canvas)."""

from .base import Canvas, Neighbours
from .wide import WideCanvas

__all__ = ["Canvas", "Neighbours", "WideCanvas"]
