"""Meshes: loading, texture coordinates, cameras around them, and which point of the surface each pixel sees."""

from .cameras import CAMERAS, Camera, ring
from .depth import depth_maps
from .meshes import Mesh, load
from .sight import Sight, see
from .textured import TexturedMesh
from .unwrap import unwrap

__all__ = ["CAMERAS", "Camera", "Mesh", "Sight", "TexturedMesh", "depth_maps", "load", "ring", "see", "unwrap"]
