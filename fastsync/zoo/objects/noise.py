"""Noise in space: smooth, and in cells."""

from __future__ import annotations

import itertools

import numpy as np

from fastsync.zoo.scenes.noise import Array, Ints, uniform


def cell_value(seed: int, cells: Ints) -> Array:
    """A number in [0, 1) for each row of whole numbers [M, D], the same for the same row: float32 [M]."""
    return uniform(seed, *cells.T)


def smooth(points: Array, seed: int) -> Array:
    """Value noise [M] in [0, 1] at points [M, 3], whose features are about as large as 1."""
    base = np.floor(points).astype(np.int64)
    part = (points - base).astype(np.float32)
    part = part * part * (3 - 2 * part)
    total = np.zeros(len(points), np.float32)
    for corner in itertools.product((0, 1), repeat=3):
        x, y, z = (part[:, axis] if corner[axis] else 1 - part[:, axis] for axis in range(3))
        total += x * y * z * cell_value(seed, base + np.array(corner))
    return total


def fractal(points: Array, seed: int, octaves: int = 4) -> Array:
    """Sums of ever finer smooth noise, [M] in [0, 1] around 0.5."""
    total, scale = np.zeros(len(points), np.float32), 0.5
    for octave in range(octaves):
        total += scale * (smooth(points * np.float32(2**octave) + np.float32(17.3 * octave), seed + octave) - 0.5)
        scale *= 0.5
    return np.clip(0.5 + 1.4 * total, 0, 1)


def cellular(points: Array, seed: int) -> tuple[Array, Array, Array]:
    """Cells around scattered centres: distances [M] to the nearest and the second nearest, and a number of the cell."""
    base = np.floor(points).astype(np.int64)
    first, second = np.full(len(points), 9.0, np.float32), np.full(len(points), 9.0, np.float32)
    number = np.zeros(len(points), np.float32)
    for offset in itertools.product((-1, 0, 1), repeat=points.shape[1]):
        cell = base + np.array(offset)
        centre = cell + np.stack([cell_value(seed + 31 * axis, cell) for axis in range(points.shape[1])], 1)
        distance = np.linalg.norm(points - centre, axis=1).astype(np.float32)
        nearer = distance < first
        second = np.where(nearer, first, np.minimum(second, distance))
        number = np.where(nearer, cell_value(seed + 101, cell), number)
        first = np.where(nearer, distance, first)
    return first, second, number
