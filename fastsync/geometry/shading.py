"""How light falls on a mesh: normals that are smooth where the surface is."""

from __future__ import annotations

import math

import numpy as np

from .meshes import Mesh

CREASE = 40.0  # degrees from the mean normal at which an edge is one
LIGHT = (-0.4, 0.6, 0.7)  # from where it comes: the picture's right, its top, and towards the camera
SHADE = 0.55  # of the colours that are left where it does not fall: less would hide the texture


def corner_normals(mesh: Mesh) -> np.ndarray:
    """float64 [F, 3, 3], unit normals of the faces' corners: the mean around a corner, or the face's own on creases.

    Corners at one place are one, whatever their vertices. 0 for degenerate faces on creases.
    """
    place = np.unique(mesh.vertices, axis=0, return_inverse=True)[1].reshape(-1)[mesh.faces]
    total = np.stack(
        [np.bincount(place.ravel(), np.repeat(mesh.crosses[:, k], 3), place.max() + 1) for k in range(3)], 1
    )
    mean = total / np.maximum(np.linalg.norm(total, axis=1), np.finfo(np.float64).tiny)[:, None]
    own = np.broadcast_to(mesh.normals[:, None], (*mesh.faces.shape, 3))
    smooth = np.einsum("fkd,fkd->fk", mean[place], own) > math.cos(math.radians(CREASE))
    normals: np.ndarray = np.where(smooth[..., None], mean[place], own)
    return normals
