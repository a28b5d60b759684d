"""Random numbers hashed from positions, and smooth noise made of them.

A number depends on its seed and its coordinates alone, so a picture may grow to any width and what was there stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of floating numbers: float32 wherever a picture is concerned
Ints = NDArray[np.int64]


def _mix(h: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Avalanche of 32-bit words (xor-shift-multiply), wrapping silently because the operands are arrays."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))


def uniform(seed: int, *keys: Ints | int) -> Array:
    """Hash integer coordinates (any shapes that broadcast) to float32 in [0, 1), at least one-dimensional."""
    h = _mix(np.full(1, seed & 0xFFFFFFFF, np.uint32))
    for key in keys:
        word = (np.atleast_1d(np.asarray(key, np.int64)) & 0xFFFFFFFF).astype(np.uint32)
        h = _mix(h ^ (word * np.uint32(0x9E3779B1) + np.uint32(0x7F4A7C15)))
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for hashed numbers."""
    return int(rng.integers(2**31))


def smooth(t: Array) -> Array:
    """Cubic step of t, clamped to [0, 1]."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def noise1(x: Array, seed: int) -> Array:
    """Value noise in [0, 1], one lattice point per unit of x (any shape)."""
    cell = np.floor(x)
    i = cell.astype(np.int64)
    a, b = uniform(seed, i), uniform(seed, i + 1)
    return a + (b - a) * smooth(x - cell)


def fbm1(x: Array, seed: int, octaves: int = 3) -> Array:
    """Sum of octaves of `noise1`, each half as high and twice as fine, in [0, 1]."""
    total = np.zeros_like(x)
    for k in range(octaves):
        total += noise1(x * np.float32(2.0**k), seed + 101 * k) * np.float32(0.5**k)
    return total / np.float32(2.0 - 0.5 ** (octaves - 1))


def noise2(x: Array, y: Array, seed: int) -> Array:
    """Value noise in [0, 1] on the grid of columns x [W] and rows y [H]: [H, W]."""
    cx, cy = np.floor(x), np.floor(y)
    ix, iy = cx.astype(np.int64), cy.astype(np.int64)
    x0, y0 = int(ix.min()), int(iy.min())
    lattice = uniform(seed, np.arange(y0, int(iy.max()) + 2)[:, None], np.arange(x0, int(ix.max()) + 2)[None])
    fx, fy = smooth(x - cx), smooth(y - cy)[:, None]
    upper = lattice[iy - y0]
    rows = upper + (lattice[iy - y0 + 1] - upper) * fy
    left = rows[:, ix - x0]
    return left + (rows[:, ix - x0 + 1] - left) * fx


def fbm2(x: Array, y: Array, seed: int, octaves: int = 3) -> Array:
    """Sum of octaves of `noise2` in [0, 1]: [H, W]."""
    total = noise2(x, y, seed)
    for k in range(1, octaves):
        total += noise2(x * np.float32(2.0**k), y * np.float32(2.0**k), seed + 101 * k) * np.float32(0.5**k)
    return total / np.float32(2.0 - 0.5 ** (octaves - 1))
