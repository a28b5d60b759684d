"""A painted object seen by a camera: its picture and its depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsync.geometry import Camera, Mesh, depth_maps, see
from fastsync.zoo.objects import shapes
from fastsync.zoo.objects.materials import MATERIALS, Place, paint
from fastsync.zoo.scenes.noise import draw_seed

_FINER = 2  # rays along a pixel's side
_AMBIENT = 0.78  # of the light from above that all of a surface gets


@dataclass(frozen=True)
class Thing:
    """Everything a picture depends on; degrees."""

    shape: str
    shape_seed: int
    material: str
    palette: str
    paint_seed: int
    azimuth: float
    elevation: float
    ground: tuple[float, float, float]  # colour behind it, [0, 1]

    @property
    def camera(self) -> Camera:
        return Camera(self.azimuth, self.elevation)


def sample_thing(rng: np.random.Generator) -> Thing:
    """A shape, a material and a camera, independent of one another."""
    material = str(rng.choice(list(MATERIALS)))
    ground = rng.uniform(0.1, 1.0) + 0.2 * rng.uniform(-1.0, 1.0, 3)
    ground = np.clip(ground, 0.0, 1.0)
    elevation = rng.uniform(-10, 40) if rng.random() < 0.85 else rng.uniform(-60, 85)
    return Thing(
        shape=str(rng.choice(list(shapes.SHAPES))),
        shape_seed=draw_seed(rng),
        material=material,
        palette=str(rng.choice(list(MATERIALS[material].palettes))),
        paint_seed=draw_seed(rng),
        azimuth=float(rng.uniform(0, 360)),
        elevation=float(elevation),
        ground=(float(ground[0]), float(ground[1]), float(ground[2])),
    )


def render(thing: Thing, size: int = 128) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture uint8 [size, size, 3] and its depth map uint8 [size, size]: near is 255, background 0."""
    mesh = shapes.make(thing.shape, thing.shape_seed)
    fine = size * _FINER
    sight = see(mesh, [thing.camera], (fine, fine))
    seen = sight.foreground[0].numpy()
    at, normal = sight.points[0].numpy()[seen], sight.normal[0].numpy()[seen]
    colour = np.tile(np.array(thing.ground, np.float32), (fine, fine, 1))
    painted = np.zeros((len(at), 3), np.float32)
    for chosen, place in _places(at, normal, shapes.SHAPES[thing.shape].round):
        painted[chosen] = paint(thing.material, thing.palette, place, thing.paint_seed)
    # Light from above, the same from wherever one looks: it belongs to the texture.
    up = _smooth_up(mesh, sight)[seen] if shapes.SHAPES[thing.shape].round else normal[:, 1]
    colour[seen] = painted * (_AMBIENT + (1 - _AMBIENT) * (0.5 + 0.5 * up))[:, None]
    picture = colour.reshape(size, _FINER, size, _FINER, 3).mean((1, 3))
    depth = depth_maps(see(mesh, [thing.camera], (size, size)))[0, 0].numpy()
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8), (depth * 255 + 0.5).astype(np.uint8)


def _smooth_up(mesh: Mesh, sight: Any) -> NDArray[np.float32]:
    """How much the surface looks up, [h, w], smooth across faces."""
    vertex = np.zeros((len(mesh.vertices), 3))
    for k in range(3):
        np.add.at(vertex, mesh.faces[:, k], mesh.crosses)
    vertex /= np.maximum(np.linalg.norm(vertex, axis=1, keepdims=True), 1e-12)
    face = sight.face[0].clamp_min(0).long().numpy()
    up = vertex[mesh.faces[face], 1]
    return (up * sight.barycentric[0].numpy()).sum(-1).astype(np.float32)


def _places(at: NDArray[Any], normal: NDArray[Any], round_: bool) -> list[tuple[NDArray[np.bool_], Place]]:
    """Surface coordinates: around the vertical axis and up, or along the side that a face belongs to."""
    level = np.abs(normal[:, 1]) > (0.88 if round_ else 0.75)
    parts = []
    if round_:
        turn = np.arctan2(at[:, 0], at[:, 2]).astype(np.float32)
        radius = 0.6
        parts.append((~level, np.stack([turn * radius, at[:, 1]], 1), 2 * np.pi * radius))
    else:
        across = np.abs(normal[:, 0]) > np.abs(normal[:, 2])
        parts.append((~level & across, np.stack([at[:, 2], at[:, 1]], 1), 0.0))
        parts.append((~level & ~across, np.stack([at[:, 0], at[:, 1]], 1), 0.0))
    parts.append((level, at[:, [0, 2]], 0.0))
    return [
        (chosen, Place(at[chosen].astype(np.float32), uv[chosen].astype(np.float32), period))
        for chosen, uv, period in parts
        if chosen.any()
    ]
