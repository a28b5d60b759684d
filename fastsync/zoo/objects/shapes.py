"""Shapes to be painted: primitives, lathed and bent ones, small buildings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastsync.geometry import Mesh
from fastsync.geometry.meshes import need
from fastsync.zoo.objects.noise import fractal
from fastsync.zoo.scenes.noise import draw_seed

Solid = tuple[Any, Any]  # vertices [V, 3] and faces [F, 3]


@dataclass(frozen=True)
class Shape:
    """What captions call it, how it is made, and whether it is round about the vertical axis."""

    words: tuple[str, ...]
    maker: Callable[[np.random.Generator], Solid]
    round: bool


def make(name: str, seed: int) -> Mesh:
    """A shape, another one for each seed."""
    vertices, faces = SHAPES[name].maker(np.random.default_rng(seed))
    return Mesh(np.asarray(vertices, np.float64), np.asarray(faces, np.int64))


def _of(mesh: Any) -> Solid:
    return np.array(mesh.vertices), np.array(mesh.faces)


def _joined(*parts: Solid) -> Solid:
    first = np.cumsum([0] + [len(vertices) for vertices, _ in parts[:-1]])
    faces = [part[1] + start for part, start in zip(parts, first, strict=True)]
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces)


def _box(size: Any, at: Any = (0, 0, 0)) -> Solid:
    vertices, faces = _of(need("trimesh").creation.box(extents=size))
    return vertices + np.array(at), faces


def _lathed(radius: Any, height: Any, sections: int = 48) -> Solid:
    """The profile (radius, height) [K] turned about the vertical axis."""
    angle = np.linspace(0, 2 * np.pi, sections, endpoint=False)
    radius, height = np.asarray(radius), np.asarray(height)
    ring = np.stack([np.sin(angle), np.zeros(sections), np.cos(angle)], 1)
    vertices = (radius[:, None, None] * ring + height[:, None, None] * np.array([0, 1, 0])).reshape(-1, 3)
    k, s = np.meshgrid(np.arange(len(radius) - 1), np.arange(sections), indexing="ij")
    t = (s + 1) % sections
    a, b, c, d = k * sections + s, k * sections + t, (k + 1) * sections + t, (k + 1) * sections + s
    return vertices, np.concatenate([np.stack(q, -1).reshape(-1, 3) for q in ((a, b, c), (a, c, d))])


def _sphere(rng: np.random.Generator) -> Solid:
    vertices, faces = _of(need("trimesh").creation.icosphere(subdivisions=4))
    return vertices * rng.uniform(0.75, 1.0, 3), faces


def _cube(rng: np.random.Generator) -> Solid:
    return _box(rng.uniform(0.7, 1.1, 3))


def _cylinder(rng: np.random.Generator) -> Solid:
    return _of_profile([0, 1, 1, 0], [0, 0, 1, 1], rng.uniform(1.2, 2.6))


def _of_profile(radius: Any, height: Any, tall: float) -> Solid:
    return _lathed(np.array(radius, float), np.array(height, float) * tall)


def _cone(rng: np.random.Generator) -> Solid:
    top = rng.uniform(0.0, 0.5)
    return _of_profile([0, 1, top, 0], [0, 0, 1, 1], rng.uniform(1.2, 2.4))


def _torus(rng: np.random.Generator) -> Solid:
    thick = rng.uniform(0.28, 0.48)
    turn = np.linspace(0, 2 * np.pi, 33)
    # Downward on the outside: faces look outward.
    vertices, faces = _lathed(1 + thick * np.cos(turn), thick * np.sin(turn))
    if rng.random() < 0.6:
        vertices = vertices[:, [0, 2, 1]] * np.array([1, 1, -1])
    return vertices, faces


def _capsule(rng: np.random.Generator) -> Solid:
    turn = np.linspace(-np.pi / 2, np.pi / 2, 40)
    return _lathed(np.cos(turn), np.sin(turn) + rng.uniform(0.3, 0.9) * np.sign(turn))


def _vase(rng: np.random.Generator) -> Solid:
    height = np.linspace(0, 1, 40)
    bulge, where, neck = rng.uniform(0.35, 0.6), rng.uniform(0.25, 0.6), rng.uniform(0.1, 0.28)
    radius = neck + 0.1 * (1 - height) + bulge * np.exp(-(((height - where) / 0.22) ** 2))
    radius += 0.18 * np.exp(-(((height - 1) / 0.08) ** 2))
    radius = np.concatenate([[0], radius, radius[::-1] * 0.9, [0]])  # outside up, inside down
    height = np.concatenate([[0], height, height[::-1], [0.05]])
    return _of_profile(radius, height, rng.uniform(1.2, 1.8))


def _mushroom(rng: np.random.Generator) -> Solid:
    stem, cap = rng.uniform(0.22, 0.36), rng.uniform(0.5, 0.8)
    turn = np.linspace(0, np.pi / 2, 24)
    radius = np.concatenate([[0, stem * 1.2, stem, stem, 1.0], np.cos(turn)])
    height = np.concatenate([[0, 0, 0.4, 0.9, 0.86], 0.9 + cap * np.sin(turn)])
    return _lathed(radius, height)


def _pawn(rng: np.random.Generator) -> Solid:
    turn = np.linspace(-0.9, np.pi / 2, 24)
    head = rng.uniform(0.3, 0.4)
    radius = np.concatenate([[0, 0.7, 0.7, 0.5, 0.22, 0.4], head * np.cos(turn)])
    height = np.concatenate([[0, 0, 0.18, 0.3, 1.1, 1.15], 1.2 + head * (0.78 + np.sin(turn))])
    return _lathed(radius, height)


def _blob(rng: np.random.Generator) -> Solid:
    vertices, faces = _of(need("trimesh").creation.icosphere(subdivisions=5))
    swell = fractal((vertices * rng.uniform(1.0, 1.7) + 10).astype(np.float32), draw_seed(rng), 3)
    return vertices * (0.55 + 0.9 * swell)[:, None] * rng.uniform(0.8, 1.2, 3), faces


def _pile(rng: np.random.Generator) -> Solid:
    balls = []
    for _ in range(int(rng.integers(3, 6))):
        vertices, faces = _of(need("trimesh").creation.icosphere(subdivisions=3))
        balls.append((vertices * rng.uniform(0.35, 0.7) + rng.uniform(-0.6, 0.6, 3), faces))
    return _joined(*balls)


def _knot(rng: np.random.Generator) -> Solid:
    t = np.linspace(0, 2 * np.pi, 161)[:-1]
    p, q = (2, 3) if rng.random() < 0.6 else (3, 2)
    ring = 1 + 0.42 * np.cos(q * t)
    middle = np.stack([ring * np.cos(p * t), ring * np.sin(p * t), 0.42 * np.sin(q * t)], 1)
    along = np.roll(middle, -1, 0) - np.roll(middle, 1, 0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along, middle * [1, 1, 0])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, along)
    turn = np.linspace(0, 2 * np.pi, 17)[:-1]
    around = np.cos(turn)[None, :, None] * side[:, None] + np.sin(turn)[None, :, None] * up[:, None]
    tube = rng.uniform(0.22, 0.3) * around
    vertices = (middle[:, None] + tube).reshape(-1, 3)
    k, s = np.meshgrid(np.arange(160), np.arange(16), indexing="ij")
    n, m = (k + 1) % 160, (s + 1) % 16
    a, b, c, d = k * 16 + s, k * 16 + m, n * 16 + m, n * 16 + s
    return vertices, np.concatenate([np.stack(f, -1).reshape(-1, 3) for f in ((a, c, b), (a, d, c))])


def _house(rng: np.random.Generator) -> Solid:
    w, h, d, roof = rng.uniform(0.9, 1.4), rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.2), rng.uniform(0.35, 0.6)
    ridge = np.array([[-w, 0, d], [w, 0, d], [w, 0, -d], [-w, 0, -d], [-w, 2 * roof, 0], [w, 2 * roof, 0]]) / 2 * 1.12
    faces = np.array([[0, 1, 5], [0, 5, 4], [2, 3, 4], [2, 4, 5], [1, 2, 5], [3, 0, 4], [0, 3, 2], [0, 2, 1]])
    parts = [_box((w, h, d)), (ridge + np.array([0, h / 2, 0]), faces)]
    if rng.random() < 0.5:
        parts.append(_box((0.16, 0.5, 0.16), (0.25 * w, h / 2 + 0.35, 0.12 * d)))
    return _joined(*parts)


def _table(rng: np.random.Generator) -> Solid:
    w, d, h, leg = rng.uniform(1.2, 1.8), rng.uniform(0.8, 1.3), rng.uniform(0.6, 1.0), rng.uniform(0.1, 0.2)
    legs = [_box((leg, h, leg), (x * (w - leg) / 2, -h / 2, z * (d - leg) / 2)) for x in (-1, 1) for z in (-1, 1)]
    parts = [_box((w, 0.16, d), (0, 0.04, 0)), *legs]
    if rng.random() < 0.4:  # a chair's back
        parts.append(_box((w, 0.9, 0.14), (0, 0.5, -d / 2 + 0.07)))
    return _joined(*parts)


def _stairs(rng: np.random.Generator) -> Solid:
    count, deep = int(rng.integers(3, 6)), rng.uniform(0.8, 1.4)
    steps = [_box((0.4, 0.3 * (k + 1), deep), (0.4 * k, 0.15 * (k + 1), 0)) for k in range(count)]
    return _joined(*steps)


def _castle(rng: np.random.Generator) -> Solid:
    tall = rng.uniform(1.3, 2.0)
    tower = _lathed(np.array([0, 0.55, 0.5, 0.6, 0.6, 0]), np.array([0, 0, 0.8, 0.85, 1, 1]) * tall)
    roof = _lathed(np.array([0, 0.72, 0.0]), np.array([0, 0, 0.8]) + tall)
    parts = [tower, roof]
    if rng.random() < 0.6:
        parts.append(_box((0.9, 0.75, 0.8), (0.75, 0.375, 0)))
    return _joined(*parts)


def _letter(rng: np.random.Generator) -> Solid:
    deep = rng.uniform(0.3, 0.6)
    parts = [_box((0.35, 1.6, deep)), _box((0.7, 0.32, deep), (0.4, -0.64, 0))]
    if rng.random() < 0.6:
        parts.append(_box((0.7, 0.32, deep), (0.4, 0.64, 0)))
    return _joined(*parts)


def _pyramid(rng: np.random.Generator) -> Solid:
    base, tall = rng.uniform(0.8, 1.1), rng.uniform(1.0, 1.6)
    corners = np.array([[-1, 0, 1], [1, 0, 1], [1, 0, -1], [-1, 0, -1], [0, 0, 0]], float) * base
    corners[4, 1] = tall
    return corners, np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4], [0, 3, 2], [0, 2, 1]])


SHAPES: dict[str, Shape] = {
    "sphere": Shape(("a sphere", "a ball"), _sphere, True),
    "cube": Shape(("a cube", "a box"), _cube, False),
    "cylinder": Shape(("a cylinder", "a column"), _cylinder, True),
    "cone": Shape(("a cone",), _cone, True),
    "torus": Shape(("a torus", "a ring"), _torus, True),
    "capsule": Shape(("a capsule",), _capsule, True),
    "vase": Shape(("a vase", "a pot"), _vase, True),
    "mushroom": Shape(("a mushroom",), _mushroom, True),
    "pawn": Shape(("a pawn", "a chess piece"), _pawn, True),
    "blob": Shape(("a rock", "a blob", "an animal"), _blob, True),
    "pile": Shape(("a heap of balls",), _pile, True),
    "knot": Shape(("a knot",), _knot, True),
    "house": Shape(("a house", "a building"), _house, False),
    "table": Shape(("a table", "a chair"), _table, False),
    "stairs": Shape(("stairs",), _stairs, False),
    "castle": Shape(("a castle", "a tower"), _castle, True),
    "letter": Shape(("a letter",), _letter, False),
    "pyramid": Shape(("a pyramid",), _pyramid, False),
}
