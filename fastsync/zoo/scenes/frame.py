"""The picture being painted: anti-aliased layers on planar float colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fastsync.zoo.scenes.noise import Array, Ints, uniform

Colour = Array  # [3], red green blue in [0, 1]


def rgb(red: float, green: float, blue: float) -> Colour:
    """A colour [3] float32."""
    return np.array([red, green, blue], np.float32)


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """The colour a fraction t of the way from a to b."""
    return (a + (b - a) * np.float32(t)).astype(np.float32)


@dataclass(frozen=True)
class Frame:
    """A band of the picture. Coordinates are in design units: the whole picture is 128 units high.

    img [3, H, W] float32 in [0, 1]; x [W] and y [H, 1] pixel centres; fine [4, W] four sub-columns of every pixel;
    scale is pixels per unit.
    """

    img: Array
    x: Array
    fine: Array
    y: Array
    scale: float

    @staticmethod
    def blank(width: int, height: int) -> Frame:
        """A black picture of width x height pixels."""
        scale = height / 128.0
        x = ((np.arange(width) + 0.5) / scale).astype(np.float32)
        y = ((np.arange(height) + 0.5) / scale).astype(np.float32)[:, None]
        offsets = np.array([-0.375, -0.125, 0.125, 0.375], np.float32)[:, None] / np.float32(scale)
        return Frame(np.zeros((3, height, width), np.float32), x, x + offsets, y, scale)

    def band(self, top: float, bottom: float = 128.0) -> Frame:
        """The rows from top to bottom (units), sharing this frame's pixels; at least one row."""
        rows = self.y.shape[0]
        first = min(max(int((top - float(self.y[0, 0])) * self.scale), 0), rows - 1)
        last = min(max(int((bottom - float(self.y[0, 0])) * self.scale) + 2, first + 1), rows)
        return Frame(self.img[:, first:last], self.x, self.fine, self.y[first:last], self.scale)

    def soft(self, distance: Array, blur: float = 0.0) -> Array:
        """Coverage in [0, 1] from a signed distance in units (positive inside), edge widened by blur units."""
        return np.clip(distance * np.float32(self.scale / (1.0 + blur * self.scale)) + np.float32(0.5), 0.0, 1.0)

    def below(self, ridge: Array) -> Array:
        """Coverage [H, W] of what lies under a ridge line given at the sub-columns [4, W] (exact for steep lines)."""
        total = self.soft(self.y - ridge[0])
        for row in ridge[1:]:
            total += self.soft(self.y - row)
        return total * np.float32(0.25)

    def paint(self, colour: Array, alpha: Array | float) -> None:
        """Lay a colour ([3] or [3, H, W]) over the picture with opacity alpha (broadcasts to [H, W])."""
        for channel, value in zip(self.img, colour, strict=True):
            channel += (value - channel) * alpha

    def add(self, colour: Colour, alpha: Array) -> None:
        """Screen light of a colour onto the picture (never overflows)."""
        for channel, value in zip(self.img, colour, strict=True):
            channel += (np.float32(1.0) - channel) * (alpha * value)


@dataclass(frozen=True)
class Slot:
    """One of the objects near every column: its index, its centre in units, and hashed numbers on demand."""

    index: Ints
    centre: Array
    seed: int

    def random(self, channel: int) -> Array:
        """Hashed numbers in [0, 1), the same wherever this object is seen."""
        return uniform(self.seed + channel, self.index)


def slots(x: Array, size: float, seed: int, jitter: float = 0.7, reach: int = 1) -> Iterator[Slot]:
    """The objects, one in every `size` units, whose cells lie at most `reach` from each column of x (any shape)."""
    home = np.floor(x / np.float32(size)).astype(np.int64)
    for k in range(-reach, reach + 1):
        index = home + k
        centre = (index + 0.5 + jitter * (uniform(seed, index) - 0.5)) * size
        yield Slot(index, centre.astype(np.float32), seed + 7)
