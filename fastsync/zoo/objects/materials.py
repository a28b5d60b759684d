"""Materials as functions of the place on a surface: the same from every side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastsync.zoo.objects.noise import cell_value, cellular, fractal, smooth
from fastsync.zoo.scenes.noise import Array, draw_seed

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Place:
    """Points of a surface.

    Attributes:
        points: float32 [M, 3], in the unit sphere.
        uv: float32 [M, 2], along the surface and up, in the same unit.
        period: after how far u comes back to where it was; 0 if it does not.
    """

    points: Array
    uv: Array
    period: float


Painter = Callable[[Place, list[Array], np.random.Generator], Array]


@dataclass(frozen=True)
class Material:
    """A painter and the palettes it comes in: words of the caption and the colours."""

    words: tuple[str, ...]
    painter: Painter
    palettes: dict[str, tuple[Colour, ...]]


def paint(material: str, palette: str, place: Place, seed: int) -> Array:
    """Colours float32 [M, 3] in [0, 1] of a material at places."""
    kind = MATERIALS[material]
    rng = np.random.default_rng(seed)
    # No two bricks of the world have quite the same red.
    shift = rng.normal(0, 0.025, (1, 3))
    colours = [np.array(colour) / 255.0 + rng.normal(0, 0.015, 3) + shift[0] for colour in kind.palettes[palette]]
    return np.clip(kind.painter(place, [c.astype(np.float32) for c in colours], rng), 0, 1).astype(np.float32)


def _blend(a: Any, b: Any, part: Array) -> Array:
    mixed: Array = a + (b - a) * np.clip(part, 0, 1)[:, None]
    return mixed


def _step(x: Array, at: float, width: float) -> Array:
    """0 below ``at``, 1 above, over a width."""
    part = np.clip((x - at) / width + 0.5, 0, 1)
    result: Array = part * part * (3 - 2 * part)
    return result


def _pick(colours: list[Array], number: Array) -> Array:
    """One of the colours for each number in [0, 1)."""
    picked: Array = np.stack(colours)[np.minimum((number * len(colours)).astype(int), len(colours) - 1)]
    return picked


def _grain(place: Place, rng: np.random.Generator, scale: float, strength: float) -> Array:
    """Fine light and dark, a factor [M, 1] around 1."""
    factor: Array = 1 + strength * (fractal(place.points * np.float32(scale), draw_seed(rng), 3) - 0.5)[:, None]
    return factor


def _columns(place: Place, width: float, even: bool = False) -> float:
    """A width near this one that goes round a whole (even) number of times."""
    if not place.period:
        return width
    count = max(1, round(place.period / width / (1 + even))) * (1 + even)
    return place.period / count


def _bricks(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    height = rng.uniform(0.19, 0.26)
    width = _columns(place, 2.1 * height)
    u, v = place.uv[:, 0] / width, place.uv[:, 1] / height + rng.uniform()
    row = np.floor(v)
    u = u + 0.5 * (row % 2)
    column = np.floor(u)
    if place.period:
        column = column % round(place.period / width)
    cells = np.stack([row, column], 1).astype(np.int64)
    tone = cell_value(draw_seed(rng), cells)
    mortar, bricks = colours[0], colours[1:]
    colour = _pick(bricks, cell_value(draw_seed(rng), cells)) * (0.82 + 0.36 * tone)[:, None]
    edge = np.minimum(np.minimum(u % 1, 1 - u % 1) * width, np.minimum(v % 1, 1 - v % 1) * height)
    inside = _step(edge.astype(np.float32), 0.022, 0.014)
    return _blend(mortar[None], colour, inside) * _grain(place, rng, 14, 0.3)


def _tiles(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    side = _columns(place, rng.uniform(0.26, 0.36), even=True)
    u, v = place.uv[:, 0] / side, place.uv[:, 1] / side + 0.5
    which = (np.floor(u) + np.floor(v)) % 2
    edge = np.minimum(np.minimum(u % 1, 1 - u % 1), np.minimum(v % 1, 1 - v % 1)) * side
    colour = np.where(which[:, None] > 0, colours[1], colours[2])
    inside = _step(edge.astype(np.float32), 0.018, 0.014)
    return _blend(colours[0][None], colour, inside) * _grain(place, rng, 6, 0.12)


def _tartan(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    side = _columns(place, rng.uniform(0.42, 0.55))
    parts = []
    for axis in (0, 1):
        w = (place.uv[:, axis] / side) % 1
        broad = _step(w, 0.12, 0.05) * (1 - _step(w, 0.55, 0.05))
        thin = _step(w, 0.74, 0.03) * (1 - _step(w, 0.81, 0.03))
        parts.append((broad, thin))
    colour = np.broadcast_to(colours[0], (len(place.uv), 3))
    for broad, _ in parts:
        colour = _blend(colour, colours[1], 0.5 * broad)
    for _, thin in parts:
        colour = _blend(colour, colours[2], 0.8 * thin)
    return colour * _grain(place, rng, 24, 0.12)


def _stripes(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    width = rng.uniform(0.3, 0.42)
    wave = (place.points[:, 1] / width + rng.uniform()) % 1
    colour = np.where((wave < 0.5)[:, None], colours[0], colours[1])
    soft = np.minimum(np.abs(wave - 0.5), np.minimum(wave, 1 - wave)) * width
    mixed = (colours[0] + colours[1]) / 2
    return _blend(mixed[None], colour, _step(soft.astype(np.float32), 0.0, 0.02))


def _scales(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    width = _columns(place, rng.uniform(0.24, 0.32), even=True)
    height = 0.62 * width
    u, v = place.uv[:, 0] / width, place.uv[:, 1] / height
    best, tone = np.full(len(u), -9.0), np.zeros(len(u), np.float32)
    shade = np.zeros(len(u), np.float32)
    seed = draw_seed(rng)
    # A scale hangs over the two rows beneath it: the highest row whose scale reaches here is on top.
    for back in (0, 1, 2):
        row = np.floor(v) + back
        x = u - 0.5 * (row % 2)
        column = np.floor(x)
        dx, dy = (x % 1 - 0.5) * 2, (v - row) * height / width * 2
        reach = dx**2 + (dy * 0.72) ** 2
        inside = (reach < 1) & (best < -1)
        cell = column % round(place.period / width) if place.period else column
        tone = np.where(inside, cell_value(seed, np.stack([row, cell], 1).astype(np.int64)), tone)
        shade = np.where(inside, 1 - reach, shade).astype(np.float32)
        best = np.where(inside, 0.0, best)
    colour = _blend(colours[0][None], colours[1], 0.25 + 0.75 * tone)
    return _blend(colours[2][None], colour, 0.15 + 0.85 * _step(shade, 0.22, 0.45))


def _wood(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    p = place.points
    width = rng.uniform(0.32, 0.45)
    plank = np.floor((p[:, 0] + 0.6 * p[:, 2]) / width + rng.uniform())
    tone = cell_value(draw_seed(rng), plank[:, None].astype(np.int64))
    stretched = p * np.array([9, 1.2, 9], np.float32) + tone[:, None] * 40
    fibre = fractal(stretched.astype(np.float32), draw_seed(rng), 3)
    ring = 0.5 + 0.5 * np.sin(26 * (fibre + 0.35 * smooth((p * 2 + tone[:, None] * 9).astype(np.float32), 5)))
    colour = _blend(colours[0][None], colours[1], 0.65 * fibre + 0.35 * ring.astype(np.float32))
    return colour * (0.85 + 0.3 * tone)[:, None]


def _marble(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    scale = np.float32(rng.uniform(1.6, 2.2))
    bend = fractal(place.points * scale, draw_seed(rng), 5)
    second = fractal(place.points * scale * 1.7 + 9, draw_seed(rng), 4)
    vein = 1 - np.abs(2 * bend - 1)
    fine = 1 - np.abs(2 * second - 1)
    colour = _blend(colours[0][None], colours[1], 0.5 * fractal(place.points * scale, draw_seed(rng), 3))
    return _blend(colour, colours[2], 0.9 * _step(vein, 0.93, 0.16) + 0.35 * _step(fine, 0.93, 0.12))


def _camouflage(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    scale = np.float32(rng.uniform(2.0, 2.8))
    colour = np.broadcast_to(colours[0], (len(place.points), 3))
    for at, other in zip((0.52, 0.57, 0.63), colours[1:], strict=True):
        patch = fractal(place.points * scale * np.array([1, 1.5, 1], np.float32), draw_seed(rng), 3)
        colour = _blend(colour, other, _step(patch, at, 0.02))
    return colour


def _rust(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    seed = draw_seed(rng)
    patch = fractal(place.points * np.float32(2.0), seed, 5)
    tone = fractal(place.points * np.float32(7.0), draw_seed(rng), 3)
    rust = _blend(colours[1][None], colours[2], tone * 1.3 - 0.15)
    metal = colours[0] * _grain(place, rng, 4, 0.25)
    return _blend(metal, rust, _step(patch, rng.uniform(0.42, 0.52), 0.08)) * _grain(place, rng, 18, 0.25)


def _stones(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    scale = np.float32(rng.uniform(2.4, 3.2))
    first, second, number = cellular(place.points * scale, draw_seed(rng))
    colour = _pick(colours[1:], number) * (0.8 + 0.4 * ((number * 7.3) % 1))[:, None]
    colour = colour * (1.08 - 0.3 * first)[:, None] * _grain(place, rng, 10, 0.35)
    return _blend(colours[0][None], colour, _step(second - first, 0.09, 0.08))


def _cracks(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    bent = place.points + 0.12 * np.stack([smooth(place.points * 4, draw_seed(rng)) for _ in range(3)], 1)
    first, second, number = cellular(bent.astype(np.float32) * np.float32(rng.uniform(2.2, 3.0)), draw_seed(rng))
    gap = second - first
    colour = colours[0] * (0.8 + 0.4 * number)[:, None] * _grain(place, rng, 10, 0.5)
    colour = _blend(colour, colours[1], 1 - _step(gap, 0.1, 0.14))
    return _blend(colour, colours[2], 1 - _step(gap, 0.045, 0.06))


def _spots(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    bent = place.points + 0.1 * np.stack([smooth(place.points * 4, draw_seed(rng)) for _ in range(3)], 1)
    first, _, number = cellular(bent.astype(np.float32) * np.float32(rng.uniform(3.0, 3.8)), draw_seed(rng))
    radius = 0.34 + 0.1 * number
    ring = _step(radius - first, 0.0, 0.06) * (1 - 0.75 * _step(radius * 0.55 - first, 0.0, 0.06))
    return _blend(colours[0] * _grain(place, rng, 12, 0.15), colours[1], ring)


def _zebra(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    bend = fractal(place.points * np.float32(1.5), draw_seed(rng), 2)
    turn = rng.uniform(-0.5, 0.5)
    along = place.points[:, 1] + turn * place.points[:, 0]
    wave = np.sin(2 * np.pi * (along * rng.uniform(2.2, 2.8) + 2.2 * bend)).astype(np.float32)
    return _blend(colours[0][None], colours[1], _step(wave, 0.0, 0.3))


def _hammered(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    first, _, number = cellular(place.points * np.float32(rng.uniform(4.0, 5.0)), draw_seed(rng))
    colour = _blend(colours[0][None], colours[1], 0.25 + 1.1 * (first - 0.2))
    glow = fractal(place.points * np.float32(1.5), draw_seed(rng), 2)
    return _blend(colour, colours[2], 0.5 * glow) * (0.93 + 0.14 * number)[:, None]


def _moss(place: Place, colours: list[Array], rng: np.random.Generator) -> Array:
    tuft = fractal(place.points * np.float32(9.0), draw_seed(rng), 3)
    patch = fractal(place.points * np.float32(2.0), draw_seed(rng), 3)
    colour = _blend(colours[0][None], colours[1], 1.6 * tuft - 0.3)
    return _blend(colour, colours[2], 0.7 * _step(patch, 0.55, 0.15))


MATERIALS: dict[str, Material] = {
    "bricks": Material(
        ("bricks", "brick", "a brick wall", "old bricks"),
        _bricks,
        {
            "red": ((196, 186, 172), (164, 62, 42), (140, 48, 36), (182, 84, 58)),
            "brown": ((178, 164, 146), (112, 70, 44), (92, 56, 38), (132, 88, 58)),
            "white": ((158, 152, 146), (232, 228, 220), (218, 212, 204), (240, 238, 232)),
            "grey": ((206, 202, 196), (112, 114, 118), (92, 94, 100), (134, 134, 136)),
            "yellow": ((190, 178, 156), (218, 176, 92), (202, 156, 74), (228, 192, 116)),
        },
    ),
    "wood": Material(
        ("wood", "wooden planks", "polished wood", "planks of wood"),
        _wood,
        {
            "brown": ((98, 58, 28), (164, 108, 60)),
            "dark": ((52, 30, 20), (96, 60, 40)),
            "pale": ((196, 160, 112), (232, 206, 164)),
            "red": ((112, 36, 22), (172, 76, 48)),
        },
    ),
    "marble": Material(
        ("marble", "polished marble", "veined marble"),
        _marble,
        {
            "white": ((240, 238, 236), (222, 220, 220), (122, 124, 132)),
            "black": ((26, 26, 30), (48, 48, 54), (212, 196, 160)),
            "green": ((30, 82, 62), (52, 112, 84), (188, 214, 196)),
            "pink": ((232, 186, 178), (222, 164, 158), (154, 84, 84)),
        },
    ),
    "camouflage": Material(
        ("camouflage", "a camouflage pattern", "army camouflage"),
        _camouflage,
        {
            "green": ((92, 104, 56), (58, 72, 38), (106, 80, 52), (28, 32, 26)),
            "desert": ((204, 178, 134), (168, 132, 88), (134, 100, 68), (228, 210, 174)),
            "white": ((232, 234, 236), (178, 184, 190), (122, 130, 138), (206, 210, 214)),
            "blue": ((62, 92, 146), (32, 50, 96), (122, 152, 192), (20, 26, 46)),
        },
    ),
    "rust": Material(
        ("rusty metal", "rust", "rusty iron", "corroded metal"),
        _rust,
        {
            "grey": ((132, 136, 142), (152, 76, 32), (96, 46, 26)),
            "blue": ((64, 98, 136), (158, 82, 36), (104, 50, 28)),
            "green": ((78, 116, 92), (150, 78, 36), (94, 48, 26)),
            "red": ((158, 48, 42), (132, 76, 44), (78, 44, 30)),
        },
    ),
    "scales": Material(
        ("scales", "dragon scales", "fish scales", "reptile scales"),
        _scales,
        {
            "green": ((38, 112, 52), (112, 178, 72), (12, 42, 24)),
            "red": ((142, 24, 24), (222, 78, 42), (52, 8, 12)),
            "blue": ((24, 72, 148), (78, 158, 214), (8, 22, 58)),
            "golden": ((178, 122, 28), (242, 204, 92), (84, 50, 12)),
        },
    ),
    "stones": Material(
        ("stones", "stone", "a stone wall", "cobblestones"),
        _stones,
        {
            "grey": ((72, 70, 68), (142, 140, 138), (118, 118, 122), (164, 160, 154)),
            "brown": ((62, 50, 40), (150, 122, 92), (126, 100, 74), (172, 146, 114)),
            "mossy": ((52, 72, 34), (124, 130, 108), (98, 108, 84), (146, 146, 126)),
        },
    ),
    "tiles": Material(
        ("tiles", "ceramic tiles", "checkered tiles"),
        _tiles,
        {
            "blue": ((214, 216, 220), (36, 82, 158), (238, 240, 242)),
            "black": ((128, 128, 128), (30, 30, 32), (236, 234, 230)),
            "green": ((210, 208, 196), (42, 112, 82), (228, 222, 196)),
            "red": ((220, 210, 196), (178, 62, 42), (236, 214, 178)),
        },
    ),
    "tartan": Material(
        ("tartan", "plaid cloth", "plaid fabric", "woollen tartan"),
        _tartan,
        {
            "red": ((172, 26, 32), (18, 42, 72), (236, 206, 84)),
            "green": ((32, 92, 58), (16, 28, 56), (226, 226, 214)),
            "blue": ((38, 62, 132), (16, 22, 42), (214, 72, 62)),
            "yellow": ((224, 182, 58), (46, 42, 40), (186, 42, 36)),
        },
    ),
    "stripes": Material(
        ("stripes", "candy stripes", "striped paint"),
        _stripes,
        {
            "red": ((206, 34, 42), (244, 240, 236)),
            "blue": ((40, 86, 172), (242, 242, 240)),
            "yellow": ((244, 204, 52), (38, 36, 36)),
            "green": ((44, 142, 82), (242, 238, 222)),
        },
    ),
    "lava": Material(
        ("lava", "glowing lava", "cracked lava", "molten lava"),
        _cracks,
        {"red": ((42, 34, 34), (196, 42, 16), (255, 196, 62)), "blue": ((28, 34, 46), (24, 92, 186), (158, 228, 255))},
    ),
    "ice": Material(
        ("ice", "cracked ice", "frozen ice"),
        _cracks,
        {
            "blue": ((162, 208, 232), (206, 232, 244), (246, 252, 255)),
            "green": ((146, 206, 196), (196, 234, 224), (244, 255, 250)),
        },
    ),
    "leopard": Material(
        ("leopard fur", "leopard spots", "leopard skin"),
        _spots,
        {
            "yellow": ((218, 164, 84), (52, 32, 22)),
            "white": ((228, 226, 220), (46, 46, 52)),
            "pink": ((240, 148, 178), (72, 22, 52)),
        },
    ),
    "zebra": Material(
        ("zebra stripes", "zebra fur", "zebra skin"),
        _zebra,
        {"black": ((240, 238, 232), (28, 26, 28)), "orange": ((226, 132, 44), (36, 24, 18))},
    ),
    "metal": Material(
        ("hammered metal", "metal", "beaten metal"),
        _hammered,
        {
            "golden": ((148, 98, 24), (236, 190, 76), (255, 232, 150)),
            "silver": ((112, 116, 122), (202, 206, 212), (240, 242, 246)),
            "copper": ((118, 56, 32), (206, 118, 76), (246, 178, 132)),
        },
    ),
    "moss": Material(
        ("moss", "green moss", "grass", "moss and grass"),
        _moss,
        {
            "green": ((32, 62, 20), (116, 158, 52), (72, 112, 40)),
            "dry": ((112, 92, 42), (196, 170, 92), (146, 128, 62)),
            "flowery": ((42, 82, 32), (112, 162, 62), (226, 172, 206)),
        },
    ),
}  # fmt: skip
