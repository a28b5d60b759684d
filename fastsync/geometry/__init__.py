"""Meshes: loading, texture coordinates, cameras around them, and which point of the surface each pixel sees."""

from .cameras import CAMERAS, Camera, ring
from .meshes import Mesh, load
from .sight import Sight, see
from .unwrap import unwrap

__all__ = ["CAMERAS", "Camera", "Mesh", "Sight", "load", "ring", "see", "unwrap"]
