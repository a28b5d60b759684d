"""Things that stand in a landscape: conifers, round trees, houses, sails, towers."""

from __future__ import annotations

import numpy as np

from fastsync.zoo.scenes.frame import Colour, Frame, mix, rgb, slots
from fastsync.zoo.scenes.light import SNOW, Light
from fastsync.zoo.scenes.noise import Array, uniform

LAMP = rgb(1.0, 0.80, 0.42)


def foliage(season: str, rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Two leaf colours of a season."""
    choices = {
        "spring": ((0.52, 0.72, 0.30), (0.90, 0.68, 0.76)),
        "summer": ((0.18, 0.45, 0.20), (0.32, 0.56, 0.22)),
        "autumn": ((0.82, 0.42, 0.13), (0.86, 0.62, 0.18)),
        "winter": ((0.42, 0.38, 0.36), (0.52, 0.48, 0.46)),
    }[season]
    a, b = (np.clip(np.array(c, np.float32) * rng.uniform(0.92, 1.08), 0, 1).astype(np.float32) for c in choices)
    return a, b


def paint_conifers(
    frame: Frame, light: Light, colour: Colour, depth: float, size: float, height: float, base: Array, seed: int
) -> None:
    """Firs standing on base ([W], units), one in every size units, with a lit (perhaps snowy) and a shaded side."""
    band = frame.band(float(base.min()) - height - 2, float(base.max()) + 4)
    # Snow lies on the lit side only: on every bough it would be stripes, which no small prior can draw.
    bright, dark = (
        light.shade(light.ground(colour, share), depth, lit)[:, None, None]
        for share, lit in ((0.75, 0.8), (0.15, 0.15))
    )
    for slot in slots(
        band.x, size, seed
    ):  # in the order of their index, so the right one covers the left one everywhere
        tall = height * (0.62 + 0.38 * slot.random(1))
        down = (band.y - (base + 2.0 - tall)) / tall  # 0 at the tip, 1 at the foot
        offset = band.x - slot.centre
        tier = (down - 0.10 * np.abs(offset) / size) * 4.0  # boughs droop outwards
        tier = tier - np.floor(tier)
        tooth = np.minimum(tier, (1.0 - tier) * 5.0)
        half = size * (0.62 + 0.2 * slot.random(2)) * (0.72 * down + 0.34 * tooth * np.sqrt(np.clip(down, 0, 1)))
        cover = band.soft(half - np.abs(offset)) * (down > 0.0) * (down < 1.02)
        tree = dark + (bright - dark) * band.soft(offset * np.float32(light.side), 1.0)
        band.paint(tree, cover)


def paint_crowns(
    frame: Frame, light: Light, colours: tuple[Colour, Colour], depth: float, size: float, radius: float, base: Array,
    seed: int, share: float = 1.0,
) -> None:  # fmt: skip
    """Round trees on base ([W], units), lit from above, in two colours; share: how many of the places are taken."""
    band = frame.band(float(base.min()) - 3 * radius, float(base.max()) + 2)
    bark = light.shade(rgb(0.30, 0.22, 0.18), depth, 0.3)
    dark, first, second = (
        light.shade(light.ground(c, 0.35), depth, lit)[:, None, None]
        for c, lit in ((colours[0], 0.1), (colours[0], 0.95), (colours[1], 0.95))
    )
    for slot in slots(band.x, size, seed):
        here = slot.random(5) < share
        r = radius * (0.7 + 0.3 * slot.random(1))
        middle = base - r * (1.15 + 0.5 * slot.random(2))
        offset = band.x - slot.centre
        stem = band.soft(0.16 * r - np.abs(offset)) * band.soft(band.y - middle) * band.soft(base + 1.0 - band.y) * here
        band.paint(bark, stem)
        dx, dy = offset / r, (band.y - middle) / (r * np.float32(1.12))
        p, q = 6.0 * slot.random(3), 6.0 * slot.random(4)
        bumps = 0.07 * np.sin(4.0 * dx + p) * np.cos(4.0 * dy + q) + 0.05 * np.sin(9.0 * dx + q) * np.sin(8.0 * dy + p)
        cover = band.soft(((1.0 + bumps - np.sqrt(dx * dx + dy * dy)) * r).astype(np.float32)) * here
        top = np.where(slot.random(6) < 0.35, second, first)
        tone = band.soft((0.1 - dy + 0.3 * light.side * dx) * np.float32(1.2))
        band.paint(dark + (top - dark) * tone, cover)


def paint_houses(frame: Frame, light: Light, depth: float, base: Array, size: float, unit: float, seed: int) -> None:
    """Sparse small houses with gabled roofs; windows glow when lamps are lit."""
    band = frame.band(float(base.min()) - 3 * unit, float(base.max()) + 4)
    for slot in slots(band.x, size, seed, 0.5, 0):
        here = (slot.random(1) < 0.55).astype(np.float32)
        offset = np.abs(band.x - slot.centre)
        foot = base + 1.0
        wall = band.soft(unit - offset) * band.soft(band.y - (foot - 1.3 * unit)) * band.soft(foot - band.y) * here
        rise = foot - 1.3 * unit - band.y
        roof = band.soft(1.25 * unit - offset - rise * 1.1) * band.soft(rise) * here
        band.paint(light.shade(rgb(0.95, 0.90, 0.82), depth, 0.75), wall)
        band.paint(light.shade(mix(rgb(0.72, 0.27, 0.20), SNOW, 0.55 * light.snow), depth, 0.6), roof)
        if light.lamps > 0.1:
            pane = np.abs(offset - 0.45 * unit)
            window = band.soft(0.24 * unit - pane) * band.soft(0.36 * unit - np.abs(band.y - foot + 0.62 * unit)) * here
            band.paint(LAMP, window * np.float32(0.9))


def paint_sails(frame: Frame, light: Light, horizon: float, seed: int, lateen: float) -> None:
    """A rare boat: hull and two sails."""
    band = frame.band(horizon - 16, horizon + 24)
    for slot in slots(band.x, 150.0, seed, 0.6, 0):
        here = (slot.random(1) < 0.5).astype(np.float32)
        size = 5.0 + 5.0 * slot.random(2)
        water = horizon + 3.0 + 9.0 * slot.random(3)
        dx, up = (band.x - slot.centre) / size, (water - band.y) / size
        hull = (
            band.soft((0.9 - np.abs(dx) - 0.5 * (0.28 - up)) * size)
            * band.soft(up * size)
            * band.soft((0.28 - up) * size)
        )
        main = (
            band.soft((dx + 0.02) * size)
            * band.soft((0.75 - dx - 0.42 * (up - 0.38)) * size)
            * band.soft((up - 0.38) * size)
        )
        jib = (
            band.soft((-0.08 - dx) * size)
            * band.soft((0.62 + dx - 0.42 * (up - 0.38)) * size)
            * band.soft((up - 0.38) * size)
        )
        band.paint(light.shade(rgb(0.36, 0.22, 0.18), 0.25, 0.3), hull * here)
        band.paint(light.shade(rgb(1.0, 0.97, 0.92), 0.2, 0.9), main * here)
        band.paint(light.shade(rgb(0.95, 0.86, 0.78) * lateen, 0.2, 0.5), jib * here)


def paint_towers(
    frame: Frame,
    light: Light,
    colours: tuple[Colour, ...],
    depth: float,
    size: float,
    base: float,
    low: float,
    high: float,
    seed: int,
    pane: tuple[float, float, float],
) -> None:
    """A row of buildings, wall to wall, with a grid of windows.

    size: mean width; low, high: their heights; pane: opacity of the windows, their width and height in units.
    """
    band = frame.band(base - high - 12, base + 1)
    # Walls meet at jittered multiples of size, so a building knows both its edges from its index alone.
    home = np.floor(band.x / np.float32(size)).astype(np.int64)
    edge = (home + 0.36 * (uniform(seed, home) - 0.5)) * size
    index = np.where(band.x < edge, home - 1, home)
    nxt = (home + 1 + 0.36 * (uniform(seed, home + 1) - 0.5)) * size
    index = np.where(band.x >= nxt, home + 1, index)
    left = ((index + 0.36 * (uniform(seed, index) - 0.5)) * size).astype(np.float32)
    right = ((index + 1 + 0.36 * (uniform(seed, index + 1) - 0.5)) * size).astype(np.float32)
    tall = (low + (high - low) * uniform(seed + 1, index) ** 1.5).astype(np.float32)
    kind = uniform(seed + 2, index)
    middle, half = (left + right) / 2, (right - left) / 2
    away = np.abs(band.x - middle)
    eaves = base - tall
    top = np.where((kind > 0.62) & (away > half * 0.62), eaves + 0.12 * tall, eaves)  # shoulders
    top = np.where((kind < 0.16) & (tall > 0.5 * high), top - np.clip(half - away, 0, half) * 0.9, top)  # pitched roof
    mast = np.where((kind > 0.86) & (away < 0.8), 9.0, 0.0)
    alpha = band.soft(band.y - (top - mast))
    which = (uniform(seed + 3, index) * len(colours)).astype(np.int64)
    wall = np.stack([light.shade(c, depth, 0.6) for c in colours], 1)[:, which]
    shady = np.stack([light.shade(c, depth, 0.15) for c in colours], 1)[:, which]
    dark_side = (band.x - middle) * np.float32(light.side) < -0.25 * half
    face = np.where(dark_side, shady, wall)[:, None, :]
    band.paint(face, alpha)
    if light.snow > 0.1:
        band.paint(light.shade(SNOW, depth, 0.7), alpha * band.soft(top + 2.2 - band.y) * np.float32(light.snow))
    opacity, wide, high_pane = pane
    if opacity <= 0:
        return
    pitch_x, pitch_y = wide + 2.2, high_pane + 2.6
    inner = right - left - 2.4
    count = np.maximum(np.floor(inner / pitch_x), 1)
    u = (band.x - middle) / pitch_x + count / 2
    v = (band.y - eaves - 3.0) / pitch_y
    col, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    inside = (col >= 0) & (col < count) & (row >= 0) & (band.y < base - 1.5)
    inside &= np.where(kind > 0.62, away < half * 0.62, True)
    shape = band.soft(wide / 2 - np.abs(u - col - 0.5) * pitch_x) * band.soft(
        high_pane / 2 - np.abs(v - row - 0.5) * pitch_y
    )
    on = uniform(seed + 4, index[None], row, col) < light.lamps
    glass = light.shade(rgb(0.32, 0.44, 0.58), depth, 0.4)
    shape = (shape * inside).astype(np.float32)
    band.paint(glass, shape * np.float32(opacity) * ~on)
    band.paint(mix(LAMP, light.haze, 0.45 * depth), shape * on)
